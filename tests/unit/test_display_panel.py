"""What the live panel shows of a run."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import pytest

from pandas_llm.core.types import SOURCES, Allowed, BatchProgress, Failure, Progress, Usage
from pandas_llm.display import panel, pictures

NOON = datetime(2030, 1, 1, 12, 0, 0)  # noqa: DTZ001 — the reader's own time of the day
LIVE = Progress(
    title="classify · body · gpt-6-luna",
    rows=5_000,
    sources={"api": 1_460, "cache": 744, "duplicate": 311, "failed": 12},
    asked=3_600,
    answered=1_472,
    usage=Usage(394_000, 8_820, cached=120_000),
    cost=0.1712,
    projected=0.4567,
    errors={"SchemaMismatchError": 9, "RefusalError": 3},
    failures={
        "SchemaMismatchError": Failure((4, 17, 99, 230), "'x' is none of the labels"),
        "RefusalError": Failure((5, 6, 7), "The model refused."),
    },
    retries=35,
    in_flight=64,
    rate=161.3,
    speeds=[100.0, 160.0, 170.0, 150.0, 161.0],
    eta=13.2,
    allowed=Allowed(rpm=12_000.0, in_flight=64),
    latencies=[0.3 + 0.001 * i for i in range(200)],
    seconds=9.2,
)


class Page(HTMLParser):
    """Its text, its elements by class and role, and whether they are balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[dict[str, str | None]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.attributes.append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data.strip()}\n" if data.strip() else ""

    def role(self, name: str) -> list[dict[str, str | None]]:
        return [each for each in self.attributes if each.get("role") == name]


def shown(p: Progress) -> Page:
    page = Page(panel.panel(p, NOON))
    assert page.open == []
    return page


def card(p: Progress, name: str) -> list[str]:
    """The lines of a card."""
    _, *cards = re.split(r'<div class="card">', panel.panel(p, NOON))
    found = [re.split(r"\s*<[^>]*>\s*", each.partition("</div></div>")[0]) for each in cards]
    lines = [[line for line in each if line] for each in found]
    return next(told for title, *told in lines if title == name)


def test_a_live_run_is_told_at_a_glance():
    text = shown(LIVE).text.split("\n")
    for said in ("Running", "classify", "body · gpt-6-luna", "2,527", "64 in flight", "to come", "2,473"):
        assert said in text
    assert card(LIVE, "Speed")[:2] == ["196", "rows/s"]
    assert card(LIVE, "Time left") == ["13 s", "9.2 s so far", "ends 12:00:13"]
    assert "".join(card(LIVE, "Cost")) == "$0.17≈$0.46 in all≈$0.12 saved"
    assert card(LIVE, "Tokens") == ["394k", "in", "120k cached", "8.8k out", "43.8k tokens/s"]
    assert card(LIVE, "Latency p50") == ["399", "ms", "p95 489 ms"]
    assert card(LIVE, "Rate limit") == ["81%", "of rpm", "≤ 64 in flight", "35 retries"]


def test_what_is_unknown_is_said_to_be():
    nothing = Progress(title="classify · body · m", rows=10, asked=10, cost=float("nan"))
    assert card(nothing, "Speed") == ["–", "rows/s"]
    assert card(nothing, "Time left") == ["–", "0.0 s so far"]
    assert card(nothing, "Cost") == ["unknown", "prices= says what it is"]
    assert card(nothing, "Latency") == ["–"]
    assert card(nothing, "Rate limit") == ["not met", "no retry"]


def test_the_tighter_limit_is_the_one_that_is_told():
    a_token = replace(LIVE, allowed=Allowed(rpm=100_000.0, tpm=5_000_000.0, in_flight=48))
    assert card(a_token, "Rate limit")[:3] == ["53%", "of tpm", "≤ 48 in flight"]


def test_a_cap_has_a_meter():
    capped = shown(replace(LIVE, max_cost=0.2))
    assert [each["aria-valuenow"] for each in capped.role("meter")] == ["86", "81"]
    assert "\nmax_cost\n" in capped.text


def test_why_nothing_is_sent_stands_out():
    waiting = shown(replace(LIVE, waiting="Retry-After, 12 s"))
    assert "Waiting: Retry-After, 12 s" in waiting.text


def test_every_source_is_told_apart_without_colour():
    every = replace(LIVE, sources=dict.fromkeys(SOURCES, 10), rows=100)
    styles = {
        each["title"].partition(" ")[2]: each["style"].partition(";")[2]
        for each in shown(every).attributes
        if (each.get("title") or "").startswith("10 ")
    }
    assert styles.keys() == {*SOURCES, "coming"}
    looks = [style.partition("background-image:")[2] for style in styles.values() if "background" in style]
    # Plain colours: the API's answers, and rows without text. All others have a pattern of their own.
    assert looks.count("") == 2
    assert len(set(looks)) == len(looks) - 1


def test_a_screen_reader_is_told_too():
    page = shown(LIVE)
    (bar,) = page.role("progressbar")
    assert bar["aria-label"] == "rows that are over"
    assert bar["aria-valuenow"] == "50.5"
    assert bar["aria-valuetext"] == "2,527 of 5,000 rows: 1,460 api, 744 cache, 311 duplicate, 12 failed"
    assert all(each["aria-label"] for each in (*page.role("img"), *page.role("meter"), *page.role("group")))
    assert len(page.role("img")) == 2


def test_errors_are_listed_by_kind_with_rows_and_the_latest_message():
    text = shown(LIVE).text.split("\n")
    at = text.index("the latest says") + 1
    assert text[at : at + 8] == [
        *("9", "SchemaMismatchError", "4, 17, 99, 230, …", "'x' is none of the labels"),
        *("3", "RefusalError", "5, 6, 7", "The model refused."),
    ]
    assert "the latest says" not in shown(replace(LIVE, errors={})).text


def test_batches_are_told_in_the_providers_words():
    batches = (
        BatchProgress(name="batch_1", status="finalizing", requests=100, completed=100, seconds=4_000.0),
        BatchProgress(
            name="batch_2",
            status="in_progress",
            requests=900,
            completed=90,
            failed=2,
            seconds=3_700.0,
            expires_in=80_000.0,
            quiet=2_500.0,
        ),
    )
    waits = replace(LIVE, in_flight=0, batches=batches)
    text = shown(waits).text.split("\n")
    at = text.index("batch_2")
    assert text[at + 1 : at + 7] == [
        *("in_progress", "no change for 41 min", "90 of 900, 2 failed", "1 h 1 min", "Wed 10:13", "11:18:20"),
    ]
    assert "finalizing" in text
    assert "Speed" not in text
    assert "Latency p50" not in text


def test_of_many_batches_those_that_go_on_are_listed_and_all_are_summed():
    over = [BatchProgress(name=f"b{i}", status="completed", requests=10, completed=10) for i in range(20)]
    goes_on = BatchProgress(name="alive", status="in_progress", requests=10)
    text = shown(replace(LIVE, batches=(*over, goes_on))).text
    assert "alive" in text
    assert text.count("\ncompleted\n") == 7
    assert "21 batches: 20 completed, 1 in_progress, 200 of 210" in text


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1.0]])
def test_a_line_needs_two_values(values):
    assert pictures.sparkline(values, "red", "speed") == ""


def test_latencies_that_are_all_the_same_have_no_shape():
    assert pictures.histogram([0.3] * 9, "red", "latency") == ""


def test_nothing_of_a_cell_or_a_title_is_markup():
    bad = replace(LIVE, title='classify · <img src=x onerror="a()"> · m', waiting="<b>")
    source = panel.panel(bad, NOON)
    assert "<img" not in source
    assert "Waiting: &lt;b&gt;" in source
    assert 'aria-label="classify · &lt;img src=x onerror=&quot;a()&quot;&gt; · m"' in source
