"""Whatever the frame and whatever fails: every row keeps its own answer, and columns add up to the bill."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI, Prices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pandas_llm
from pandas_llm.errors import AuthError

LABELS = ["even", "odd"]
FAULTS = {
    # What happens, and whether it is billed and remembered. What passes when asked again takes time to wait.
    "refusal": (faults.REFUSAL, True),
    "cut off": (faults.CUT_OFF, True),
    "outside": (faults.OUTSIDE_LABEL, True),
    "too long": (faults.CONTEXT_LENGTH, False),
    "filtered": (faults.CONTENT_FILTER, False),
}
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Table:
    """A frame, and what is to go wrong with which of its texts."""

    frame: pd.DataFrame
    wrong: dict[str, str]

    @property
    def texts(self) -> list[str]:
        """The distinct texts that are asked about."""
        cells = (cell for cell in self.frame["body"] if isinstance(cell, str) and cell.strip())
        return list(dict.fromkeys(cells))

    def failing(self, *, billed: bool) -> list[str]:
        """The texts that get no answer."""
        wrong = self.wrong.items()
        return [text for text, name in wrong if text in self.texts and FAULTS[name][1] is billed]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    ends = draw(st.lists(st.text(max_size=6), min_size=1, max_size=12))
    pool = [f"<{n}>{end}" for n, end in enumerate(ends)]
    missing = st.sampled_from([None, float("nan"), pd.NA, "", " \n"])
    text = st.sampled_from(pool)
    cells = draw(st.lists(st.one_of(text, text, text, missing), max_size=30))
    cells += draw(st.permutations(pool))[: draw(st.integers(0, len(pool)))]
    index = draw(
        st.one_of(
            st.none(),
            st.lists(st.integers(0, 3), min_size=len(cells), max_size=len(cells)),
            st.lists(st.text(max_size=2), min_size=len(cells), max_size=len(cells)),
        )
    )
    frame = pd.DataFrame({"at": range(len(cells)), "body": pd.Series(cells, dtype=object)})
    if index is not None:
        frame.index = pd.Index(index, dtype=object)
    return Table(frame, draw(st.dictionaries(text, st.sampled_from(sorted(FAULTS)), max_size=4)))


def right(text: str) -> str:
    return LABELS[sum(text.encode("utf-8", "surrogatepass")) % 2]


@pytest.fixture(scope="module")
def one_server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(answer=lambda text, body: json.dumps({"label": right(text)})) as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def fresh(one_server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server without a bill and a store without an answer, at each call."""
    monkeypatch.setenv("OPENAI_BASE_URL", one_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    count = itertools.count()

    def fresh(table: Table, stop: int | None = None) -> tuple[FakeOpenAI, Path]:
        one_server.clear()
        fresh_of_faults(one_server, table, stop)
        return one_server, tmp_path / f"{next(count)}.sqlite3"

    return fresh


def fresh_of_faults(server: FakeOpenAI, table: Table, stop: int | None = None) -> None:
    """The table's faults stand; from request `stop` on no key is good."""
    server.clear_faults()
    if stop is not None:
        server.fault(lambda n, text: n >= stop, faults.UNAUTHORIZED)
    for text, name in table.wrong.items():
        server.fault(lambda n, got, text=text: got == text, FAULTS[name][0])


def labelled(table: Table, store: Path, **options: Any) -> pd.DataFrame:
    cost = Prices()
    shared = {
        "cache": store,
        "model": "m",
        "prices": {"m": (cost.input, cost.cached, cost.output)},
        "progress": False,
        "details": "all",
        "max_error_rate": 1,
        "max_concurrency": 4,
    }
    return table.frame.llm.classify("body", LABELS, **{**shared, **options})


def assert_every_row_has_its_own(table: Table, out: pd.DataFrame) -> None:
    assert list(out["at"]) == list(table.frame["at"])
    assert out.index.equals(table.frame.index)
    failing = {*table.failing(billed=True), *table.failing(billed=False)}
    for text, label, error, source in zip(
        table.frame["body"], out["body_label"], out["body_label_error"], out["body_label_source"], strict=True
    ):
        if not isinstance(text, str) or not text.strip():
            assert (pd.isna(label), pd.isna(error), source) == (True, True, "skipped")
        elif text in failing:
            assert (pd.isna(label), pd.isna(error), source) == (True, False, "failed")
        else:
            assert (label, pd.isna(error)) == (right(text), True)
            assert source in ("api", "duplicate", "cache")


def assert_it_adds_up(out: pd.DataFrame, server: FakeOpenAI) -> None:
    last, bill = pandas_llm.last_run(), server.bill
    assert out["body_label_input_tokens"].sum() == last.input_tokens == bill.input_tokens
    assert out["body_label_output_tokens"].sum() == last.output_tokens == bill.output_tokens
    for column in ("cached", "cache_write", "reasoning"):
        assert out[f"body_label_{column}_tokens"].sum() == getattr(bill, f"{column}_tokens")
    cost = out["body_label_cost"].sum(min_count=1)
    assert last.cost == pytest.approx(0.0 if math.isnan(cost) else cost, rel=1e-9, abs=1e-15)
    assert last.cost == pytest.approx(bill.cost, rel=1e-9, abs=1e-15)
    assert last.paid == bill.completions
    assert sum(last.sources.values()) == last.rows == len(out)
    assert dict(last.sources) == {name: n for name, n in out["body_label_source"].value_counts().items() if n}


@QUICK
@given(table=tables())
def test_every_row_keeps_its_own_answer_and_the_columns_add_up(fresh: Any, table: Table) -> None:
    server, store = fresh(table)
    out = labelled(table, store)
    assert_every_row_has_its_own(table, out)
    assert_it_adds_up(out, server)


@QUICK
@given(table=tables(), known=st.integers(0, 12))
def test_what_is_asked_is_what_is_distinct_and_not_known(fresh: Any, table: Table, known: int) -> None:
    server, store = fresh(table)
    before = Table(
        pd.DataFrame({"body": pd.Series(table.texts[:known], dtype=object)}).assign(at=0), table.wrong
    )
    labelled(before, store)
    already = {text for text in before.texts if text not in table.failing(billed=False)}
    start = len(server.requests)
    out = labelled(table, store)
    assert_every_row_has_its_own(table, out)
    assert {seen.text for seen in server.requests[start:]} == set(table.texts) - already
    server.clear_faults()
    labelled(table, store)
    unpaid = set(table.failing(billed=False))
    assert set(server.bill.texts) == set(table.texts), "what cost nothing is asked again, and only that"
    assert {text for text, times in server.bill.texts.items() if times > 1} <= set(table.failing(billed=True))
    assert unpaid <= set(server.bill.texts)


@QUICK
@given(table=tables(), share=st.floats(0, 1, exclude_max=True))
def test_interrupted_and_resumed_is_as_uninterrupted(fresh: Any, table: Table, share: float) -> None:
    server, store = fresh(table)
    whole, last = labelled(table, store), len(server.requests)
    bill = server.bill
    server, store = fresh(table, int(share * last))
    if last:
        with pytest.raises(AuthError):
            labelled(table, store)
        fresh_of_faults(server, table)
    parts = labelled(table, store)
    for column in ("body_label", "body_label_error"):
        pd.testing.assert_series_equal(parts[column], whole[column])
    # A reply outside the labels whose repair was cut off is the one thing that is bought again.
    cut_off = {text for text, name in table.wrong.items() if name == "outside"}
    assert {t: n for t, n in server.bill.texts.items() if t not in cut_off} == {
        t: n for t, n in bill.texts.items() if t not in cut_off
    }
    assert sum(server.bill.texts[text] - bill.texts[text] for text in cut_off) <= len(cut_off)
