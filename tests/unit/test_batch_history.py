"""What is said of a run that went by batch: its routes, its price, what goes on after it was stopped."""

from dataclasses import replace

import pandas as pd
import pytest

import pandas_llm
from pandas_llm.core.options import Options
from pandas_llm.core.plan import keys_of, make_plan, stem_of
from pandas_llm.core.prices import price_of
from pandas_llm.core.routes import BATCH_PAST, Choice, Route
from pandas_llm.core.types import Question, Record, Usage
from pandas_llm.core.wire import CHAT
from pandas_llm.history import LastRun, cancelled_line, interrupted_line, paid_by_row, states_of_batches
from pandas_llm.history.estimate import table_of
from pandas_llm.io.store import Kept, open_store

LABELS = ["bug", "question"]
STOPPED = LastRun(
    id="r_41", status="submitted", verb="classify", model="gpt-6-luna", snapshots=(), rows=1_000,
    sources={"api": 3, "pending": 997}, errors={}, input_tokens=300, output_tokens=30, cost=0.0123, paid=3,
    in_doubt=0, seconds=75.0,
)  # fmt: skip
BATCH = ("batch_abc", "r_41", "in_progress")


def test_stop_says_which_batches_go_on_and_how_to_come_back_or_end_them() -> None:
    two = [BATCH, ("batch_def", "r_41", "validating")]
    assert interrupted_line(STOPPED, two) == (
        "3 of 1,000 rows are answered and kept ($0.012); 2 batches go on at the provider (batch_abc, "
        "batch_def): run the same line to collect them, pandas_llm.cancel('r_41') cancels them. The rows "
        "are on the exception's .frame too."
    )
    assert "1 batch goes on at the provider (batch_abc): run the same line to collect it, " in (
        interrupted_line(STOPPED, [BATCH])
    )


def test_stop_names_each_run_whose_batches_go_on_and_few_of_many_batches() -> None:
    many = [(f"batch_{n}", "r_41" if n else "r_7", "in_progress") for n in range(5)]
    said = interrupted_line(STOPPED, many)
    assert "(batch_0, batch_1, batch_2 and 2 more)" in said
    assert "pandas_llm.cancel('r_7') and pandas_llm.cancel('r_41') cancel them." in said


def test_without_batches_stop_says_what_it_always_did() -> None:
    assert interrupted_line(STOPPED).endswith(
        "run the same line again to go on. They are on the exception's .frame too."
    )


def test_rows_that_failed_or_have_no_text_arent_said_to_be_answered() -> None:
    mixed = replace(STOPPED, sources={"api": 300, "cache": 55, "failed": 30, "skipped": 50, "pending": 565})
    assert interrupted_line(mixed).startswith("355 of 1,000 rows are answered and kept")


def test_what_nobody_waited_for_is_said_to_be_in_doubt() -> None:
    said = " 16 requests in flight were dropped: they may be billed, and are asked again then."
    assert interrupted_line(STOPPED, dropped=16).endswith(said)
    assert cancelled_line(STOPPED, dropped=16) == (
        f"Cancelled: 997 of 1,000 rows are pending. Run the same line to go on.{said}"
    )
    assert " 1 request in flight was dropped: it may be billed, and is asked" in cancelled_line(
        STOPPED, dropped=1
    )


def test_who_stops_watching_is_told_that_batches_go_on() -> None:
    assert cancelled_line(STOPPED, [BATCH]) == (
        "Stopped watching: 997 of 1,000 rows are pending; 1 batch goes on at the provider (batch_abc): run "
        "the same line to collect it, pandas_llm.cancel('r_41') cancels it."
    )


def test_a_run_tells_its_route_and_why() -> None:
    assert "route" not in str(STOPPED)
    assert "route" not in str(replace(STOPPED, route="concurrent"))
    assert "route         batch + concurrent\n" in str(replace(STOPPED, route="batch + concurrent"))
    chosen = replace(STOPPED, route="concurrent", reason="the only one that should be done in 5 min")
    assert "route         concurrent: the only one that should be done in 5 min\n" in str(chosen)
    assert (STOPPED.routes, STOPPED.route, STOPPED.reason) == (None, "", "")


def test_routes_are_a_table_with_nothing_where_there_is_no_such_route() -> None:
    routes = (
        Route("concurrent", (1.0, 2.0), (10.0, 20.0)),
        Route("flex", None, (10.0, 60.0), available=False, note="no price"),
        Route("batch", None, BATCH_PAST[:2], BATCH_PAST[2]),
    )
    table = table_of(Choice("batch", False, "the cheapest", routes).routes)
    assert table.index.tolist() == ["concurrent", "flex", "batch"]
    assert table.columns.tolist() == ["cost_low", "cost_high", "seconds_low", "seconds_high"]
    assert (table.dtypes == "float64").all()
    assert table.loc["concurrent"].tolist() == [1.0, 2.0, 10.0, 20.0]
    assert table.loc["flex"].isna().all()
    assert table.loc["batch"].isna().tolist() == [True, True, False, False]
    assert table_of(routes[:1]).isna().all(axis=1).tolist() == [False, True, True]


# Estimates ----------------------------------------------------------------------------------------------


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"body": [f"The bug number {n} is back." for n in range(50)]})


def test_an_estimate_of_a_batch_costs_what_a_batch_costs_and_takes_as_long(frame: pd.DataFrame) -> None:
    here = frame.llm.estimate.classify("body", LABELS)
    batch = frame.llm.estimate.classify("body", LABELS, mode="batch")
    assert batch.cost == pytest.approx((here.cost.low / 2, here.cost.high / 2))
    assert batch.cost == tuple(batch.routes.loc["batch", ["cost_low", "cost_high"]])
    assert batch.seconds == (420.0, 3_600.0)
    pd.testing.assert_frame_equal(here.routes, batch.routes)


def test_too_few_rows_for_a_batch_are_estimated_as_they_will_be_asked(frame: pd.DataFrame) -> None:
    few = frame.iloc[:20].llm.estimate
    assert few.classify("body", LABELS, mode="batch").cost == few.classify("body", LABELS).cost


def test_an_unknown_price_of_a_batch_is_unknown_and_not_the_standard_one(frame: pd.DataFrame) -> None:
    # No batch price of it is known, though its own is.
    model = "gpt-3.5-turbo-instruct"
    here = frame.llm.estimate.classify("body", LABELS, model=model)
    batch = frame.llm.estimate.classify("body", LABELS, model=model, mode="batch")
    assert here.cost.low > 0
    assert pd.isna(batch.cost.low)
    assert batch.routes.loc["batch"].isna().all()


# In the store -------------------------------------------------------------------------------------------

QUESTION = Question(
    "https://api.openai.com/v1", CHAT, "classify", "gpt-6-luna", "Label it.", {"type": "object"}
)


def test_the_store_s_own_batches_say_how_long_the_next_one_takes(frame: pd.DataFrame, own_settings) -> None:
    store, elsewhere = open_store(own_settings), "http://localhost:8000/v1"
    ends = [("completed", QUESTION.base_url)] * 5 + [
        ("cancelled", QUESTION.base_url),
        ("completed", elsewhere),
    ]
    for n, (status, base_url) in enumerate(ends):
        facts = {"base_url": base_url, "created_at": 1_000.0, "ended_at": 1_100.0 + n, "status": status}
        taken, _ = store.shards.plan([bytes([n]) * 16], 1, timeout=600.0, replace=False)
        for state in ("uploading", "uploaded", "creating", "created", "ended"):
            store.shards.note(taken, state, **facts)
        store.shards.close(taken)
    assert frame.llm.estimate.classify("body", LABELS, mode="batch").seconds == (102.0, 104.0)


def test_what_a_batch_answered_is_priced_as_a_batch(own_settings) -> None:
    store = open_store(own_settings)
    frame = pd.DataFrame({"body": ["one", "two"], "body_label": ["bug", "bug"]})
    keys, usage = keys_of(stem_of(QUESTION), ["one", "two"]), Usage(1_000, 50)
    for n, batch in enumerate((False, True)):
        record = Record(["bug"], None, usage, "gpt-6-luna", "default", batch=batch)
        store.keep([Kept(keys[n * 16 : (n + 1) * 16], record, (), 1)])
    plan = make_plan(QUESTION, pd.Series([0, 1], dtype="int32").to_numpy(), ["one", "two"])
    paid = paid_by_row(frame, store, [plan], "body_label", "body_label")
    standard = price_of("gpt-6-luna", QUESTION.base_url, {}, now=2e9).cost(usage)
    assert paid == pytest.approx([standard, standard / 2])


def test_runs_tell_the_provider_s_last_words_while_batches_go_on(own_settings) -> None:
    store = open_store(own_settings)
    run = store.start_run(verb="classify", status="submitted", rows=3)
    other = store.start_run(verb="classify", status="submitted", rows=1)
    shards = []
    for n, status in enumerate(("in_progress", "validating", "in_progress")):
        shard, _ = store.shards.plan([bytes([n]) * 16], run, timeout=600.0, replace=False)
        for state in ("uploading", "uploaded", "creating", "created"):
            shard = store.shards.note(shard, state, batch_id=f"batch_{n}", status=status)
        shards.append(shard)
    planned, _ = store.shards.plan([b"x" * 16], run, timeout=600.0, replace=False)
    assert states_of_batches(store, Options()) == {run: "in_progress, validating, planned"}
    told = pandas_llm.runs().set_index("id")["status"]
    assert told[f"r_{run}"] == "in_progress, validating, planned"
    assert told[f"r_{other}"] == "collected"
    store.shards.dissolve(planned)
    for shard in shards:
        store.shards.close(store.shards.note(shard, "ended"))
    assert pandas_llm.runs()["status"].tolist() == ["collected", "collected"]


def test_a_provider_nobody_can_reach_leaves_the_last_words(own_settings) -> None:
    store = open_store(own_settings)
    run = store.start_run(verb="classify", status="submitted", rows=1)
    there = "http://127.0.0.1:9/v1"
    shard, _ = store.shards.plan([b"x" * 16], run, timeout=600.0, replace=False, base_url=there)
    for state in ("uploading", "uploaded", "creating", "created"):
        shard = store.shards.note(shard, state, batch_id="batch_1", status="validating")
    nobody = Options(base_url=there, api_key="sk-test")
    assert states_of_batches(store, nobody) == {run: "validating"}
