"""Money: what a run costs is what the server bills, and a cap is never overshot by more than is in flight."""

from __future__ import annotations

import threading
import warnings
from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import Answer, FakeOpenAI

import pandas_llm
from pandas_llm.errors import BudgetWarning, LLMWarning, OptionsError, PriceWarning

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n, word="bug"):
    return [f"{word} {i:04}" for i in range(n)]


def sources(out):
    return Counter(out["t_label_source"])


def one_costs(server):
    classify(["bug 9999"], cache=False)
    cost = server.bill.cost
    server.clear()
    return cost


def test_the_frames_sum_is_the_runs_and_the_servers(server: FakeOpenAI):
    server.reasoning_tokens = 30
    server.fault("0003", faults.outside(), times=1)
    server.fault("0005", faults.REFUSAL)
    server.fault("0007", faults.INTERNAL, times=1)
    out = classify([*bugs(20), *bugs(5), None], details="all")
    bill, run = server.bill, pandas_llm.last_run()
    assert sources(out) == {"api": 19, "duplicate": 5, "failed": 1, "skipped": 1}
    assert out["t_label_cost"].sum(min_count=1) == pytest.approx(bill.cost)
    assert run.cost == pytest.approx(bill.cost)
    assert (run.input_tokens, run.output_tokens) == (bill.input_tokens, bill.output_tokens)
    assert out["t_label_input_tokens"].sum() == bill.input_tokens
    assert out["t_label_output_tokens"].sum() == bill.output_tokens
    assert out["t_label_reasoning_tokens"].sum() == bill.reasoning_tokens == 30 * 21
    assert run.paid == bill.completions == 21


def test_a_cap_is_kept_and_more_money_pays_only_the_rest(server: FakeOpenAI):
    one = one_costs(server)
    server.latency = 0.005
    texts = bugs(200)
    cap = one * 60
    with pytest.warns(BudgetWarning, match="rows are pending") as warned:
        out = classify(texts, max_cost=cap, max_concurrency=8)
    assert len(warned) == 1
    done = sources(out)["api"]
    assert 45 <= done <= 60
    assert server.bill.cost <= cap
    assert sources(out) == {"api": done, "pending": 200 - done}
    assert set(out.loc[out["t_label_source"] == "pending", "t_label_error"]) == {"Pending: max_cost reached"}
    assert len(server.requests) == done

    out = classify(texts, max_cost=one * 200)
    assert sources(out) == {"cache": done, "api": 200 - done}
    assert server.bill.texts == dict.fromkeys(texts, 1)


def test_replies_dearer_than_expected_overshoot_by_no_more_than_was_in_flight(server: FakeOpenAI):
    one = one_costs(server)
    server.latency = 0.005
    long = '{"label": "bug"}' + " " * 4000
    server.answer = lambda text, body: long if text >= "bug 0040" else '{"label": "bug"}'
    dear = one + 1000 * server.prices.output / 1e6
    cap = one * 40 + dear * 10
    with pytest.warns(BudgetWarning):
        classify(bugs(200), max_cost=cap, max_concurrency=4)
    assert server.bill.cost <= cap + 4 * dear


def test_a_cap_too_small_for_one_request_sends_nothing(server: FakeOpenAI):
    with pytest.warns(BudgetWarning):
        out = classify(bugs(5), max_cost=1e-9)
    assert sources(out) == {"pending": 5}
    assert server.requests == []


def test_failures_that_cost_nothing_give_their_money_back(server: FakeOpenAI):
    one = one_costs(server)
    server.fault("0", faults.CONTENT_FILTER)
    texts = [*bugs(100), *(f"praise {n}" for n in "123456789")]
    out = classify(texts, max_cost=one * 15, max_error_rate=1, max_concurrency=2)
    assert sources(out) == {"failed": 100, "api": 9}


def test_a_cap_of_a_block_is_for_all_its_calls_together(server: FakeOpenAI):
    one = one_costs(server)
    with pandas_llm.option_context(max_cost=one * 30), warnings.catch_warnings(action="ignore"):
        first = classify(bugs(20), max_concurrency=4)
        second = classify(bugs(20, "praise"), max_concurrency=4)
        third = classify(bugs(20, "question"), max_concurrency=4)
    assert sources(first) == {"api": 20}
    assert 5 <= sources(second)["api"] <= 10
    assert sources(third)["api"] <= 3
    assert server.bill.cost <= one * 30
    assert sources(classify(bugs(20, "question")))["pending"] == 0


def test_a_configured_cap_holds_for_calls_at_the_same_time(server: FakeOpenAI):
    one = one_costs(server)
    server.latency = 0.005
    pandas_llm.configure(max_cost=one * 40)
    outs = []

    def call(word):
        outs.append(classify(bugs(50, word), max_concurrency=4))

    with warnings.catch_warnings(action="ignore"):
        threads = [threading.Thread(target=call, args=(word,)) for word in LABELS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.bill.cost <= one * 40
    assert sum(sources(out)["api"] for out in outs) == server.bill.completions >= 20


def test_a_cap_needs_a_price_and_says_so_before_sending(server: FakeOpenAI):
    with pytest.raises(OptionsError, match=r"prices=\{'house-model'"):
        classify(bugs(5), model="house-model", max_cost=1.0)
    assert server.requests == []
    out = classify(bugs(5), model="house-model", max_cost=1.0, prices={"house-model": (1, 2)})
    expected = (server.bill.input_tokens * 1 + server.bill.output_tokens * 2) / 1e6
    assert out["t_label_cost"].sum() == pytest.approx(expected)


def test_an_unknown_price_is_nan_never_zero(server: FakeOpenAI):
    with pytest.warns(PriceWarning, match="unheard-of-model"):
        out = classify(bugs(3), model="unheard-of-model")
    assert out["t_label_cost"].isna().all()
    assert pandas_llm.last_run().cost != pandas_llm.last_run().cost
    assert out["t_label_input_tokens"].sum() == server.bill.input_tokens


def test_a_server_that_doesnt_count_makes_no_cost_up_and_no_cap_void(server: FakeOpenAI):
    one = one_costs(server)
    server.answer = lambda text, body: Answer(content='{"label": "bug"}', usage={})
    with warnings.catch_warnings(action="ignore", category=LLMWarning):
        out = classify(bugs(200), max_cost=one * 20, max_concurrency=2)
    assert sources(out)["api"] < 200
    assert out.loc[out["t_label_source"] == "api", "t_label_cost"].isna().all()


def test_a_dear_call_asks_first_and_says_what_to_write(server: FakeOpenAI):
    prices = {"gpt-6-luna": (10_000, 10_000)}
    texts = bugs(50)
    with pytest.raises(OptionsError, match=r"^about \$[\d.]+ \(.*–.*\): say max_cost=\d+ ") as caught:
        classify(texts, prices=prices)
    assert server.requests == []
    cap = float(str(caught.value).split("max_cost=")[1].split()[0])
    assert sources(classify(texts, prices=prices, max_cost=cap)) == {"api": 50}
    assert sources(classify(bugs(50, "praise"), prices=prices, confirm_above=None)) == {"api": 50}
    # What is known already costs nothing, whatever it cost.
    assert sources(classify(texts, prices=prices)) == {"cache": 50}


def test_a_given_price_prices_every_row(server: FakeOpenAI):
    out = classify(bugs(4), prices={"gpt-6-luna": (3.0, 1.5, 6.0)})
    each = (out["t_label_input_tokens"] * 3 + out["t_label_output_tokens"] * 6) / 1e6
    assert out["t_label_cost"].tolist() == pytest.approx(each.tolist())
