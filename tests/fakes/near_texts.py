"""Texts that come several times, nearly alike, and a model that knows what each of them deserves."""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fakes import replies
from fakes.openai_server import FakeOpenAI

import pandas_llm

LABELS = ["bug", "question", "praise"]
WAYS: Sequence[Callable[[str], str]] = (
    lambda text: text,
    lambda text: f"Hi, {text}",
    lambda text: f"  {text}",
    lambda text: f"{text} Thanks!",
    lambda text: f"Hello, {text}",
)
"""How one text is written; the guards let the first have all others take its answer."""


def bases(count: int, first: int = 0) -> list[str]:
    """Distinct real texts, of eight words or more so that a greeting leaves them near."""
    data = Path(pandas_llm.__file__).parent / "data" / "banking77.csv"
    with data.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return [text for text in texts if len(text.split()) >= 8 and base_of(text) == text][first : first + count]


def tickets(count: int, ways: int = len(WAYS), first: int = 0) -> pd.DataFrame:
    """A frame of each text written in so many ways, copies apart from each other."""
    return pd.DataFrame({"body": [way(text) for way in WAYS[:ways] for text in bases(count, first)]})


def base_of(text: str) -> str:
    """The text without what a way of writing put to it."""
    return text.strip().removeprefix("Hi, ").removeprefix("Hello, ").removesuffix(" Thanks!")


def label_of(text: str) -> str:
    """What it deserves, whatever way it is written."""
    return LABELS[zlib.crc32(base_of(text).encode()) % len(LABELS)]


def own_label_of(text: str) -> str:
    """What a model says that minds each character: near-equal texts disagree in two of three cases."""
    return LABELS[zlib.crc32(text.encode()) % len(LABELS)]


class Vectors:
    """What makes short vectors, as quick as can be: texts that share words are near."""

    def __init__(self) -> None:
        self.tokens = 0
        """Of the texts that got one."""

    def __call__(self, text: str, _size: int) -> np.ndarray[Any, Any]:
        self.tokens += replies.count(text)
        total = np.zeros(96)
        for word in re.findall(r"\w+", text.lower()):
            total += _word_vector(word)
        return total


@lru_cache(maxsize=4096)
def _word_vector(word: str) -> np.ndarray[Any, Any]:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(96)


def ready(server: FakeOpenAI) -> FakeOpenAI:
    """The server, giving each text the label it deserves."""
    server.answer, server.embed = answering(label_of), Vectors()
    return server


def answering(label: Callable[[str], str]) -> Callable[[str, Any], str]:
    """The fake server's `answer` for classify."""
    return lambda text, _body: json.dumps({"label": label(text)})


def chat_cost(server: FakeOpenAI) -> float:
    """What the server billed, but for vectors."""
    assert isinstance(server.embed, Vectors)
    tokens = server.embed.tokens if server.bill.embeddings else 0  # which may be lost on their way
    return server.bill.cost - tokens * server.prices.embedding / 1e6


def clear(server: FakeOpenAI) -> None:
    """Let the server forget what it saw and billed."""
    server.clear()
    ready(server)


def sources(out: pd.DataFrame) -> dict[str, int]:
    """Rows by source."""
    return {source: count for source, count in Counter(out["body_label_source"]).items() if count}


def check_right(out: pd.DataFrame) -> None:
    """Each row has the label it deserves."""
    assert out["body_label"].tolist() == [label_of(text) for text in out["body"]]


def check_bill(server: FakeOpenAI, out: pd.DataFrame, output: str = "body_label") -> None:
    """The sums of the rows are the bill, but for vectors, which have a run with a bill of its own."""
    paid = chat_cost(server)
    assert math.isclose(out[f"{output}_cost"].sum(), paid)
    assert math.isclose(pandas_llm.last_run().cost, paid)
    assert math.isclose(pandas_llm.runs()["cost"].sum(), server.bill.cost)
    tokens = out[[f"{output}_cost", f"{output}_input_tokens", f"{output}_output_tokens"]]
    assert (tokens[out[f"{output}_source"] == "similar"] == 0).all(axis=None)


def asked_for_labels(server: FakeOpenAI) -> list[str]:
    """The texts of the chat requests, in the order of arrival."""
    return [seen.text for seen in server.requests if seen.path.endswith("/chat/completions")]


def asked_for_vectors(server: FakeOpenAI) -> list[str]:
    """The texts of the requests for vectors, in the order of arrival."""
    inputs = [seen.body["input"] for seen in server.requests if seen.path.endswith("/embeddings")]
    return [text for texts in inputs for text in texts]
