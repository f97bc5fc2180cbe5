"""How a call becomes batches: a few asked first, files cut to every limit, ids and names, one bill."""

import re
import threading
import time
import warnings
from collections import Counter

import orjson
import pandas as pd
import pytest
from fakes import faults
from fakes.batch_faults import Course, problem
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches
from pandas_llm.errors import BadRequestError, BudgetWarning, OptionsError, PromptError, RefusalError

LABELS = ["bug", "question", "praise"]
POLL = {"poll": (0.01, 0.05)}
TEXTS = [f"{LABELS[i % 3]} {i:04}" for i in range(24)]


def batch(texts=TEXTS, labels=LABELS, *, options=None, **batches):
    frame = pd.DataFrame({"t": texts})
    settings = Batches(**{**POLL, **batches})
    return frame.llm.classify("t", labels, mode="batch", batches=settings, progress=False, **(options or {}))


def concurrent(texts=TEXTS, labels=LABELS, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", labels, progress=False, **options)


def sources(out):
    return Counter(out["t_label_source"])


def sizes(server):
    return [len(each.custom_ids) for each in server.batches]


def check(server, out):
    """Every row has the answer to its own text and was paid once, by this call."""
    assert out["t_label"].tolist() == [text.split()[0] for text in out["t"]]
    assert server.bill.texts == dict.fromkeys(set(out["t"]), 1)
    assert set(server.bill.batch_rows.values()) <= {1}
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost)


def uploads(server):
    return [file for file in server.files.values() if file.purpose == "batch"]


# Names and ids -----------------------------------------------------------------------------------------


def test_a_batch_bears_its_keys_its_run_and_its_shard(server: FakeOpenAI):
    out = batch(options={"details": "all"})
    check(server, out)
    (made,) = server.batches
    keys = dict(zip(out["t"], out["t_label_key"], strict=True))
    lines = {line["custom_id"]: line["body"]["messages"][1]["content"] for line in made.lines}
    assert lines == {keys[text]: f"```\n{text}\n```" for text in TEXTS[3:]}
    assert all(re.fullmatch("[0-9a-f]{32}", custom_id) for custom_id in lines)
    assert {line["method"] for line in made.lines} == {"POST"}
    assert {line["url"] for line in made.lines} == {made.endpoint} == {"/v1/chat/completions"}
    assert set(made.metadata) == {"pandas_llm_run", "pandas_llm_shard", "pandas_llm_sha256"}
    assert f"r_{made.metadata['pandas_llm_run']}" == pandas_llm.last_run().id
    created = next(seen.body for seen in server.requests if "completion_window" in seen.body)
    assert created["completion_window"] == "24h"
    (upload,) = uploads(server)
    assert upload.filename.endswith(".jsonl")
    assert not any("text" in word or "bug" in word for word in (upload.filename, *made.metadata.values()))


def test_no_create_is_left_to_the_sdk_to_retry(server: FakeOpenAI):
    server.batch_fault("create_500_exists")
    batch()
    created = [seen for seen in server.requests if "completion_window" in seen.body]
    assert [seen.headers.get("x-stainless-retry-count", "0") for seen in created] == ["0"]


# The first three ---------------------------------------------------------------------------------------


def test_three_that_fail_alike_are_raised_and_nothing_is_uploaded(server: FakeOpenAI):
    server.fault(
        None, faults.error(400, "invalid_value", "Invalid value: 'effort'.", param="reasoning_effort")
    )
    with pytest.raises(BadRequestError, match="effort") as caught:
        batch()
    assert sources(caught.value.frame) == {"failed": 3, "pending": 21}
    assert (len(server.requests), server.files) == (3, {})
    assert server.bill.cost == 0


def test_three_refusals_are_raised_and_paid_for(server: FakeOpenAI):
    server.fault(None, faults.REFUSAL)
    with pytest.raises(RefusalError):
        batch()
    assert (server.bill.completions, len(server.batches)) == (3, 0)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost)


def test_one_of_three_that_fails_is_its_own_affair(server: FakeOpenAI):
    server.fault("0001", faults.CONTENT_FILTER)
    out = batch()
    assert sources(out) == {"api": 2, "failed": 1, "batch": 21}
    assert sizes(server) == [21]


@pytest.mark.parametrize(("pilot", "live"), [(0, 0), (1, 1), (7, 7), (99, 24)])
def test_as_many_are_asked_first_as_one_says(server: FakeOpenAI, pilot, live):
    out = batch(pilot=pilot)
    check(server, out)
    assert (server.bill.completions, server.bill.batch_completions) == (live, 24 - live)
    assert sizes(server) == ([24 - live] if live < 24 else [])


def test_few_requests_arent_worth_a_file(server: FakeOpenAI, capfd):
    frame = pd.DataFrame({"t": TEXTS[:20]})
    out = frame.llm.classify("t", LABELS, mode="batch", batches=Batches(**POLL))
    assert sources(out) == {"api": 20}
    assert server.files == {}
    assert "20 to ask are fewer than a batch is worth (Batches(min_requests=21))" in capfd.readouterr().err
    assert sources(batch(TEXTS[:22], min_requests=2, pilot=0)) == {"cache": 20, "batch": 2}


# Several files -----------------------------------------------------------------------------------------


def test_a_file_holds_no_more_requests_than_allowed(server: FakeOpenAI):
    server.batch_requests = 5
    check(server, batch(max_requests=5))
    assert sizes(server) == [5, 5, 5, 5, 1]
    assert len({each.metadata["pandas_llm_shard"] for each in server.batches}) == 5
    ids = [custom_id for each in server.batches for custom_id in each.custom_ids]
    assert len(ids) == len(set(ids)) == 21


def test_a_file_holds_no_more_bytes_than_allowed(server: FakeOpenAI):
    server.batch_bytes = 4_000
    check(server, batch(max_bytes=4_000))
    assert all(3_000 < file.bytes <= 4_000 for file in uploads(server)[:-1])
    assert sum(sizes(server)) == 21


def test_a_row_too_long_for_any_file_fails_alone(server: FakeOpenAI):
    long = "praise " * 1_000
    texts = [*TEXTS[:10], long, *TEXTS[10:]]
    out = batch(texts, max_bytes=4_000)
    assert sources(out) == {"api": 3, "batch": 21, "failed": 1}
    assert out.loc[10, "t_label_error"].startswith("ContextLengthError: The request has 7,")
    assert "a batch file takes 4,000" in out.loc[10, "t_label_error"]
    assert set(server.bill.texts) == set(TEXTS)
    out = concurrent(texts)
    assert sources(out) == {"cache": 24, "api": 1}


def test_a_row_beyond_the_models_context_fails_alone(server: FakeOpenAI):
    server.fault("0010", faults.CONTEXT_LENGTH)
    out = batch()
    assert out.index[out["t_label_source"] == "failed"].tolist() == [10]
    assert out.loc[10, "t_label_error"].startswith("ContextLengthError")
    assert sizes(server) == [21]


def test_each_shard_fails_for_itself(server: FakeOpenAI):
    server.batch_fault("expired_half", match=lambda n, _: n == 1)
    server.batch_fault(
        Course(errors=[problem("internal_error", "Try later.")]), match=lambda n, _: n == 2, times=1
    )
    server.batch_fault("missing", "0004", times=1)
    check(server, batch(max_requests=7))
    assert sizes(server)[:3] == [7, 7, 7]
    assert sum(sizes(server)[3:]) == 1 + 4 + 7


# The enqueued-token limit ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["openai", "azure"])
def test_a_limit_is_learnt_from_its_refusal_the_file_split_and_the_rest_queued(server: FakeOpenAI, words):
    server.enqueued_limit, server.enqueued_words = 900, words
    check(server, batch())
    assert [each.status for each in server.batches] == ["failed", *["completed"] * (len(server.batches) - 1)]
    assert len(server.batches) <= 4
    assert all(each.input.tokens <= 900 for each in server.batches[1:])

    server.clear()  # the store knows it from now on
    check(server, batch([f"bug {i}" for i in range(40)]))
    assert {each.status for each in server.batches} == {"completed"}


def test_shards_wait_for_room_and_never_ask_for_more_than_the_limit(server: FakeOpenAI):
    server.enqueued_limit = 1_000
    batch()
    server.clear()
    server.batch_seconds = 0.2
    check(server, batch([f"bug {i:02}" for i in range(60)]))
    assert len(server.batches) >= 4
    assert {each.status for each in server.batches} == {"completed"}


def test_a_shard_refused_though_there_should_be_room_waits_for_another_to_end(server: FakeOpenAI):
    server.hold_batches = True
    full = Course(errors=[problem("token_limit_exceeded", "Limit: 2,000,000 enqueued tokens.")])
    server.batch_fault(full, match=lambda n, _: n > 0, times=99)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(batch(max_requests=11)))
    thread.start()
    time.sleep(1)
    assert 2 <= len(server.batches) <= 6
    server.clear_faults()
    server.release_batches()
    thread.join(20)
    check(server, outcome[0])


def test_a_limit_nobody_names_is_waited_for_once_and_then_the_file_is_split(server: FakeOpenAI):
    server.batch_fault(Course(errors=[problem("token_limit_exceeded", "Too many.")]), times=2)
    check(server, batch())
    assert sizes(server)[:2] == [21, 21]
    assert sum(sizes(server)[2:]) == 21
    assert max(sizes(server)[2:]) < 21
    assert len(uploads(server)) == 1 + len(sizes(server)[2:])


def test_a_batch_others_leave_no_room_for_is_tried_again_with_the_same_file(server: FakeOpenAI):
    server.batch_fault("token_limit")
    check(server, batch())
    assert sizes(server) == [21, 21]
    assert len(uploads(server)) == 1


def test_a_request_above_the_limit_all_by_itself_fails_alone(server: FakeOpenAI):
    server.enqueued_limit = 300
    long = "praise " * 300
    out = batch([*TEXTS, long])
    assert sources(out) == {"api": 3, "batch": 21, "failed": 1}
    assert out.loc[24, "t_label_error"].startswith("ContextLengthError: The request has about")
    assert server.bill.texts == dict.fromkeys(TEXTS, 1)


def test_where_nobody_waits_what_finds_no_room_is_pending_and_said_so(server: FakeOpenAI):
    server.enqueued_limit = 1_000
    batch()
    server.clear()
    texts = [f"bug {i:02}" for i in range(60)]
    server.hold_batches = True
    out = batch(texts, options={"wait": False})
    assert len(server.batches) == 1
    assert out["t_label_error"].str.contains(r"enqueued-token limit \(1,000\) leaves no room yet").sum() >= 40
    server.release_batches()
    check_all = batch(texts)
    assert check_all["t_label"].eq("bug").all()
    assert server.bill.texts == dict.fromkeys(texts, 1)


# Submitted and left ------------------------------------------------------------------------------------


def test_what_is_submitted_is_pending_for_everybody_and_collected_by_the_same_line(server: FakeOpenAI):
    server.hold_batches = True
    out = batch(options={"wait": False})
    waits = f"Pending: {server.batches[0].id} in_progress"
    assert sources(out) == {"api": 3, "pending": 21}
    assert set(out["t_label_error"].dropna()) == {waits}
    assert sources(batch(options={"wait": False})) == {"cache": 3, "pending": 21}
    beside = concurrent([*TEXTS, "bug 9999"])
    assert sources(beside) == {"cache": 3, "pending": 21, "api": 1}
    assert set(beside["t_label_error"].dropna()) == {waits}
    server.release_batches()
    out = batch([*TEXTS, "bug 9999"])
    assert sources(out) == {"cache": 4, "batch": 21}
    assert server.bill.texts == dict.fromkeys([*TEXTS, "bug 9999"], 1)
    assert sizes(server) == [21]


def test_part_of_the_rows_collects_the_whole_batch(server: FakeOpenAI):
    batch(options={"wait": False})
    part = batch(TEXTS[10:14])
    assert sources(part) == {"batch": 4}
    assert concurrent()["t_label"].tolist() == [text.split()[0] for text in TEXTS]
    assert server.bill.texts == dict.fromkeys(TEXTS, 1)


def test_an_older_question_still_on_its_way_refuses_a_second_batch_over_the_same_rows(server: FakeOpenAI):
    server.hold_batches = True
    batch(options={"wait": False})
    with pytest.raises(OptionsError, match=r"force=True") as caught:
        batch(labels=["bug", "question"])
    assert server.batches[0].id in str(caught.value)
    assert 'pandas_llm.cancel("r_1")' in str(caught.value)
    assert sizes(server) == [21]
    server.release_batches()
    assert batch(labels=["bug", "question", "other"], force=True)["t_label"].notna().all()
    assert sizes(server) == [21, 21]


def test_asking_anew_waits_for_the_batch_that_is_already_paid_for(server: FakeOpenAI):
    server.hold_batches = True
    batch(options={"wait": False})
    server.release_batches()
    out = batch(options={"cache": "refresh"}, min_requests=1)
    assert out["t_label"].notna().all()
    assert Counter(server.bill.batch_rows.values()) == {1: 21}
    assert sum(server.bill.texts.values()) <= 24 + 3


# Money and bad input -----------------------------------------------------------------------------------


def test_a_cap_is_kept_at_the_price_of_batches(server: FakeOpenAI):
    check(server, batch())
    one = server.bill.cost / 22.5
    server.clear()
    with pytest.warns(BudgetWarning):
        out = batch([f"bug {i:04}" for i in range(100, 200)], options={"max_cost": one * 35})
    assert server.bill.cost <= one * 35
    counts = sources(out)
    assert 20 <= counts["batch"] <= 70
    assert counts["pending"] == 97 - counts["batch"]
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_what_a_batch_cant_do_is_refused_before_anything_is_sent(server: FakeOpenAI):
    for options, word in (
        ({"params": {"stream": True}}, "stream"),
        ({"cache": False}, "cache"),
        ({"deadline": "6h"}, "deadline"),
        ({"params": {"n": 2}}, "n"),
    ):
        with pytest.raises(OptionsError, match=word):
            batch(options=options)
    with pytest.raises(PromptError):
        pd.DataFrame({"t": TEXTS}).llm.classify("missing", LABELS, mode="batch")
    assert server.requests == []


def test_an_unknown_price_is_nan_and_never_the_standard_one(server: FakeOpenAI):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = batch(options={"model": "my-model"})
    assert out["t_label_cost"].isna().all()
    assert "my-model" in str(warned[0].message)
    assert server.bill.batch_completions == 21


def test_the_files_lines_are_what_the_estimate_writes(server: FakeOpenAI, tmp_path):
    frame = pd.DataFrame({"t": TEXTS})
    frame.llm.estimate.classify("t", LABELS).write_jsonl(tmp_path / "input.jsonl")
    batch(pilot=0)
    written = map(orjson.loads, (tmp_path / "input.jsonl").read_bytes().splitlines())
    assert list(written) == server.batches[0].lines
