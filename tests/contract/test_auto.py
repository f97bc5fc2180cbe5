"""`mode="auto"`: each request by the cheapest way that should make its deadline; what is late is fetched."""

import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from fakes import faults
from fakes.batch_faults import Course, over_limit
from fakes.ledger import Prices
from fakes.openai_server import Answer, FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm import Batches
from pandas_llm.errors import LLMWarning, OptionsError

LABELS = ["bug", "question", "praise"]
QUICK = Batches(poll=(0.02, 0.1), pilot=0)
MINI = "gpt-4o-mini"
"""Has a batch price and no flex tier: a batch is the only cheap way."""
SOON = "66s"
"""One wave of concurrent requests takes 3 s at most, and a minute is kept for cancelling: with 66 s left, a
batch has 2.7 s."""


def bugs(n, word="bug"):
    return [f"{word} {i:04}" for i in range(n)]


def auto(texts, deadline=None, *, batches=QUICK, **options):
    frame = texts if isinstance(texts, pd.DataFrame) else pd.DataFrame({"t": texts})
    return frame.llm.classify(
        "t", LABELS, mode="auto", deadline=deadline, batches=batches, details="all", **options
    )


def sources(out):
    return Counter(out["t_label_source"])


def live(server):
    """By text, the service tier that it was asked at; what went in a file isn't there."""
    return {
        seen.text: seen.body.get("service_tier")
        for seen in server.requests
        if seen.path.endswith("/completions")
    }


def filed(server):
    """The texts in each batch file."""
    return [
        sorted(line["body"]["messages"][1]["content"].split("\n")[1] for line in each.lines)
        for each in server.batches
    ]


def check(server, out):
    """Every row has its answer, is paid once, and the sums are the bill."""
    assert out["t_label"].tolist() == [text.split()[0] for text in out["t"]]
    assert out["t_label_error"].isna().all()
    assert server.bill.texts == dict.fromkeys(out["t"], 1)
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost)


@pytest.fixture
def quick_past(server: FakeOpenAI):
    """A store that has seen five batches end at once."""
    small = Batches(poll=(0.01, 0.02), pilot=0, min_requests=1)
    for i in range(5):
        frame = pd.DataFrame({"t": [f"bug seed {i}"]})
        frame.llm.classify("t", LABELS, mode="batch", batches=small, progress=False)
    server.clear()
    server.prices = Prices(input=0.15, output=0.60)
    return server


# The choice --------------------------------------------------------------------------------------------


def in_six_hours():
    return datetime.now(UTC) + timedelta(hours=6)


@pytest.mark.parametrize(
    ("deadline", "route"),
    [
        (lambda: "20min", "concurrent"),
        (lambda: timedelta(minutes=20), "concurrent"),
        (lambda: "6h", "batch"),
        (lambda: timedelta(hours=6), "batch"),
        (in_six_hours, "batch"),
        (lambda: in_six_hours().astimezone().replace(tzinfo=None), "batch"),
        (lambda: str(in_six_hours()), "batch"),
        (lambda: None, "batch"),
    ],
    ids=["20min", "timedelta 20", "6h", "timedelta 6", "aware", "naive", "words", "none"],
)
def test_a_batch_is_taken_where_it_should_make_it(server: FakeOpenAI, deadline, route):
    server.prices = Prices(input=0.15, output=0.60)
    out = auto(bugs(25), deadline(), model=MINI)
    check(server, out)
    assert sources(out) == {"batch" if route == "batch" else "api": 25}
    assert set(live(server).values()) <= {None}
    run = pandas_llm.last_run()
    assert run.route == route
    assert run.reason.startswith("the only one" if route == "concurrent" else "the cheapest")


def test_flex_is_taken_where_the_model_has_a_flex_price(server: FakeOpenAI):
    out = auto(bugs(25), "20min")
    check(server, out)
    assert set(live(server).values()) == {"flex"}
    assert set(out["t_label_service_tier"]) == {"flex"}
    assert server.batches == []
    assert pandas_llm.last_run().route == "flex"
    tokens = (server.bill.input_tokens, server.bill.output_tokens)
    assert server.bill.cost == pytest.approx((tokens[0] * 0.05 + tokens[1] * 0.25) / 1e6)


def test_too_short_a_time_for_flex_is_paid_in_full(server: FakeOpenAI):
    check(server, auto(bugs(25), "5s"))
    assert set(live(server).values()) == {None}
    assert pandas_llm.last_run().route == "concurrent"


def test_where_nothing_makes_it_the_quickest_is_taken_and_said(server: FakeOpenAI, capsys):
    check(server, auto(bugs(25), "1s", max_concurrency=4))
    assert pandas_llm.last_run().reason == "nothing should be done in 1 s; it is the quickest"
    assert "concurrent: nothing should be done in 1 s" in capsys.readouterr().err


def test_a_model_without_other_prices_is_asked_at_once(server: FakeOpenAI, capsys):
    auto(bugs(25), "12h", prices={"my-model": (0.1, 0.4)}, model="my-model")
    assert pandas_llm.last_run().route == "concurrent"
    assert "batch not available: no price of my-model is known there" in capsys.readouterr().err


def test_fewer_than_a_file_is_worth_go_at_once(server: FakeOpenAI, capsys):
    auto(bugs(5), "12h", model=MINI)
    assert server.batches == []
    assert "batch not available: 5 requests, fewer than Batches(min_requests=21)" in capsys.readouterr().err


def test_the_choice_and_its_reasons_are_printed_and_kept(server: FakeOpenAI, capsys):
    auto(bugs(25), "12h", model=MINI)
    lines = capsys.readouterr().err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("concurrent"))
    assert lines[at].endswith(", 0.3 s – 3 s")
    assert lines[at + 1] == "flex not available: no price of gpt-4o-mini is known there"
    assert lines[at + 2].endswith(", 7 min – 1 h, at most 24 h")
    assert lines[at + 3].startswith(
        "batch: the cheapest that should be done in 12 h; what is missing 63 s before"
    )
    run = pandas_llm.last_run()
    assert f"batch: {run.reason}." == lines[at + 3]
    assert run.route == "batch"
    assert list(run.routes.index) == ["concurrent", "flex", "batch"]
    assert run.routes.loc["batch", ["seconds_low", "seconds_high"]].tolist() == [420.0, 3600.0]
    assert run.routes.loc["flex"].isna().all()
    half = run.routes.loc["concurrent", "cost_high"] / 2
    assert run.routes.loc["batch", "cost_high"] == pytest.approx(half)
    assert run.routes.loc["batch", "cost_low"] <= run.cost <= run.routes.loc["batch", "cost_high"]
    assert "the cheapest that should be done in 12 h" in str(run)


def test_what_is_known_needs_no_choice(server: FakeOpenAI, capsys):
    auto(bugs(25), "20min")
    capsys.readouterr()
    out = auto(bugs(25), datetime(2020, 1, 1, tzinfo=UTC))
    assert sources(out) == {"cache": 25}
    assert "not available" not in capsys.readouterr().err
    assert (pandas_llm.last_run().route, pandas_llm.last_run().reason) == ("", "")


def test_a_past_deadline_is_refused_where_something_is_to_be_asked(server: FakeOpenAI):
    auto(bugs(25), "20min")
    sent = len(server.requests)
    with pytest.raises(OptionsError, match="deadline: '2020-01-01' is in the past"):
        auto([*bugs(25), "bug new"], "2020-01-01")
    assert len(server.requests) == sent


def test_own_past_batches_are_what_the_time_is_reckoned_by(server: FakeOpenAI):
    def high():
        routes = pd.DataFrame({"t": bugs(25)}).llm.estimate.classify("t", LABELS).routes
        return routes.loc["batch", "seconds_high"]

    small = Batches(poll=(0.01, 0.02), pilot=0, min_requests=1)
    for i in range(5):
        assert high() == 3600.0
        auto([f"bug seed {i}"], batches=small, model=MINI)
    assert [each.status for each in server.batches] == ["completed"] * 5
    assert high() <= 2.0
    # Quick as they were, they are taken for what is due in two minutes.
    auto(bugs(25), "2min", model=MINI)
    assert pandas_llm.last_run().route == "batch"


def test_an_estimate_is_that_of_the_routes_that_would_be_taken(server: FakeOpenAI):
    frame = pd.DataFrame({"t": bugs(30), "due": ["5s"] * 5 + ["20min"] * 25})

    def cost(**options):
        return frame.llm.estimate.classify("t", LABELS, **options).cost.high

    full, flex = cost(), cost(mode="auto", deadline="20min")
    assert flex == pytest.approx(full / 2)
    assert cost(mode="auto", deadline="due") == pytest.approx((full * 5 + flex * 25) / 30)
    estimate = frame.llm.estimate.classify(
        "t", LABELS, mode="auto", deadline="12h", model=MINI, batches=QUICK
    )
    assert estimate.seconds == (420.0, 3600.0)
    assert server.requests == []
    assert estimate.run()["t_label_source"].tolist().count("batch") == 30


# Each by its own route ---------------------------------------------------------------------------------


def test_urgent_standard_and_relaxed_rows_of_one_call_go_by_their_own_routes(quick_past, capsys):
    quick_past.prices = Prices()
    due = ["5s"] * 4 + ["30min"] * 6 + [None] * 15 + ["12h"] * 15
    frame = pd.DataFrame({"t": bugs(40), "due": due}).sample(frac=1, random_state=7)
    capsys.readouterr()
    out = auto(frame, "due")
    check(quick_past, out)
    texts = {kind: set(frame.loc[frame["due"].isin([kind]), "t"]) for kind in ("5s", "30min")}
    tiers = live(quick_past)
    assert {text for text, tier in tiers.items() if tier is None} == texts["5s"]
    assert {text for text, tier in tiers.items() if tier == "flex"} == texts["30min"]
    assert filed(quick_past) == [sorted(set(frame["t"]) - texts["5s"] - texts["30min"])]
    assert sources(out) == {"api": 10, "batch": 30}
    by_due = out.groupby(out["due"].fillna("-"))["t_label_cost"].mean()
    assert by_due["30min"] == pytest.approx(by_due["5s"] / 2, rel=0.01)
    assert by_due["12h"] == pytest.approx(by_due["-"], rel=0.01)
    run = pandas_llm.last_run()
    assert run.route == "batch + flex + concurrent"
    for said in ("4 by concurrent: ", "6 by flex: ", "30 by batch: "):
        assert said in run.reason
    err = capsys.readouterr().err
    assert "4 to ask, the first of them in 5.0 s:" in err
    assert "6 to ask, the first of them in 30 min:" in err
    assert "30 to ask, the first of them in 12 h:" in err


def test_a_text_is_asked_once_by_its_most_urgent_row(server: FakeOpenAI):
    frame = pd.DataFrame({"t": ["bug 1", "bug 2", "bug 1"], "due": [None, None, "5s"]})
    out = auto(frame, "due")
    assert live(server) == {"bug 1": None, "bug 2": "flex"}
    assert sources(out) == {"api": 2, "duplicate": 1}


def test_max_concurrency_is_the_ceiling_of_all_routes_together(server: FakeOpenAI):
    server.latency = 0.02
    frame = pd.DataFrame({"t": bugs(40), "due": ["5s"] * 4 + ["30min"] * 36})
    auto(frame, "due", max_concurrency=4)
    assert set(live(server).values()) == {None, "flex"}
    assert server.max_in_flight == 4


def test_a_series_has_deadlines_too(server: FakeOpenAI):
    texts = pd.Series(bugs(3), name="t")
    assert texts.llm.classify(LABELS, mode="auto", deadline="20min").tolist() == ["bug"] * 3
    assert set(live(server).values()) == {"flex"}
    with pytest.raises(OptionsError, match="no column"):
        texts.llm.classify(LABELS, mode="auto", deadline="due")


# Flex is full ------------------------------------------------------------------------------------------


def test_where_flex_is_full_the_rest_is_asked_at_the_standard_price_and_said(server: FakeOpenAI):
    server.latency = 0.005
    served = set()

    def is_full(_n, text):
        served.add(text)
        return len(served) > 10 and live(server)[text] == "flex"

    # That flex is full says nothing of how fast may be asked elsewhere, whatever it says of waiting.
    full = replace(faults.FLEX_UNAVAILABLE, headers={"retry-after": "20"})
    server.fault(is_full, full)
    began = time.monotonic()
    with pytest.warns(LLMWarning, match="flex tier had no room.*asked at the standard price") as warned:
        out = auto(bugs(40), "20min", max_concurrency=4)
    within(time.monotonic() - began, 3)
    assert len(warned) == 1
    check(server, out)
    tiers = Counter(out["t_label_service_tier"])
    assert tiers.keys() == {"flex", "default"}
    assert 7 <= tiers["flex"] <= 10
    costs = out.groupby("t_label_service_tier")["t_label_cost"].mean()
    assert costs["flex"] == pytest.approx(costs["default"] / 2, rel=0.01)
    assert server.statuses[429] <= 4
    assert pandas_llm.last_run().errors == {}


def test_a_server_that_names_no_tier_is_paid_as_it_was_asked(server: FakeOpenAI):
    def unnamed(text, body):
        if body.get("service_tier") == "flex" and text > "bug 0004":
            return Answer(raw=faults.FLEX_UNAVAILABLE.body)
        choice = {"index": 0, "message": {"role": "assistant", "content": '{"label": "bug"}'}}
        usage = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        return Answer(raw={**reply, "choices": [{**choice, "finish_reason": "stop"}]})

    server.answer = unnamed
    server.fault(lambda _, text: text > "bug 0004" and live(server)[text] == "flex", faults.FLEX_UNAVAILABLE)
    with pytest.warns(LLMWarning, match="no room"):
        out = auto(bugs(12), "20min", max_concurrency=1)
    flex, standard = (1_000 * 0.05 + 100 * 0.25) / 1e6, (1_000 * 0.1 + 100 * 0.5) / 1e6
    assert out["t_label_cost"].tolist() == pytest.approx([flex] * 5 + [standard] * 7)


# Batches that come late --------------------------------------------------------------------------------


def test_a_batch_that_stalls_is_cancelled_in_time_and_asked_concurrently(quick_past):
    quick_past.batch_fault("stall")
    began = time.monotonic()
    out = auto(bugs(25), SOON, model=MINI)
    seconds = time.monotonic() - began
    assert seconds > 2
    within(seconds, 12)
    check(quick_past, out)
    assert sources(out) == {"api": 25}
    assert [each.status for each in quick_past.batches] == ["cancelled"]
    assert pandas_llm.last_run().route == "batch + concurrent"


def test_what_a_late_batch_has_answered_is_kept_and_only_the_rest_asked_again(quick_past):
    quick_past.batch_seconds = 8.0
    out = auto(bugs(30), SOON, model=MINI)
    check(quick_past, out)
    found = sources(out)
    assert found.keys() == {"api", "batch"}
    assert found["api"] + found["batch"] == 30
    assert quick_past.bill.batch_completions == found["batch"]
    assert quick_past.bill.completions == found["api"]
    costs = out.groupby("t_label_source", observed=True)["t_label_cost"].mean()
    assert costs["batch"] == pytest.approx(costs["api"] / 2, rel=0.01)


def test_the_time_of_all_files_together_is_kept_for_them(quick_past):
    # 40 requests, 4 at a time, take 30 s; 20 take 15: a file that minds itself alone wakes 16 s too late.
    quick_past.batch_fault(Course(stalls=True), times=2)
    began = time.monotonic()
    out = auto(
        bugs(40),
        "95s",
        model=MINI,
        max_concurrency=4,
        batches=Batches(max_requests=20, poll=(0.02, 1), pilot=0),
    )
    within(time.monotonic() - began, 10)
    check(quick_past, out)
    assert [each.status for each in quick_past.batches] == ["cancelled"] * 2


def test_a_look_at_the_clock_does_not_wait_for_the_next_poll(quick_past):
    # The first look at a batch is at once, the next one 30 s later.
    quick_past.batch_fault("cancel_race")
    quick_past.batch_seconds = 600.0
    began = time.monotonic()
    out = auto(bugs(25), SOON, model=MINI, batches=Batches(poll=(30, 60), pilot=0))
    within(time.monotonic() - began, 12)
    check(quick_past, out)


def test_a_file_that_waits_for_room_is_given_up_in_time(quick_past):
    # Somebody else's batches fill the enqueued-token limit: ours is refused, and would wait 6 s and more.
    quick_past.batch_fault(Course(errors=[over_limit(2_000_000)], times=None))
    began = time.monotonic()
    out = auto(bugs(25), SOON, model=MINI, batches=Batches(poll=(1, 60), pilot=0))
    within(time.monotonic() - began, 6)
    assert len(quick_past.batches) == 1
    check(quick_past, out)
    assert sources(out) == {"api": 25}


def test_what_batches_lose_three_times_is_asked_concurrently(server: FakeOpenAI):
    server.prices = Prices(input=0.15, output=0.60)
    server.batch_fault("missing", match="bug 0007")
    out = auto(bugs(25), "12h", model=MINI)
    check(server, out)
    assert sources(out) == {"batch": 24, "api": 1}
    assert [len(each.custom_ids) for each in server.batches] == [25, 1, 1]
    assert list(live(server)) == ["bug 0007"]
    assert pandas_llm.last_run().route == "batch + concurrent"


def test_a_batch_of_an_earlier_call_is_given_up_for_the_deadline_of_this_one(quick_past):
    quick_past.batch_fault("stall")
    frame = pd.DataFrame({"t": bugs(25)})
    left = frame.llm.classify("t", LABELS, mode="batch", wait=False, model=MINI, batches=QUICK)
    assert set(left["t_label_source"]) == {"pending"}
    began = time.monotonic()
    out = auto(frame, SOON, model=MINI)
    seconds = time.monotonic() - began
    assert seconds > 2
    within(seconds, 12)
    check(quick_past, out)
    assert [each.status for each in quick_past.batches] == ["cancelled"]


def test_an_earlier_batch_is_left_alone_where_no_other_way_makes_it(quick_past):
    quick_past.batch_seconds = 1.0
    frame = pd.DataFrame({"t": bugs(25)})
    frame.llm.classify("t", LABELS, mode="batch", wait=False, model=MINI, batches=QUICK)
    out = auto(frame, "2s", model=MINI)
    check(quick_past, out)
    assert [each.status for each in quick_past.batches] == ["completed"]
    assert live(quick_past) == {}


def test_a_second_batch_beside_an_older_question_is_refused(server: FakeOpenAI):
    server.hold_batches = True
    frame = pd.DataFrame({"t": bugs(25)})
    frame.llm.classify("t", LABELS, mode="batch", wait=False, model=MINI, batches=QUICK)
    with pytest.raises(OptionsError, match=r"older question for 't_label'.*pandas_llm.cancel"):
        auto(frame, "12h", model=MINI, instructions="Otherwise.")
    # At once there is nothing to be kept apart.
    auto(frame, "20min", model=MINI, instructions="Otherwise.")
    assert len(server.batches) == 1
