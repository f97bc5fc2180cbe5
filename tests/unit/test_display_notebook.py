"""What a notebook shows and keeps of a run."""

import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pandas_llm.core.types import SOURCES, Failure, Progress, Usage
from pandas_llm.display import panel, summary

NOON = datetime(2030, 1, 1, 12, 0, 0)  # noqa: DTZ001 — the reader's own time of the day

STOPPED = Progress(
    title="classify · body · gpt-6-luna",
    rows=5_000,
    sources={"api": 1_598, "cache": 738, "duplicate": 334, "failed": 1, "pending": 2_329},
    asked=3_600,
    answered=1_599,
    usage=Usage(431_000, 9_580, cached=120_000),
    cost=0.1712,
    projected=0.4567,
    errors={"PromptError": 1, "<b>Odd</b>": 0},
    failures={"PromptError": Failure((17,), r"'<script>alert(1)</script>' costs $1 or $2 \(x\) & more")},
    retries=35,
    latencies=[0.3, 0.4],
    seconds=9.9,
    state="stopped",
    note="2,329 rows pending: max_cost $0.20 reached.",
)


class Text(HTMLParser):
    """The text of each element, and whether the elements are balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.dollars: list[str] = []
        self.text = ""
        self.widths = 0.0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        style = dict(attrs).get("style") or ""
        if found := re.search(r"width:([\d.]+)%", style):
            self.widths += float(found[1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "$" in data or "\\" in data:
            self.dollars.append(data)
            assert self.open[-1] == "span"


def test_the_summary_needs_no_style_sheet_and_no_script() -> None:
    source = summary.summary(STOPPED)
    assert "<style" not in source
    assert "<script" not in source
    assert "&lt;script&gt;alert(1)" in source
    read = Text(source)
    assert read.open == []
    assert len(source) < 5_000


def test_every_dollar_and_backslash_is_alone_in_its_span() -> None:
    read = Text(
        summary.summary(STOPPED) + panel.panel(STOPPED, NOON) + summary.said("about $12")["text/html"]
    )
    assert set(read.dollars) == {"$", "\\"}
    assert read.dollars.count("$") == 10


def test_the_summary_still_reads_when_all_styles_are_stripped() -> None:
    text = Text(summary.summary(STOPPED)).text
    for said in (
        "Stopped",
        "2,671 of 5,000 rows in 9.9 s",
        "1,598 api",
        "$0.17",
        "p50 300 ms",
        "1 PromptError (row 17): '<script>",
    ):
        assert said in text
    assert "2,329 rows pending: max_cost $0.20 reached." in text


def test_the_bar_of_the_summary_is_filled_exactly_and_shows_one_failure() -> None:
    read = Text(summary.strip(STOPPED))
    assert read.widths == pytest.approx(100)
    assert 'title="1 failed"' in summary.strip(STOPPED)


def test_every_source_has_a_colour() -> None:
    every = replace(STOPPED, sources=dict.fromkeys(SOURCES, 10))
    assert all(f'title="10 {source}"' in summary.strip(every) for source in SOURCES)


def test_an_empty_run_has_a_summary_too() -> None:
    assert Text(summary.summary(Progress())).open == []


def test_the_text_twin_says_the_same() -> None:
    assert summary.bundle(STOPPED)["text/plain"].startswith(
        "classify · body · gpt-6-luna: 2,671 of 5,000 rows in 9.9 s, stopped\n1,598 api, 738 cache"
    )


CELL = """
from dataclasses import replace
from ipywidgets import Widget
from pandas_llm.core.types import Progress
from pandas_llm.display import pick

now = [0.0]
painter = pick(True, clock=lambda: now[0])
painter.say("600 rows: 0 known, 600 to ask, about $12.")
painter.open(Progress(title="classify · body · m", rows=600))
before = painter._painter._widgets.view.value
for n in (200, 400, 600):
    now[0] += 1
    painter.paint(Progress(title="classify · body · m", rows=600, sources={"api": n}, cost=n / 1000))
    painter.paint(Progress(title="too early", rows=600))
shown = before, painter._painter._widgets.view.value
done = Progress(title="classify · body · m", rows=600, sources={"api": 600}, cost=0.6, seconds=3)
painter.close(replace(done, state="done"))
"""
CHECK = """
assert "too early" not in shown[1] and "<b>600</b> of 600 rows" in shown[1], shown[1]
assert "<b>0</b> of 600 rows" in shown[0], shown[0]
assert not painter._broken
"""


def test_in_a_kernel_the_live_widget_gives_way_to_static_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    book = new_notebook(cells=[new_code_cell(CELL), new_code_cell(CHECK)])
    NotebookClient(
        book, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(pytestconfig.rootpath)}}
    ).execute()

    said, shown = book.cells[0].outputs
    assert said["data"]["text/plain"] == "600 rows: 0 known, 600 to ask, about $12."
    assert set(shown["data"]) == {"text/html", "text/plain"}
    assert shown["data"]["text/plain"] == "classify · body · m: 600 rows in 3.0 s\n600 api · $0.60"
    assert "Done" in shown["data"]["text/html"]
    assert book.cells[1].outputs == []
    assert "classify" not in str(book.metadata.get("widgets"))
