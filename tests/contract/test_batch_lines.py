"""What stands in a batch's files: each line is read on its own, every row gets one outcome and pays once."""

import math
import warnings
from collections import Counter

import orjson
import pandas as pd
import pytest
from fakes import faults
from fakes.batch_faults import Course, OnLine, Told, dumps, http_error
from fakes.openai_server import Answer, FakeOpenAI

import pandas_llm
from pandas_llm import Batches
from pandas_llm.errors import TooManyErrors

LABELS = ["bug", "question", "praise"]
QUICK = Batches(poll=(0.01, 0.05))
TEXTS = [f"{LABELS[i % 3]} {i:04}" for i in range(24)]
REST = TEXTS[3:]
"""Those that go into the batch: three are asked first."""


def batch(texts=TEXTS, batches=QUICK, **options):
    frame = pd.DataFrame({"t": texts})
    return frame.llm.classify("t", LABELS, mode="batch", batches=batches, progress=False, **options)


def sources(out):
    return Counter(out["t_label_source"])


def error_of(out, word):
    """The error of the rows whose text holds this word."""
    (said,) = set(out.loc[out["t"].str.contains(word, regex=False), "t_label_error"])
    return said


def check(server, out, *, failed=(), paid=None):
    """Every row has the answer to its own text, or is one of those that fail, and the sums are the bill."""
    bill, run = server.bill, pandas_llm.last_run()
    missing = out["t_label"].isna()
    assert out.loc[~missing, "t_label"].tolist() == [t.split()[0] for t in out.loc[~missing, "t"]]
    assert sorted(out.loc[missing, "t"]) == sorted(failed)
    assert set(out.loc[missing, "t_label_source"]) <= {"failed"}
    assert out["t_label_error"].notna().tolist() == missing.tolist()
    assert out["t_label_cost"].sum() == pytest.approx(run.cost) == pytest.approx(bill.cost)
    assert (run.input_tokens, run.output_tokens) == (bill.input_tokens, bill.output_tokens)
    assert bill.texts == (dict.fromkeys(set(out["t"]), 1) if paid is None else paid)
    assert set(bill.batch_rows.values()) <= {1}


def inputs(server):
    """How often each custom_id was handed in."""
    return Counter(custom_id for each in server.batches for custom_id in each.custom_ids)


def twice(server):
    """The texts that were handed in more than once."""
    bodies = {line["custom_id"]: line["body"] for each in server.batches for line in each.lines}
    return {bodies[i]["messages"][1]["content"][4:-4] for i, n in inputs(server).items() if n > 1}


def found_again(out):
    """The same line again costs nothing."""
    again = batch()
    assert again["t_label"].equals(out["t_label"])
    return sources(again)


# Nothing wrong with the lines --------------------------------------------------------------------------


def test_the_sum_is_the_bill_with_three_asked_first_and_the_others_at_half_price(server: FakeOpenAI):
    out = batch()
    check(server, out)
    assert sources(out) == {"api": 3, "batch": 21}
    assert (server.bill.completions, server.bill.batch_completions, server.bill.batches) == (3, 21, 1)
    costs = out.groupby("t_label_source", observed=True)["t_label_cost"].mean()
    assert costs["batch"] == pytest.approx(costs["api"] / 2, rel=0.01)
    assert found_again(out) == {"cache": 24}
    assert len(server.batches) == 1


@pytest.mark.parametrize("order", ["shuffled", "reversed", "given"])
def test_answers_are_matched_by_id_in_whatever_order_they_come(server: FakeOpenAI, order):
    server.batch_fault(Course(order=order))
    out = batch()
    check(server, out)
    assert max(inputs(server).values()) == 1


def test_line_separators_within_a_text_end_no_line(server: FakeOpenAI):
    server.batch_fault("separators")
    texts = [f"{text} \u2028\u2029\x85\x0b\x0c\x1c end" for text in TEXTS]
    out = batch(texts)
    check(server, out)
    raw = server.batches[0].output.content
    assert "\u2028".encode() in raw
    assert len(raw.decode().splitlines()) > raw.count(b"\n") == 21


@pytest.mark.parametrize("name", ["blank", "none_failed", "counts_frozen", "no_counts", "metadata_dropped"])
def test_odd_ends_and_odd_counts_change_nothing(server: FakeOpenAI, name):
    server.batch_fault(name)
    out = batch()
    check(server, out)
    assert max(inputs(server).values()) == 1


def test_the_first_answer_of_a_doubled_id_counts(server: FakeOpenAI):
    server.batch_fault("doubled", match="0007")
    server.batch_fault("doubled", match="0012")
    out = batch()
    check(server, out)
    assert server.batches[0].output.content.count(b"\n") == 23
    assert max(inputs(server).values()) == 1


def test_a_success_beside_an_error_line_of_the_same_id_counts(server: FakeOpenAI):
    def both(line, _body):
        lost = {**line, "response": {"status_code": 0, "request_id": "", "body": {}}}
        refused = {**line, "response": {"status_code": 400, "body": {"error": {"message": "No."}}}}
        return dumps(lost) + dumps(refused) + dumps(line)

    server.batch_fault(OnLine(spoil=both, billed=True), match="0009")
    out = batch()
    check(server, out)
    assert max(inputs(server).values()) == 1


def test_lines_of_strangers_are_nobodys(server: FakeOpenAI):
    def strange(line, _body):
        return dumps({**line, "custom_id": "0" * 32}) + dumps({**line, "custom_id": "row-1"}) + dumps(line)

    server.batch_fault(OnLine(spoil=strange, billed=True), match="0011")
    check(server, batch())


# What is lost is planned again -------------------------------------------------------------------------

LOST = [
    *("missing", "status_0", "error_in_200", "not_json", "not_object"),
    *("rate_limited", "server_error", "truncated"),
]


@pytest.mark.parametrize("name", LOST)
def test_a_row_that_a_batch_lost_is_asked_again_by_another_one(server: FakeOpenAI, name):
    server.batch_fault(name, times=1) if name == "truncated" else server.batch_fault(name, "0010", times=1)
    out = batch()
    check(server, out)
    assert sources(out) == {"api": 3, "batch": 21}
    assert [len(each.custom_ids) for each in server.batches] == [21, 1]
    if name != "truncated":
        assert twice(server) == {TEXTS[10]}


def test_rows_lost_in_every_way_at_once_are_all_asked_again_together(server: FakeOpenAI):
    for number, name in enumerate(LOST[:-1], 5):
        server.batch_fault(name, f"{number:04}", times=1)
    server.batch_fault("none_failed")
    out = batch()
    check(server, out)
    assert [len(each.custom_ids) for each in server.batches] == [21, len(LOST) - 1]
    assert twice(server) == set(TEXTS[5 : 5 + len(LOST) - 1])


def test_error_lines_are_read_though_the_counts_say_none_failed(server: FakeOpenAI):
    for number in range(10):
        server.batch_fault("status_0", f"{number + 10:04}", times=1)
    server.batch_fault("none_failed")
    out = batch()
    check(server, out)
    assert [len(each.custom_ids) for each in server.batches] == [21, 10]


def test_a_completed_batch_without_any_file_is_planned_again(server: FakeOpenAI):
    server.batch_fault("all_missing")
    out = batch()
    check(server, out)
    assert server.batches[0].output is None
    assert set(inputs(server).values()) == {2}


def test_what_three_batches_lost_is_the_rows_error_and_free_to_be_asked_again(server: FakeOpenAI):
    server.batch_fault("missing", match="0006")
    server.batch_fault("server_error", match="0008")
    out = batch()
    check(server, out, failed=[TEXTS[6], TEXTS[8]], paid=dict.fromkeys(set(TEXTS) - {TEXTS[6], TEXTS[8]}, 1))
    assert [len(each.custom_ids) for each in server.batches] == [21, 2, 2]
    assert error_of(out, "0006").startswith("BatchError: 3 batches lost this request")
    assert "500" in error_of(out, "0008")
    server.clear_faults()
    again = batch()
    assert sources(again) == {"cache": 22, "api": 2}
    assert again["t_label"].notna().all()
    assert server.bill.texts == dict.fromkeys(TEXTS, 1)


# What is permanent is the row's ------------------------------------------------------------------------


def test_refused_requests_are_their_rows_errors_and_in_no_second_batch(server: FakeOpenAI):
    server.batch_fault("bad_request", match="0005")
    server.batch_fault("error_in_output", match="0006")
    server.batch_fault("vllm", match="0007")
    server.batch_fault(http_error(faults.CONTEXT_LENGTH), match="0008")
    server.batch_fault(http_error(faults.CONTENT_FILTER), match="0009")
    server.batch_fault(http_error(faults.CONTENT_FORBIDDEN), match="0010")
    failed = TEXTS[5:11]
    out = batch()
    check(server, out, failed=failed, paid=dict.fromkeys(set(TEXTS) - set(failed), 1))
    assert sources(out) == {"api": 3, "batch": 15, "failed": 6}
    assert len(server.batches) == 1
    kinds = [error_of(out, text).partition(":")[0] for text in failed]
    assert kinds == [
        *("BadRequestError", "BadRequestError", "ContextLengthError"),
        *("ContextLengthError", "ContentFilterError", "ContentFilterError"),
    ]
    assert out.loc[out["t"].isin(failed), "t_label_cost"].tolist() == [0.0] * 6


def test_useless_answers_are_paid_for_remembered_and_not_bought_again(server: FakeOpenAI):
    server.fault("0005", faults.REFUSAL)
    server.fault("0006", faults.CUT_OFF)
    server.fault("0007", faults.EMPTY)
    server.fault("0008", faults.FILTERED)
    out = batch()
    check(server, out, failed=TEXTS[5:9])
    kinds = [error_of(out, text).partition(":")[0] for text in TEXTS[5:9]]
    assert kinds == ["RefusalError", "LengthError", "EmptyOutputError", "RefusalError"]
    assert (out.loc[5:8, "t_label_cost"] > 0).all()
    server.clear_faults()
    assert found_again(out) == {"cache": 20, "failed": 4}
    assert len(server.batches) == 1

    bought = batch(retry_failed=True)
    assert sources(bought) == {"cache": 20, "api": 4}
    assert bought["t_label"].notna().all()


def test_replies_outside_the_labels_are_asked_once_more_at_once_and_billed_to_their_rows(server: FakeOpenAI):
    server.fault("0006", faults.outside(), times=1)
    server.fault("0009", faults.INVALID_JSON, times=1)
    server.fault("0012", faults.outside())
    out = batch(details="all")
    check(server, out, failed=[TEXTS[12]], paid=Counter([*TEXTS, TEXTS[6], TEXTS[9], TEXTS[12]]))
    assert error_of(out, "0012").startswith("SchemaMismatchError")
    assert (server.bill.completions, server.bill.batches) == (3 + 3, 1)
    assert out.loc[[6, 9, 12], "t_label_attempts"].tolist() == [2, 2, 2]
    assert out.loc[[6, 9, 12], "t_label_source"].tolist() == ["batch", "batch", "failed"]
    repair = next(seen for seen in server.requests if seen.text == TEXTS[6])
    assert [message["role"] for message in repair.body["messages"]] == ["system", "user", "assistant", "user"]
    # An answer's repair is dear: it is at the full price.
    assert out.loc[6, "t_label_cost"] > 2.5 * out.loc[5, "t_label_cost"]
    server.clear_faults()
    assert found_again(out) == {"cache": 23, "failed": 1}


def test_an_answer_without_usage_has_no_price(server: FakeOpenAI):
    server.answer = lambda text, _: Answer(usage={} if "0010" in text else None)
    with warnings.catch_warnings(action="ignore"):
        out = batch()
    assert out["t_label"].notna().all()
    assert math.isnan(out["t_label_cost"].sum(min_count=1))
    assert math.isnan(pandas_llm.last_run().cost)
    assert found_again(out) == {"cache": 24}


# Many failures -----------------------------------------------------------------------------------------


def test_a_batch_of_which_every_request_failed_has_only_an_error_file(server: FakeOpenAI):
    server.batch_fault("all_failed")
    out = batch(max_error_rate=1)
    check(server, out, failed=REST, paid=dict.fromkeys(TEXTS[:3], 1))
    assert server.batches[0].output is None
    assert server.batches[0].error is not None
    assert len(server.batches) == 1


def test_a_batch_that_was_refused_row_by_row_for_its_rate_is_planned_again(server: FakeOpenAI):
    server.batch_fault("all_429")
    check(server, batch())
    assert set(inputs(server).values()) == {2}


def test_too_many_errors_send_nothing_more_and_lose_nothing_of_the_file(server: FakeOpenAI):
    texts = [f"{LABELS[i % 3]} {i:04}" for i in range(300)]
    server.batch_fault(Course(order="given"), times=2)
    server.batch_fault("bad_request", match=lambda _n, text: 20 <= int(text[-4:]) < 100)
    server.batch_fault("missing", match="0150", times=1)
    server.fault("0151", faults.outside(), times=1)
    with pytest.raises(TooManyErrors) as caught:
        batch(texts, max_error_rate=0.3)
    out = caught.value.frame
    assert (server.bill.completions, len(server.batches)) == (3, 1)
    counts = sources(out)
    assert counts["failed"] == 80
    assert counts["api"] + counts["batch"] >= 300 - 80 - 2
    assert set(out.loc[out["t_label_source"] == "pending", "t"]) <= {texts[150], texts[151]}

    again = batch(texts, Batches(poll=(0.01, 0.05), pilot=0), max_error_rate=1)
    assert again["t_label"].isna().sum() == 80
    assert server.bill.texts == Counter({text: 1 for i, text in enumerate(texts) if not 20 <= i < 100}) + (
        Counter([texts[151]])
    )


def test_too_many_refusals_let_no_repair_be_sent_and_the_same_line_sends_it(server: FakeOpenAI):
    texts = [f"{LABELS[i % 3]} {i:04}" for i in range(300)]
    server.fault(lambda _n, text: 20 <= int(text[-4:]) < 140, faults.REFUSAL)
    server.fault("0151", faults.outside(), times=1)
    with pytest.raises(TooManyErrors) as caught:
        batch(texts, max_error_rate=0.3)
    out = caught.value.frame
    assert server.bill.completions == 3
    assert out.index[out["t_label_source"] == "pending"].tolist() == [151]
    again = batch(texts, max_error_rate=1)
    assert sources(again) == {"cache": 179, "failed": 120, "batch": 1}
    assert server.bill.texts == Counter([*texts, texts[151]])
    assert out["t_label_cost"].sum() + again["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_a_row_of_a_failed_batch_that_was_answered_all_the_same_is_kept(server: FakeOpenAI):
    def failed(told):
        if told["status"] != "completed":
            return told
        problem = {"code": "invalid_request", "message": "Something was wrong.", "line": None, "param": None}
        return {**told, "status": "failed", "errors": {"object": "list", "data": [problem]}}

    server.batch_fault(Told(tell=failed))
    server.batch_fault("missing", match="0010")
    server.batch_fault("bad_request", match="0011")
    out = batch()
    check(server, out, failed=TEXTS[10:12], paid=dict.fromkeys([*TEXTS[:10], *TEXTS[12:]], 1))
    assert "Something was wrong" in error_of(out, "0010")
    assert error_of(out, "0011").startswith("BadRequestError")
    assert len(server.batches) == 1


def test_an_account_without_money_within_a_batch_ends_the_run_and_keeps_what_was_answered(server: FakeOpenAI):
    server.batch_fault(http_error(faults.INSUFFICIENT_QUOTA), match="0010", times=1)
    server.batch_fault("missing", match="0011", times=1)
    with pytest.raises(pandas_llm.errors.QuotaError) as caught:
        batch()
    out = caught.value.frame
    assert sources(out) == {"api": 3, "batch": 19, "pending": 2}
    assert batch()["t_label"].tolist() == [text.split()[0] for text in TEXTS]
    assert server.bill.texts == dict.fromkeys(TEXTS, 1)


def test_errors_are_raised_at_the_end_where_that_is_asked_for(server: FakeOpenAI):
    server.batch_fault("bad_request", match="0010")
    with pytest.raises(pandas_llm.errors.RowErrors) as caught:
        batch(on_error="raise")
    check(server, caught.value.frame, failed=[TEXTS[10]], paid=dict.fromkeys(set(TEXTS) - {TEXTS[10]}, 1))


def test_no_line_holds_more_than_the_four_fields_and_the_body_of_a_live_request(server: FakeOpenAI):
    batch(params={"temperature": 0, "seed": 7})
    live = next(seen.body for seen in server.requests if seen.text == TEXTS[0])
    (line,) = (line for line in server.batches[0].lines if TEXTS[5] in orjson.dumps(line).decode())
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert {**line["body"], "messages": 0} == {**live, "messages": 0}
    assert line["body"]["messages"][0] == live["messages"][0]


def test_nothing_warns(server: FakeOpenAI):
    with warnings.catch_warnings(action="error"):
        batch()
