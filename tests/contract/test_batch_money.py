"""What batches cost: each row at the price of its route, caps kept, estimates at the batch's; files."""

import math
import warnings
from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.ledger import Prices
from fakes.openai_server import FakeOpenAI
from openai import OpenAI

import pandas_llm
from pandas_llm import Batches, call
from pandas_llm.errors import BudgetWarning, LLMWarning, OptionsError, PriceWarning

LABELS = ["bug", "question", "praise"]
QUICK = Batches(poll=(0.01, 0.05))
ALL_FILED = Batches(poll=(0.01, 0.05), pilot=0)
UNPRICED = "gpt-5-search-api"
"""Has a price, and none for batches or flex."""


def bugs(n, word="bug"):
    return [f"{word} {i:04}" for i in range(n)]


def ask(texts, mode="batch", batches=QUICK, **options):
    frame = pd.DataFrame({"t": texts})
    return frame.llm.classify("t", LABELS, mode=mode, batches=batches, progress=False, **options)


def sources(out):
    return Counter(out["t_label_source"])


def one_costs(server):
    """What one of `bugs` costs in a batch."""
    ask(bugs(21, "bug other"), batches=ALL_FILED)
    cost = server.bill.cost / 21
    server.clear()
    return cost


def sent(server):
    return [seen for seen in server.requests if seen.path.endswith(("/completions", "/files", "/batches"))]


# Prices, row by row ------------------------------------------------------------------------------------


def test_each_row_bears_the_price_of_its_own_route(server: FakeOpenAI):
    server.reasoning_tokens = 20
    server.fault("0010", faults.outside(), times=1)  # repaired, concurrently
    out = ask(bugs(30), details="all")
    bill, run = server.bill, pandas_llm.last_run()
    assert sources(out) == {"api": 3, "batch": 27}
    tokens = out[["t_label_input_tokens", "t_label_output_tokens"]].astype(float) / 1e6
    full = tokens["t_label_input_tokens"] * 0.1 + tokens["t_label_output_tokens"] * 0.5
    plain = out["t"] != "bug 0010"
    batched = out["t_label_source"] == "batch"
    assert out["t_label_cost"][plain & batched].to_numpy() == pytest.approx((full / 2)[plain & batched])
    assert out["t_label_cost"][~batched].to_numpy() == pytest.approx(full[~batched])
    (repaired,) = out.loc[~plain, "t_label_cost"]
    assert full[~plain].item() / 2 < repaired < full[~plain].item()
    assert out["t_label_attempts"][~plain].item() == 2
    assert out["t_label_cost"].sum(min_count=1) == pytest.approx(run.cost) == pytest.approx(bill.cost)
    assert (run.paid, bill.completions, bill.batch_completions) == (31, 4, 27)
    # The provider says "default" of a batch's rows: what they cost is known from the way they went.
    assert set(out.loc[batched, "t_label_service_tier"]) == {"default"}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"mode": "batch"}, "batch price"),
        ({"mode": "concurrent", "service_tier": "flex"}, "flex price"),
    ],
    ids=["batch", "flex"],
)
def test_an_unknown_price_of_a_route_is_nan_and_never_the_standard_one(server, monkeypatch, options, what):
    monkeypatch.setattr(call, "_warned_of_price", set())
    said = f"The {what} of '{UNPRICED}' isn't known: its costs are NaN"
    with pytest.warns(PriceWarning, match=said) as warned:
        out = ask(bugs(25), model=UNPRICED, **options)
    assert len(warned) == 1
    assert out["t_label"].notna().all()
    # Also of those few whose price is known: their sum would pass for the bill.
    assert out["t_label_cost"].isna().all()
    assert math.isnan(out["t_label_cost"].sum(min_count=1))
    assert math.isnan(pandas_llm.last_run().cost)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(bugs(25, "bug more"), model=UNPRICED, **options)


def test_prices_that_are_given_win_over_those_of_the_batch(server: FakeOpenAI):
    out = ask(bugs(25), prices={"gpt-6-luna": (3.0, 7.0)})
    expected = (out["t_label_input_tokens"] * 3.0 + out["t_label_output_tokens"] * 7.0) / 1e6
    assert out["t_label_cost"].tolist() == pytest.approx(expected.tolist())
    ask(bugs(25, "bug unpriced"), model=UNPRICED, prices={UNPRICED: (1.0, 1.0)})  # warns of nothing
    assert pandas_llm.last_run().cost > 0


def test_long_prompts_have_the_long_price_one_by_one(server: FakeOpenAI):
    # Above 272,000 input tokens the price doubles: for a reply that long, not for a batch of short ones.
    out = ask([f"{text} {'word ' * 300}" for text in bugs(1_000)], batches=ALL_FILED, details="usage")
    assert server.bill.input_tokens > 272_000
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_an_answered_row_costs_nothing_in_the_next_run_and_its_batch_price_is_remembered(server: FakeOpenAI):
    out = ask(bugs(25), batches=ALL_FILED).assign(gold="bug")
    paid = out["t_label_cost"].sum()
    again = ask(bugs(25)).assign(gold="bug")
    assert sources(again) == {"cache": 25}
    assert again["t_label_cost"].sum() == 0
    assert out.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid / 25)
    assert again.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid / 25)
    bare = again[["t", "t_label", "gold"]].copy()
    bare.attrs = dict(again.attrs)
    assert bare.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid / 25)


# Caps --------------------------------------------------------------------------------------------------


def test_a_cap_is_reserved_row_by_row_before_the_file_and_more_money_pays_only_the_rest(server: FakeOpenAI):
    cap = one_costs(server) * 100
    with pytest.warns(BudgetWarning, match="max_cost reached.*rows are pending") as warned:
        out = ask(bugs(150), batches=ALL_FILED, max_cost=cap)
    assert len(warned) == 1
    found = sources(out)
    # The upper end of what a row may cost is set aside for it.
    assert 30 <= found["batch"] < 100
    assert found == {"batch": found["batch"], "pending": 150 - found["batch"]}
    assert set(out.loc[out["t_label"].isna(), "t_label_error"]) == {"Pending: max_cost reached"}
    assert sum(len(each.custom_ids) for each in server.batches) == found["batch"]
    assert server.bill.cost <= cap
    out = ask(bugs(150), batches=ALL_FILED, max_cost=cap * 5)
    assert sources(out) == {"cache": found["batch"], "batch": 150 - found["batch"]}
    assert set(server.bill.texts.values()) == {1}


def test_what_is_set_aside_and_not_spent_goes_into_another_file(server: FakeOpenAI):
    one = one_costs(server)
    cap = one * 60
    pandas_llm.configure(max_cost=cap)
    done = []
    for _ in range(3):
        with pytest.warns(BudgetWarning):
            out = ask(bugs(150), batches=ALL_FILED)
        done.append(int(out["t_label"].notna().sum()))
    assert done[0] < done[1] <= done[2] <= 60
    assert server.bill.cost <= cap


def test_the_bill_is_never_above_the_cap_but_for_the_pilot_in_flight(server: FakeOpenAI):
    one = one_costs(server)
    for rows in (1, 3, 10):
        texts = bugs(60, f"bug {rows}")
        server.clear()
        with pytest.warns(BudgetWarning):
            out = ask(texts, max_cost=one * rows)
        assert server.bill.cost <= one * rows + 3 * 2 * one
        assert set(sources(out)) <= {"api", "batch", "pending"}
        assert sources(out)["pending"] >= 60 - rows


def test_a_cap_below_the_first_request_sends_nothing(server: FakeOpenAI):
    with pytest.warns(BudgetWarning):
        out = ask(bugs(25), max_cost=1e-9)
    assert sources(out) == {"pending": 25}
    assert sent(server) == []


def test_money_set_aside_for_a_batch_is_free_for_what_is_asked_in_its_place(server: FakeOpenAI):
    small = Batches(poll=(0.01, 0.02), pilot=0, min_requests=1)
    for i in range(5):
        ask([f"bug seed {i}"], batches=small, model="gpt-4o-mini")
    server.clear()
    server.prices = Prices(input=0.15, output=0.60)
    server.batch_fault("stall")
    frame = pd.DataFrame({"t": bugs(25)})
    high = frame.llm.estimate.classify("t", LABELS, model="gpt-4o-mini").cost.high
    # The batch sets half of it aside, its replacement takes about as much: not enough for both.
    out = ask(bugs(25), "auto", small, model="gpt-4o-mini", deadline="66s", max_cost=high * 0.75)
    assert sources(out) == {"api": 25}
    assert server.bill.cost <= high


def test_an_unknown_batch_price_and_a_cap_are_refused_before_anything_is_sent(server: FakeOpenAI):
    with pytest.raises(OptionsError) as caught:
        ask(bugs(25), model=UNPRICED, max_cost=1.0)
    said = str(caught.value)
    assert f"The batch price of '{UNPRICED}' isn't known, so max_cost can't be kept" in said
    assert f"prices={{'{UNPRICED}': (input, output)}}" in said
    assert server.requests == []
    assert sources(ask(bugs(25), model=UNPRICED, max_cost=1.0, mode="concurrent")) == {"api": 25}


def test_a_call_is_confirmed_by_the_price_of_its_batch(server: FakeOpenAI):
    texts = bugs(200)
    estimate = pd.DataFrame({"t": texts}).llm.estimate
    batch = estimate.classify("t", LABELS, model="gpt-4", mode="batch").cost
    full = estimate.classify("t", LABELS, model="gpt-4").cost
    assert batch.high == pytest.approx(full.high / 2)
    between = sum(batch + full) / 4
    with pytest.raises(OptionsError, match="say max_cost="):
        ask(texts, "concurrent", model="gpt-4", confirm_above=between)
    with pytest.raises(OptionsError, match="say max_cost="):
        ask(texts, model="gpt-4", confirm_above=batch.low / 2)
    assert server.requests == []
    assert sources(ask(texts, model="gpt-4", confirm_above=between)) == {"api": 3, "batch": 197}


# Estimates ---------------------------------------------------------------------------------------------


def test_an_estimate_is_the_batchs_and_compares_the_routes(server: FakeOpenAI):
    frame = pd.DataFrame({"t": bugs(100)})
    estimate = frame.llm.estimate.classify("t", LABELS, mode="batch", batches=ALL_FILED)
    routes = estimate.routes
    assert list(routes.index) == ["concurrent", "flex", "batch"]
    assert tuple(routes.loc["batch", ["cost_low", "cost_high"]]) == estimate.cost
    assert routes.loc["concurrent", "cost_high"] == pytest.approx(estimate.cost.high * 2)
    assert routes.loc["flex", "cost_high"] == pytest.approx(estimate.cost.high)
    assert estimate.seconds == (420.0, 3_600.0)
    assert server.requests == []
    estimate.run()
    assert estimate.cost.low <= server.bill.cost <= estimate.cost.high
    few = frame.head(5).assign(t=bugs(5, "bug few")).llm.estimate.classify("t", LABELS, mode="batch")
    assert few.cost == tuple(few.routes.loc["concurrent", ["cost_low", "cost_high"]])


def test_a_route_without_a_price_is_nan_in_the_estimate(server: FakeOpenAI):
    estimate = pd.DataFrame({"t": bugs(100)}).llm.estimate
    routes = estimate.classify("t", LABELS, model=UNPRICED).routes
    assert routes.loc[["flex", "batch"]].isna().all(axis=None)
    assert routes.loc["concurrent"].notna().all()
    assert all(map(math.isnan, estimate.classify("t", LABELS, model=UNPRICED, mode="batch").cost))


# Files -------------------------------------------------------------------------------------------------


def by_hand(server, path):
    """Run a batch of a file as anybody does: the paths of its output and its error file."""
    client = OpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0)
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while batch.status not in ("completed", "failed", "expired"):
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    found = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        found.append(None if file_id is None else path.with_name(f"{file_id}.jsonl"))
        if file_id is not None:
            found[-1].write_bytes(client.files.content(file_id).content)
    client.close()
    return found


def test_a_written_file_is_what_a_batch_uploads_and_its_answers_find_their_rows(server, tmp_path):
    server.reasoning_tokens = 5
    texts = [*bugs(30), 'question \u2028 \x85 ü 😀 \\ " {braces}', "praise\r\n\tlines"]
    frame = pd.DataFrame({"t": texts, "n": range(len(texts))})
    estimate = frame.llm.estimate.classify("t", LABELS)
    path = estimate.write_jsonl(tmp_path / "tickets.jsonl")
    assert server.requests == []
    server.batch_fault("bad_request", match="0007")
    server.batch_fault("error_in_200", match="0008")
    output, error = by_hand(server, path)
    answers = pandas_llm.read_batch_output(output, error)
    assert len(answers) == len(texts)
    server.clear_faults()
    server.clear()

    out = frame.llm.classify("t", LABELS, mode="batch", batches=ALL_FILED, details="all", progress=False)
    (uploaded,) = (file for file in server.files.values() if file.purpose == "batch")
    assert uploaded.content == path.read_bytes()

    both = out.merge(answers, left_on="t_label_key", right_on="custom_id", how="left", validate="1:1")
    assert both["custom_id"].notna().all()
    bad = both["t"].isin(["bug 0007", "bug 0008"])
    assert both["error"].notna().tolist() == bad.tolist()
    assert both.loc[bad, "error"].str.contains("BadRequestError|ServerError").all()
    said = both["content"].str.extract(r'"label":\s*"(\w+)"')[0]
    assert said[~bad].tolist() == both.loc[~bad, "t_label"].astype(str).tolist()
    assert (both["input_tokens"] == both["t_label_input_tokens"])[~bad].all()


def test_only_what_nobody_knows_and_no_batch_has_is_written(server, tmp_path):
    frame = pd.DataFrame({"t": bugs(60)})
    server.hold_batches = True
    frame[:10].llm.classify("t", LABELS, progress=False)
    frame[10:40].llm.classify("t", LABELS, mode="batch", wait=False, batches=ALL_FILED, progress=False)
    path = frame.llm.estimate.classify("t", LABELS).write_jsonl(tmp_path / "rest.jsonl")
    assert len(path.read_bytes().splitlines()) == 20
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OptionsError, match="exists: overwrite=True"):
        frame.llm.estimate.classify("t", LABELS).write_jsonl(path)
    small = Batches(max_requests=15)
    with pytest.warns(LLMWarning, match="20 requests .* in 2 files"):
        frame.llm.estimate.classify("t", LABELS, batches=small).write_jsonl(path, overwrite=True)


def test_a_file_that_is_not_there_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        pandas_llm.read_batch_output(tmp_path / "output.jsonl")
    with pytest.raises(OptionsError, match="name the output file, the error file, or both"):
        pandas_llm.read_batch_output(None)
