"""What goes wrong between a plan and its batch's end: nothing is created, asked or paid twice."""

import sqlite3
from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.batch_calls import LABELS, TEXTS, batch, check, sources
from fakes.batch_faults import Course, OnRequest, Told, problem
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches
from pandas_llm.errors import EndpointError, LLMWarning, QuotaError, ServerError


def check_sums(server, out):
    """The call's own sums are the bill."""
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost)


def handed_in(server):
    """The most often that any custom_id was in a batch."""
    return max(Counter(i for each in server.batches for i in each.custom_ids).values())


def values_in(path):
    """Answers in a store's file."""
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM requests WHERE value IS NOT NULL").fetchone()
    connection.close()
    return count


# Uploading and creating --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upload_500", "upload_reset", "upload_500_exists", "upload_reset_exists"])
def test_an_upload_that_failed_is_tried_again(server: FakeOpenAI, name):
    server.batch_fault(name)
    out = batch()
    check(server, out)
    check_sums(server, out)
    assert len(server.batches) == 1


@pytest.mark.parametrize("name", ["create_500_exists", "create_reset_exists"])
def test_a_batch_whose_creation_was_never_confirmed_is_found_and_not_created_again(server, name):
    server.batch_fault(name)
    out = batch()
    check(server, out)
    check_sums(server, out)
    assert len(server.batches) == 1
    assert (
        sum(seen.path.endswith("/batches") and "input_file_id" in seen.body for seen in server.requests) == 1
    )


def test_it_is_found_by_its_file_where_the_provider_drops_metadata(server: FakeOpenAI):
    server.batch_fault("create_500_exists")
    server.batch_fault("metadata_dropped")
    check(server, batch())
    assert len(server.batches) == 1


def test_it_is_found_among_the_batches_of_others(server: FakeOpenAI):
    batch([f"praise {i:03}" for i in range(30)], batches=Batches(poll=(0.01, 0.05), pilot=0, max_requests=1))
    server.batch_fault("create_500_exists", match=lambda n, _: n == 0)
    out = batch()
    assert out["t_label"].notna().all()
    assert len(server.batches) == 31


@pytest.mark.parametrize("name", ["create_500", "create_reset"])
def test_a_batch_that_wasnt_created_is_created_at_the_next_try(server: FakeOpenAI, name):
    server.batch_fault(name)
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_the_provider_that_cant_find_a_file_yet_is_asked_again(server: FakeOpenAI):
    server.batch_fault("cannot_find_file")
    out = batch()
    check(server, out)
    assert (len(server.batches), len(server.files)) == (1, 2)


def test_a_creation_refused_for_its_rate_waits_as_long_as_it_says(server: FakeOpenAI):
    server.batch_fault(OnRequest(operation="create", fault=faults.rate_limited(milliseconds="50")))
    check(server, batch())
    assert len(server.batches) == 1


def test_a_list_that_fails_is_asked_again_before_anything_is_created(server: FakeOpenAI):
    server.batch_fault("create_500_exists")
    server.batch_fault("list_500")
    check(server, batch())
    assert len(server.batches) == 1


def test_a_creation_that_fails_for_good_leaves_nothing_open(server: FakeOpenAI):
    server.batch_fault(OnRequest(operation="create", fault=faults.INSUFFICIENT_QUOTA))
    with pytest.raises(QuotaError) as caught:
        batch()
    assert sources(caught.value.frame) == {"api": 3, "pending": 21}
    assert not pandas_llm.runs()["status"].str.contains("creat").any()
    concurrent = pd.DataFrame({"t": TEXTS[:5]}).llm.classify("t", LABELS, progress=False)
    assert sources(concurrent) == {"cache": 3, "api": 2}
    out = batch(batches=Batches(poll=(0.01, 0.05), min_requests=1))
    check(server, out)
    assert sources(out) == {"cache": 5, "api": 3, "batch": 16}


def test_a_creation_that_may_have_happened_is_looked_for_by_the_next_call(server: FakeOpenAI):
    server.batch_fault("create_500_exists")
    server.batch_fault("list_500", times=9)
    with pytest.raises(ServerError) as caught:
        batch(max_retries=0)
    assert sources(caught.value.frame) == {"api": 3, "pending": 21}
    server.clear_faults()
    out = batch()
    check(server, out)
    assert sources(out) == {"cache": 3, "batch": 21}
    assert len(server.batches) == 1


def test_an_endpoint_without_a_batch_api_says_so(server: FakeOpenAI):
    server.batch_fault(OnRequest(operation="upload", fault=faults.error(404, None, "Not Found"), times=None))
    with pytest.raises(EndpointError, match='mode="concurrent"'):
        batch()
    assert len(server.batches) == 0
    out = pd.DataFrame({"t": TEXTS}).llm.classify("t", LABELS, progress=False)
    assert sources(out) == {"cache": 3, "api": 21}


# A batch that fails as a whole -------------------------------------------------------------------------


def test_the_line_a_rejected_file_is_blamed_for_fails_and_the_others_go_into_another_batch(server):
    server.batch_fault(Course(errors=[problem("invalid_json_line", "Not parseable.", 5)]))
    out = batch()
    assert out.index[out["t_label_source"] == "failed"].tolist() == [3 + 4]
    assert out.loc[7, "t_label_error"].startswith("BatchError: batch_")
    assert "Not parseable." in out.loc[7, "t_label_error"]
    assert out.drop(index=7)["t_label"].notna().all()
    assert server.bill.texts == dict.fromkeys(set(TEXTS) - {TEXTS[7]}, 1)
    assert [len(each.custom_ids) for each in server.batches] == [21, 20]
    check_sums(server, out)


def test_a_file_rejected_for_what_no_second_one_changes_fails_its_rows(server: FakeOpenAI):
    server.batch_fault(Course(errors=[problem("model_mismatch", "Another model.")]))
    out = batch(max_error_rate=1)
    assert sources(out) == {"api": 3, "failed": 21}
    assert len(server.batches) == 1
    check_sums(server, out)


def test_a_batch_that_failed_for_unknown_reasons_is_planned_again_at_most_twice(server: FakeOpenAI):
    server.batch_fault(Course(errors=[problem("internal_error", "Try later.")]), times=2)
    check(server, batch())
    assert len(server.batches) == 3
    server.clear()
    server.batch_fault(Course(errors=[]), times=1)
    server.batch_fault(Course(errors=[problem("internal_error", "Try later.")]), times=9)
    out = batch(
        [f"bug {i}" for i in range(24)], batches=Batches(poll=(0.01, 0.05), max_requests=12), max_error_rate=1
    )
    assert sources(out)["failed"] in (9, 12)
    assert out["t_label_error"].str.contains("3 batches lost").sum() == sources(out)["failed"]


def test_an_expired_batch_keeps_what_it_answered_and_the_rest_is_planned_again(server: FakeOpenAI):
    server.batch_fault("expired_half")
    out = batch()
    check(server, out)
    check_sums(server, out)
    assert [len(each.custom_ids) for each in server.batches] == [21, 11]
    assert {each.status for each in server.batches} == {"expired", "completed"}


def test_a_batch_that_expired_before_it_began_is_planned_again(server: FakeOpenAI):
    server.batch_fault("expired_none")
    check(server, batch())
    assert [len(each.custom_ids) for each in server.batches] == [21, 21]


def test_what_expires_every_time_is_the_rows_batch_error(server: FakeOpenAI):
    server.batch_fault("expired_none", times=3)
    out = batch(max_error_rate=1)
    assert sources(out) == {"api": 3, "failed": 21}
    assert out["t_label_error"].str.contains("completion window").sum() == 21
    assert len(server.batches) == 3
    check_sums(server, out)


# Files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["content_502", "content_cut", "content_reset"])
def test_a_download_that_failed_is_tried_again(server: FakeOpenAI, name):
    server.batch_fault(name, times=2)
    server.batch_fault("status_0", "0010", times=1)
    out = batch()
    check(server, out)
    check_sums(server, out)
    assert [len(each.custom_ids) for each in server.batches] == [21, 1]


def test_a_download_that_fails_for_good_is_made_by_the_next_call(server: FakeOpenAI):
    server.batch_fault("content_502", times=9)
    with pytest.raises(ServerError) as caught:
        batch(max_retries=0)
    assert sources(caught.value.frame) == {"api": 3, "pending": 21}
    server.clear_faults()
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_answers_in_a_file_that_is_gone_are_asked_again_and_people_are_told(server: FakeOpenAI):
    server.batch_fault("output_deleted", times=1)
    with pytest.warns(LLMWarning, match="one of its files is gone"):
        out = batch()
    assert out["t_label"].tolist() == [text.split()[0] for text in TEXTS]
    assert [len(each.custom_ids) for each in server.batches] == [21, 21]


def test_files_are_deleted_only_after_their_rows_are_in_the_store(server: FakeOpenAI, own_settings):
    known = []

    def look(_n, _name):
        known.append(values_in(own_settings))
        return False

    server.batch_fault("delete_500", match=look)
    server.batch_fault("bad_request", match="0010")
    out = batch(batches=Batches(poll=(0.01, 0.05), delete_files=True))
    assert sources(out) == {"api": 3, "batch": 20, "failed": 1}
    assert known == [23, 23, 23]
    assert all(file.deleted for file in server.files.values())
    assert len(server.files) == 3


def test_files_stay_where_nobody_asks_for_their_end_and_a_deletion_that_fails_costs_nothing(server):
    check(server, batch())
    assert not any(file.deleted for file in server.files.values())
    server.clear()
    server.batch_fault("delete_500", times=99)
    out = batch(
        [f"bug {i}" for i in range(24)], batches=Batches(poll=(0.01, 0.05), delete_files=True), max_retries=1
    )
    check(server, out)


# The server as the table tells of it -------------------------------------------------------------------


def test_everything_at_once_still_costs_each_row_once(server: FakeOpenAI):
    texts = [f"{LABELS[i % 3]} {i:04}" for i in range(200)]
    server.batch_fault("create_500_exists")
    server.batch_fault("upload_500", match=lambda n, _: n == 1)
    server.batch_fault("retrieve_500", times=5)
    server.batch_fault("content_502", times=1)
    server.batch_fault("expired_half")
    server.batch_fault("none_failed")
    server.batch_fault(Told(tell=lambda told: {**told, "metadata": None}), times=3)
    for number, name in enumerate(("missing", "status_0", "not_json", "server_error", "not_object"), 20):
        server.batch_fault(name, f"{number:04}", times=1)
    server.fault("0030", faults.outside(), times=1)
    server.fault("0031", faults.REFUSAL)
    out = batch(texts, batches=Batches(poll=(0.01, 0.05), max_requests=60))
    assert sources(out) == {"api": 3, "batch": 196, "failed": 1}
    answered = out.dropna(subset=["t_label"])
    assert answered["t_label"].tolist() == [text.split()[0] for text in answered["t"]]
    assert server.bill.texts == Counter([*texts, texts[30]])
    assert set(server.bill.batch_rows.values()) == {1}
    assert handed_in(server) <= 3
    check_sums(server, out)
