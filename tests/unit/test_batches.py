"""Batches as decisions: statuses, the journal's steps, what failed ones say, whose they are, when to look."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from pandas_llm.core.batches import (
    METADATA,
    PERMANENT,
    STATES,
    STATUSES,
    TERMINAL,
    BatchInfo,
    Problem,
    batch_info,
    enqueued_limit,
    is_ours,
    may_follow,
    metadata,
    next_gap,
    overlap,
    rows_blamed,
    sketch,
)

# Statuses and states -----------------------------------------------------------------------------------


def test_the_table_is_closed_and_only_terminal_statuses_end():
    assert set().union(*STATUSES.values()) < set(STATUSES)
    assert {status for status, following in STATUSES.items() if not following} == TERMINAL
    assert "validating" not in set().union(*STATUSES.values())


def test_from_every_status_every_end_can_be_seen():
    for status in set(STATUSES) - TERMINAL:
        assert STATUSES[status] >= TERMINAL


def test_the_journal_goes_forward_step_by_step():
    assert all(may_follow(state, nxt) for state, nxt in itertools.pairwise(STATES))


BACK = {
    ("uploaded", "uploading"),
    ("creating", "uploaded"),
    ("created", "uploaded"),
    *[("planned", "harvested"), ("uploading", "harvested"), ("uploaded", "harvested")],
}


def test_the_journal_goes_back_only_where_nothing_is_lost():
    steps = set(itertools.pairwise(STATES))
    for state, nxt in itertools.permutations(STATES, 2):
        assert may_follow(state, nxt) == ((state, nxt) in steps | BACK), (state, nxt)


def test_a_step_may_be_begun_again_till_it_is_over():
    assert all(may_follow(state, state) for state in STATES[:-1])
    assert not may_follow("harvested", "harvested")
    assert not may_follow("nonsense", "planned")
    assert not may_follow("nonsense", "nonsense")


def test_where_a_batch_may_exist_a_shard_is_not_given_up():
    assert not any(may_follow(state, "harvested") for state in ("creating", "created"))


# The provider's object ---------------------------------------------------------------------------------

FULL = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": {
        "object": "list",
        "data": [{"code": "invalid_json_line", "line": 3, "message": "Bad.", "param": None}],
    },
    "input_file_id": "file-in",
    "completion_window": "24h",
    "status": "expired",
    "output_file_id": "file-out",
    "error_file_id": "file-err",
    "created_at": 1_790_000_000,
    "in_progress_at": 1_790_000_060,
    "expires_at": 1_790_086_400,
    "finalizing_at": 1_790_086_401,
    "completed_at": None,
    "failed_at": None,
    "expired_at": 1_790_086_402,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 9, "completed": 5, "failed": 4},
    "metadata": {"pandas_llm_run": "7"},
    "model": "gpt-6-luna",
    "usage": {"input_tokens": 1},
}


def test_a_whole_batch_object_is_read():
    assert batch_info(FULL) == BatchInfo(
        id="batch_1",
        status="expired",
        endpoint="/v1/chat/completions",
        input_file_id="file-in",
        output_file_id="file-out",
        error_file_id="file-err",
        problems=(Problem("invalid_json_line", "Bad.", 3),),
        total=9,
        completed=5,
        failed=4,
        created_at=1_790_000_000.0,
        in_progress_at=1_790_000_060.0,
        finalizing_at=1_790_086_401.0,
        expires_at=1_790_086_400.0,
        ended_at=1_790_086_402.0,
        metadata={"pandas_llm_run": "7"},
        model="gpt-6-luna",
    )


@pytest.mark.parametrize("end", ["completed", "expired", "cancelled", "failed"])
def test_a_batch_ended_when_its_end_says(end):
    info = batch_info({"id": "b", "status": end, f"{end}_at": 12, "cancelling_at": 11})
    assert info.ended_at == 12.0
    assert info.over


def test_an_unknown_status_is_not_an_end():
    assert not batch_info({"id": "b", "status": "pondering"}).over


@pytest.mark.parametrize("odd", [None, 0, "", [], {}, [None], -1, math.nan, math.inf])
def test_odd_fields_count_as_absent(odd):
    info = batch_info(dict.fromkeys(FULL, odd) | {"id": "b", "status": "validating"})
    assert info == BatchInfo(id="b", status="validating", endpoint=info.endpoint, model=info.model)
    assert not info.endpoint


def test_what_is_within_odd_fields_counts_as_absent():
    odd = {"errors": {"data": 5}, "request_counts": {"total": "many"}, "created_at": "2026-11-20"}
    info = batch_info({"id": "b", "status": "failed", **odd, "metadata": {"team": 5}})
    assert info == BatchInfo(id="b", status="failed", metadata={"team": "5"})


def test_errors_without_their_envelope_are_read():
    info = batch_info({"id": "b", "status": "failed", "errors": [{"code": "empty_file"}, "odd"]})
    assert info.problems == (Problem("empty_file", ""),)


@pytest.mark.parametrize("body", [{}, {"id": "b"}, {"status": "failed"}, {"id": 5, "status": "failed"}])
def test_without_an_id_and_a_status_it_is_no_batch(body):
    with pytest.raises(ValueError, match="an id and a status"):
        batch_info(body)


# Batches that failed as a whole ------------------------------------------------------------------------


OPENAI = (
    "Enqueued token limit reached for gpt-4o-mini in organization org-1. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)
AZURE = "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'mine'."


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (OPENAI, 2_000_000),
        (AZURE, 30_000),
        ("limit: 90000.", 90_000),
        ("The limit is 1.5M tokens", 1_500_000),
        ("a limit of 2 million tokens", 2_000_000),
        ("Limit: 3B", 3_000_000_000),
        ("Limit: 100,000 batched tokens", 100_000),
        ("Limit: 0 enqueued tokens.", 0),
        ("Enqueued token limit reached for gpt-4.", math.inf),
        ("", math.inf),
    ],
)
def test_the_enqueued_limit_is_read_from_the_message(message, limit):
    assert enqueued_limit(Problem("token_limit_exceeded", message)) == limit


def test_other_problems_name_no_enqueued_limit():
    assert enqueued_limit(Problem("too_many_tasks", "Limit: 50,000 requests")) is None
    assert enqueued_limit(Problem(None, "Limit: 50,000 enqueued tokens")) is None


def test_a_full_queue_is_not_permanent():
    assert "token_limit_exceeded" not in PERMANENT
    assert {"invalid_json_line", "duplicate_custom_id", "url_mismatch", "model_mismatch"} < PERMANENT


def test_lines_are_blamed_from_0():
    problems = [Problem("invalid_json_line", "", line) for line in (1, 7, 7, None, 0, -3)]
    assert rows_blamed(problems) == {0, 6}


# Whose a batch is --------------------------------------------------------------------------------------

OURS = metadata(7, 3, "ab" * 32)


def info_with(**more):
    return BatchInfo(id="b", status="validating", **more)


def test_metadata_fits_what_the_api_takes():
    assert tuple(OURS) == METADATA
    assert OURS == {"pandas_llm_run": "7", "pandas_llm_shard": "3", "pandas_llm_sha256": "ab" * 32}
    assert all(len(name) <= 64 and len(value) <= 512 for name, value in OURS.items())


def test_a_batch_is_ours_by_all_of_its_metadata():
    assert is_ours(info_with(metadata=OURS | {"team": "x"}), OURS, None)
    for name in METADATA:
        assert not is_ours(info_with(metadata=OURS | {name: "other"}), OURS, None)
        assert not is_ours(info_with(metadata={k: v for k, v in OURS.items() if k != name}), OURS, None)


def test_a_batch_is_ours_by_its_file():
    assert is_ours(info_with(input_file_id="file-1"), OURS, "file-1")
    assert not is_ours(info_with(input_file_id="file-2"), OURS, "file-1")
    assert not is_ours(info_with(), OURS, None)
    assert not is_ours(info_with(input_file_id=""), OURS, "")


# Watching ----------------------------------------------------------------------------------------------


def test_gaps_grow_to_the_longest_and_start_again_on_a_change():
    gaps, gap = [], 0.0
    for _ in range(9):
        gap = next_gap(gap, (5, 60), changed=False, jitter=0.5)
        gaps.append(round(gap, 2))
    assert gaps == [5, 7.5, 11.25, 16.88, 25.31, 37.97, 56.95, 60, 60]
    assert next_gap(60, (5, 60), changed=True, jitter=0.5) == pytest.approx(5)


def test_gaps_are_spread_by_a_fifth_either_way():
    assert next_gap(60, (5, 60), changed=False, jitter=0.0) == pytest.approx(48)
    assert next_gap(60, (5, 60), changed=False, jitter=1.0) == pytest.approx(72)
    rng, gap = random.Random(1), 0.0
    for _ in range(1000):
        gap = next_gap(gap, (5, 60), changed=False, jitter=rng.random())
        assert 4 <= gap <= 72


# Sketches ----------------------------------------------------------------------------------------------


def texts(start, end):
    return [f"row {n}: ☃" for n in range(start, end)]


def test_a_sketch_is_of_the_set_whatever_its_order_and_repeats():
    rows = texts(0, 3000)
    shuffled = random.Random(2).sample(rows * 2, 6000)
    assert sketch(shuffled) == sketch(rows)
    assert len(sketch(rows)) == 64
    assert sketch(rows) == sorted(sketch(rows))


def test_a_few_texts_are_all_in_their_sketch():
    assert len(sketch(texts(0, 10))) == 10
    assert sketch([]) == []
    assert set(sketch(texts(0, 10))) < set(sketch(texts(0, 60)))


def test_sketches_overlap_where_texts_do():
    assert overlap(sketch(texts(0, 3000)), sketch(texts(1500, 4500)))
    assert not overlap(sketch(texts(0, 3000)), sketch(texts(3000, 6000)))
    assert not overlap(sketch([]), sketch(texts(0, 9)))


def test_a_sketch_looks_at_no_more_than_200_000_texts():
    seen = 0

    def endless():
        nonlocal seen
        while True:
            seen += 1
            yield "the same"

    assert len(sketch(endless())) == 1
    assert seen == 200_000
