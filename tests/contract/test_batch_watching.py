"""A batch as it is watched, cancelled and given up: no look at it costs a row, and none is paid twice."""

import time
from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.batch_calls import QUICK, TEXTS, batch, check, in_thread, sources, until
from fakes.batch_faults import OnRequest
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches
from pandas_llm.errors import AuthError, BatchError, IncompleteWarning, LLMWarning, ServerError

# Looks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retrieve_500", "retrieve_reset"])
def test_a_look_that_failed_is_only_a_look(server: FakeOpenAI, name):
    server.batch_fault(name, times=3)
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_a_status_nobody_knows_is_polled_on_and_told(server: FakeOpenAI):
    server.batch_fault("unknown_status")
    with pytest.warns(LLMWarning, match="'paused'") as warned:
        out = batch()
    assert len(warned) == 1
    check(server, out)
    assert len(server.batches) == 1


def test_a_key_that_is_refused_ends_the_watching_and_not_the_batch(server: FakeOpenAI):
    server.batch_fault(OnRequest(operation="retrieve", fault=faults.UNAUTHORIZED))
    with pytest.raises(AuthError) as caught:
        batch()
    assert sources(caught.value.frame) == {"api": 3, "pending": 21}
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_a_batch_the_endpoint_doesnt_know_is_named_and_can_be_collected_with_the_right_key(server):
    server.batch_fault("retrieve_404")
    with pytest.raises(BatchError, match=r"clear_cache\(run='r_1'\)"):
        batch()
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_one_batch_that_cant_be_watched_ends_the_run_though_another_waits_for_its_room(server: FakeOpenAI):
    server.enqueued_limit = 900
    batch([f"praise {i:03}" for i in range(40)])  # which learns the limit
    server.batch_fault("retrieve_404")
    server.hold_batches = True
    with pytest.raises(BatchError, match="isn't known"):
        batch([f"bug {i:03}" for i in range(60)])
    server.release_batches()


def test_full_counts_arent_done_while_a_batch_is_finalizing(server: FakeOpenAI, capfd):
    server.hold_batches = "finalizing"
    thread, outcome = in_thread(lambda: batch(progress=True))
    until(lambda: "finalizing · 21 of 21" in capfd.readouterr().err)
    assert thread.is_alive()
    server.release_batches()
    thread.join(10)
    check(server, outcome[0])


def test_a_stall_is_shown_and_not_acted_on_and_cancelling_brings_the_rows_back(server: FakeOpenAI, capfd):
    server.batch_fault("stall")
    out = batch(wait=False)
    assert sources(out) == {"api": 3, "pending": 21}
    assert out.loc[5, "t_label_error"] == f"Pending: {server.batches[0].id} in_progress"
    age_what_is_known_of_batches(42 * 60)
    thread, outcome = in_thread(lambda: batch(progress=True))
    said = []
    until(lambda: "no change for 42 min" in (said.append(capfd.readouterr().err) or "".join(said)))
    assert "expires in 23 h" in "".join(said)
    assert len(server.batches) == 1
    pandas_llm.cancel(pandas_llm.runs()["id"].iloc[0])
    thread.join(10)
    cancelled = outcome[0].frame  # of the warning that rows are missing
    assert sources(cancelled) == {"cache": 3, "pending": 21}
    assert cancelled.loc[5, "t_label_error"] == f"Pending: {server.batches[0].id} cancelled"
    out = batch(batches=Batches(poll=(0.01, 0.05), min_requests=1))
    check(server, out)


def age_what_is_known_of_batches(seconds):
    """Let what the journal says of open batches be so old."""
    from pandas_llm.prepare import store_of
    from pandas_llm.settings import resolve

    shards = store_of(resolve({})[0]).shards
    (shard,) = shards.open()
    shard = shards.take(shard, timeout=60)
    shards.note(shard, changed_at=time.time() - seconds)
    shards.leave(shard)


def test_a_cancelled_batch_keeps_what_it_answered_and_the_same_line_asks_the_rest(server: FakeOpenAI):
    server.batch_seconds = 100
    batch(wait=False)
    server.clock.advance(50)
    with pandas_llm.option_context(batches=QUICK):
        pandas_llm.cancel("r_1")
    done = server.bill.batch_completions
    assert 5 <= done <= 16
    server.batch_seconds = 0
    out = batch(batches=Batches(poll=(0.01, 0.05), min_requests=1, pilot=0))
    check(server, out)
    assert sources(out)["batch"] >= 21 - done
    assert [len(each.custom_ids) for each in server.batches] == [21, 21 - done]


def test_a_batch_that_completes_while_it_is_cancelled_is_collected_whole(server: FakeOpenAI):
    server.batch_fault("cancel_race")
    server.hold_batches = True
    batch(wait=False)
    with pandas_llm.option_context(batches=QUICK):
        pandas_llm.cancel("r_1")
    out = batch()
    check(server, out)
    assert len(server.batches) == 1


def test_what_a_batch_lost_isnt_planned_again_while_its_run_is_cancelled(server: FakeOpenAI):
    server.batch_fault("cancel_race")
    server.batch_fault("missing", match="0010", times=1)
    server.hold_batches = True
    thread, outcome = in_thread(batch)
    until(lambda: server.batches and server.batches[0].status == "in_progress")
    pandas_llm.cancel("r_1")
    thread.join(10)
    assert sources(outcome[0].frame) == {"api": 3, "batch": 20, "pending": 1}
    check(server, batch())
    assert len(server.batches) == 1  # the last one alone isn't worth another


def test_somebody_elses_cancelling_leaves_rows_pending_and_bills_what_was_answered(server: FakeOpenAI):
    import openai

    server.batch_seconds = 100
    batch(wait=False)
    server.clock.advance(50)
    with openai.OpenAI(base_url=server.base_url, api_key="sk-other") as client:
        client.batches.cancel(server.batches[0].id)
    with pytest.warns(IncompleteWarning, match="Cancelled: .* of 24 rows are pending"):
        out = batch()
    done = server.bill.batch_completions
    assert sources(out) == {"cache": 3, "batch": done, "pending": 21 - done}
    assert len(server.batches) == 1


def test_a_repair_that_was_cut_off_loses_neither_its_row_nor_the_reply_before_it(
    server: FakeOpenAI,
):
    server.fault("0006", faults.outside(), times=1)
    server.fault("0006", faults.error(500))
    thread, outcome = in_thread(batch)
    until(lambda: server.statuses[500])
    pandas_llm.cancel(pandas_llm.runs()["id"][0])
    thread.join()
    out = outcome[0] if isinstance(outcome[0], pd.DataFrame) else outcome[0].frame
    assert out.index[out["t_label_source"] == "pending"].tolist() == [6]
    server.clear_faults()
    again = batch()
    assert again.loc[6, ["t_label", "t_label_source"]].tolist() == ["bug", "batch"]
    assert len(server.batches) == 1
    assert server.bill.texts == Counter([*TEXTS, TEXTS[6]])
    assert out["t_label_cost"].sum() + again["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_files_that_another_project_s_key_does_not_see_are_not_bought_again(server: FakeOpenAI):
    server.batch_fault("content_502", times=100)
    with pytest.raises(ServerError):
        batch(max_retries=0)
    server.clear_faults()
    server.batch_fault("output_deleted")
    server.batch_fault("retrieve_404", times=100)
    with pytest.raises(BatchError, match="the key of another project"):
        batch()
    assert len(server.batches) == 1
    server.clear_faults()
    check(server, batch())
    assert len(server.batches) == 1
