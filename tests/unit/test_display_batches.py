"""Batches in words, and what each painter makes of them."""

import io
import re
from dataclasses import replace

import pytest

from pandas_llm.core.batches import TERMINAL
from pandas_llm.core.types import BatchProgress, Progress
from pandas_llm.display import batches, pick, summary, words
from pandas_llm.display.ink import Ink, width
from pandas_llm.display.terminal import account, figures_line

HOUR = 3_600.0
AT_WORK = BatchProgress(
    name="batch_abc", status="in_progress", requests=50_000, completed=11_000, failed=0, seconds=720.0,
    expires_in=23 * HOUR + 48 * 60,
)  # fmt: skip
DONE = BatchProgress(name="batch_abd", status="completed", requests=50_000, completed=50_000, seconds=600.0)
YOUNG = BatchProgress(name="batch file 3", status="uploading", requests=20_000)
STALLED = replace(AT_WORK, quiet=42 * 60 + 13)
ONE = Progress(
    title="classify · body · gpt-6-luna", rows=50_000, asked=50_000, seconds=725.0, batches=(AT_WORK,)
)
THREE = replace(ONE, rows=120_000, asked=120_000, batches=(AT_WORK, DONE, YOUNG))
SUBMITTED = replace(
    THREE,
    sources={"api": 3, "pending": 119_997},
    state="stopped",
    note="119,997 rows are pending: submitted.",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_batch_is_told_with_the_provider_s_word_its_counts_and_its_times() -> None:
    assert batches.line(AT_WORK) == (
        "batch_abc: in_progress · 11,000 of 50,000 · 12 min so far · expires in 23 h 48 min"
    )
    assert batches.line(DONE) == "batch_abd: completed · 50,000 of 50,000 · in 10 min"
    assert batches.line(YOUNG) == "batch file 3: uploading · 0 of 20,000"


def test_all_counted_is_not_done_while_it_is_finalizing() -> None:
    full = replace(AT_WORK, status="finalizing", completed=49_990, failed=10)
    assert batches.line(full).startswith("batch_abc: finalizing · 49,990 of 50,000, 10 failed")
    assert batches.open_batches(replace(ONE, batches=(full,))) == [full]
    assert words.percent(replace(ONE, batches=(full,))) == "0.0%"


def test_a_stall_is_told_by_name_after_half_an_hour_of_work_without_a_change() -> None:
    assert batches.stalled(STALLED) == "no change for 42 min"
    assert batches.stalled(replace(STALLED, quiet=1_799.0)) == ""
    assert batches.stalled(replace(STALLED, quiet=1_800.0)) == "no change for 30 min"
    at_work = {"validating", "in_progress", "finalizing"}
    for status in (*at_work, *TERMINAL, "cancelling", "uploading", "queued"):
        assert bool(batches.stalled(replace(STALLED, status=status))) == (status in at_work)


def test_the_end_of_the_window_is_told_as_long_as_there_is_one() -> None:
    assert batches.expires(replace(AT_WORK, expires_in=HOUR + 59.0)) == "expires in 1 h"
    assert batches.expires(replace(AT_WORK, expires_in=75.0)) == "expires in 1 min 15 s"
    assert batches.expires(replace(AT_WORK, expires_in=-3.0)) == "expires now"
    assert batches.expires(replace(AT_WORK, expires_in=None)) == ""
    assert batches.expires(replace(DONE, expires_in=HOUR)) == ""


def test_several_batches_are_summed_up_in_the_order_in_which_a_batch_goes() -> None:
    assert batches.summed(THREE.batches) == (
        "3 batches: 1 completed, 1 in_progress, 1 uploading, 61,000 of 120,000"
    )
    odd = replace(AT_WORK, status="simmering", failed=7)
    assert batches.summed((odd, DONE)) == "2 batches: 1 completed, 1 simmering, 61,000 of 100,000, 7 failed"
    assert batches.summed((AT_WORK,)) == "in_progress, 11,000 of 50,000"
    assert batches.summed(()) == ""


def test_what_a_provider_or_a_note_says_cannot_reach_the_terminal_as_a_command() -> None:
    odd = replace(AT_WORK, name="b\x1b[2J", status="in\nprogress", note="a\tb\x07")
    figures = batches.figures(replace(ONE, batches=(odd,)))
    shown = [batches.line(odd), batches.summed((odd, odd)), *(figure.full for figure in figures)]
    assert len(shown) == 5
    assert all(text.isprintable() for text in shown)


def test_a_run_without_batches_says_nothing_of_them() -> None:
    bare = replace(ONE, batches=())
    assert (batches.figures(bare), batches.lines(bare), batches.news(bare, ())) == ([], [], [])
    assert summary.batch_lines(bare) == ""


def test_of_more_batches_than_fit_only_the_sum_is_told() -> None:
    many = replace(ONE, batches=tuple(replace(AT_WORK, name=f"batch_{n}") for n in range(100)))
    assert batches.lines(many) == ["100 batches: 100 in_progress, 1,100,000 of 5,000,000"]
    assert len(batches.lines(replace(many, batches=many.batches[:8]))) == 8
    assert batches.news(many, ()) == batches.lines(many)


def test_news_are_a_changed_status_note_or_stall_and_a_batch_that_got_its_name() -> None:
    def news(batch: BatchProgress) -> list[str]:
        return batches.news(replace(ONE, batches=(batch, DONE)), (AT_WORK, DONE))

    assert news(AT_WORK) == []
    assert news(replace(AT_WORK, completed=12_000, quiet=100.0, seconds=900.0)) == []
    for changed in (
        replace(AT_WORK, status="finalizing"),
        replace(AT_WORK, note="enqueued-token limit of gpt-6-luna (2,000,000)"),
        replace(AT_WORK, name="batch file 4", status="creating"),
        STALLED,
    ):
        assert news(changed) == [batches.line(changed)]


@pytest.mark.parametrize("room", [20, 40, 80, 200])
@pytest.mark.parametrize("p", [ONE, THREE, replace(ONE, batches=(STALLED,))])
def test_where_room_is_short_the_status_stays_and_nothing_is_too_wide(room: int, p: Progress) -> None:
    line = figures_line(p, room, Ink())
    assert width(line) <= room
    status = "3 batches: 1 complet" if len(p.batches) > 1 else "in_progress, 11,000 of 50,000"
    assert status[: room - 1] in line
    assert ("no change for 42 min" in line) == (bool(p.batches[0].quiet) and room >= 80)


def test_a_terminal_has_room_for_the_name_of_one_batch() -> None:
    named = "batch_abc: in_progress, 11,000 of 50,000 · expires in 23 h 48 min · "
    assert figures_line(ONE, 200, Ink()).startswith(named)
    assert figures_line(ONE, 60, Ink()).startswith(named.removeprefix("batch_abc: ")[:-3])


def test_the_account_of_a_submitted_run_names_its_batches() -> None:
    assert words.headline(SUBMITTED) == "3 of 120,000 rows in 12 min 5 s, submitted"
    assert words.ended(replace(SUBMITTED, batches=(DONE,))) == "stopped"
    assert words.ended(replace(SUBMITTED, state="failed")) == "failed"
    said = "\n".join(account(SUBMITTED, 120, Ink()))
    for batch in SUBMITTED.batches:
        assert batches.line(batch) in said
    assert said.endswith("119,997 rows are pending: submitted.")
    assert all(width(line) <= 40 for line in account(SUBMITTED, 40, Ink()))


def test_a_notebook_lists_the_batches_while_they_go_on_and_keeps_them() -> None:
    text = re.sub(r"<[^>]*>", "", summary.summary(SUBMITTED))
    for batch in THREE.batches:
        assert batches.line(batch) in text
    assert ">Submitted</b>" in summary.summary(SUBMITTED)
    assert batches.line(AT_WORK) in summary.bundle(SUBMITTED)["text/plain"]
    assert "<x>" not in summary.summary(replace(ONE, batches=(replace(AT_WORK, status="<x>"),)))


def test_a_log_has_a_line_a_change_of_status_and_few_others_in_a_day() -> None:
    out, clock = io.StringIO(), Clock()
    log = pick(True, stream=out, where="log", clock=clock)
    log.open(replace(ONE, batches=()))
    for status, hours in (("validating", 1), ("in_progress", 8), ("finalizing", 1)):
        for _ in range(hours * 60):
            clock.now += 60.0
            log.paint(replace(ONE, batches=(replace(AT_WORK, status=status),)))
    log.close(replace(ONE, sources={"batch": 50_000}, batches=(DONE,), state="done"))
    lines = out.getvalue().splitlines()
    assert sum(": batch_abc: " in line for line in lines) == 3
    assert 50 <= len(lines) <= 70
    assert lines[-1].endswith(" · batch_abd: completed · 50,000 of 50,000 · in 10 min")


def test_a_log_has_a_line_every_tenth_of_a_batch() -> None:
    out, clock = io.StringIO(), Clock()
    log = pick(True, stream=out, where="log", clock=clock)
    log.open(ONE)
    for completed in range(0, 50_001, 500):
        clock.now += 5.0
        log.paint(replace(ONE, batches=(replace(AT_WORK, completed=completed),)))
    lines = out.getvalue().splitlines()
    assert 10 <= len(lines) <= 13
    assert all(line.isprintable() for line in lines)
