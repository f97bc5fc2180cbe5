"""A column of texts labelled by the Batch API, and what must hold of its frame and of the bill."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from fakes.openai_server import FakeOpenAI

from pandas_llm import Batches

LABELS = ["bug", "question", "praise"]
QUICK = Batches(poll=(0.01, 0.05))
TEXTS = [f"{LABELS[i % 3]} {i:04}" for i in range(24)]


def batch(texts: Sequence[str] = TEXTS, batches: Batches = QUICK, **options: Any) -> pd.DataFrame:
    """The frame that one call by the Batch API gives."""
    frame: Any = pd.DataFrame({"t": texts})
    options = {"progress": False, **options}
    return frame.llm.classify("t", LABELS, mode="batch", batches=batches, **options)


def sources(out: pd.DataFrame) -> Counter[str]:
    """Rows by where their answer came from."""
    return Counter(out["t_label_source"])


def check(server: FakeOpenAI, out: pd.DataFrame) -> None:
    """Every row has the answer to its own text and was paid once."""
    bill = server.bill
    assert out["t_label"].tolist() == [text.split()[0] for text in out["t"]]
    assert bill.texts == dict.fromkeys(set(out["t"]), 1)
    assert set(bill.batch_rows.values()) == {1}


def in_thread(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread with the outcome of `act` in a list."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(act())
        except Exception as error:  # noqa: BLE001 - told to who joins the thread
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, outcome


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
