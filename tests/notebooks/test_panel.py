"""The panel in a real JupyterLab and a real browser: seen, cancelled, stopped, saved and opened again."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from lab import CHROMIUM, Lab, Notebook, browser, jupyter_lab, open_notebook

KERNELS = dict(
    each.split("=", 1)
    for each in os.environ.get("PANEL_KERNELS", f"python={sys.executable}").split(os.pathsep)
)
"""Python by the kernel's name; `make test` gives one with ipykernel 7 and one with ipykernel 6."""
ANSWER_SECONDS = 0.3
KEY = "sk-test-0123456789"
ROWS, TEXTS = 480, 400

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip(
        "no Chromium here: the panel isn't looked at (Debian: apt install chromium)", allow_module_level=True
    )

pytestmark = [
    pytest.mark.timeout(180),
    # Playwright's own loop runs in this thread; what it leaves behind isn't ours.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    assert CHROMIUM is not None, "CI must have a Chromium (Debian: apt install chromium)"
    with jupyter_lab(tmp_path_factory.mktemp("lab"), KERNELS) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def api() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(latency=ANSWER_SECONDS, api_key=KEY) as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    yield request.param
    lab.end_kernels()


ASK = """
out = df.llm.classify("body", ["bug", "question", "praise"], max_concurrency=24)
print("returned", *out["body_label_source"].value_counts().loc[["api", "pending", "cache"]])
"""


def setup(api: FakeOpenAI, store: Path) -> str:
    return f"""
import os, warnings
os.environ.update(OPENAI_BASE_URL={api.base_url!r}, OPENAI_API_KEY={KEY!r}, PANDAS_LLM_CACHE={str(store)!r})
import pandas as pd
import pandas_llm
warnings.simplefilter("ignore", pandas_llm.errors.LLMWarning)
df = pd.DataFrame({{"body": [f"row {{i % {TEXTS}}} of my $ecret and $omething" for i in range({ROWS})]}})
"""


def opened(page: Any, lab: Lab, name: str, kernel: str, cells: list[str]) -> tuple[Notebook, Path]:
    """The notebook, its first cell run."""
    path = lab.write(f"{name}-{kernel}.ipynb", cells, kernel)
    notebook = open_notebook(page, lab, path)
    notebook.run(0)
    assert notebook.ended(0).strip() == ""
    return notebook, path


def count(page: Any) -> int:
    """Rows that the panel says are over."""
    return int(page.locator(".pandas-llm .row b").first.inner_text().replace(",", ""))


def wait_for_rows(page: Any, least: int) -> None:
    page.wait_for_selector(".pandas-llm .bar")
    end = time.monotonic() + 20
    while count(page) < least:
        assert time.monotonic() < end, f"the panel stands at {count(page)}"
        page.wait_for_timeout(50)


def test_the_panel_counts_up_and_leaves_a_summary_that_an_untrusted_notebook_shows(
    lab: Lab, page: Any, api: FakeOpenAI, kernel: str, tmp_path: Path
) -> None:
    api.fault("row 7 of my $ecret and $omething", faults.outside("no such label"))
    notebook, path = opened(page, lab, "live", kernel, [setup(api, tmp_path / "s.sqlite3"), ASK])
    notebook.run(1)
    wait_for_rows(page, 16)
    first = count(page)
    wait_for_rows(page, first + 16)
    bar = page.get_by_role("progressbar", name="rows that are over")
    assert 0 < float(bar.get_attribute("aria-valuenow")) < 100
    assert {"Speed", "Time left", "Cost", "Tokens", "Latency p50", "Rate limit"} == set(
        page.locator(".pandas-llm .card > :first-child").all_inner_texts()
    )
    said = notebook.ended(1)
    assert "480 rows in" in said
    assert page.get_by_role("button", name="Cancel").count() == 0
    assert page.locator(".pandas-llm").count() == 0

    book = notebook.save(path)
    kept = [output for output in book.cells[1].outputs if output.output_type == "display_data"]
    assert [set(output.data) for output in kept] == [{"text/html", "text/plain"}] * len(kept)
    written = str(kept)
    assert KEY not in written
    assert "ecret" not in written

    from nbconvert import HTMLExporter  # a second that a skipped file needn't take

    page_of_it, _ = HTMLExporter().from_filename(path)
    assert "480 rows in" in page_of_it
    assert "widget-view" not in page_of_it

    # Nobody signed this file, so nothing in it is trusted.
    other = path.with_name(f"copy-of-{path.name}")
    other.write_text(path.read_text().replace('"nbformat_minor"', '"nbformat_minor" '))
    again = open_notebook(page, lab, other, kernel=False)
    page.wait_for_selector("text=480 rows in")
    shown = again.said(1)
    assert re.search(r"399 api\s+79 duplicate|399 api\s+80 duplicate", shown), shown
    assert "2 SchemaMismatchError (rows 7, 407)" in shown
    assert "$" in shown
    assert page.locator(".jp-Cell-outputArea mjx-container, .jp-Cell-outputArea .MathJax").count() == 0
    widths = again.cell(1).locator("span[title$=' api'], span[title$=' duplicate']")
    assert widths.nth(0).bounding_box()["width"] > 100, "the bar has lost its styles"


def test_cancel_returns_what_is_there_and_nothing_is_sent_after_it(
    lab: Lab, page: Any, api: FakeOpenAI, kernel: str, tmp_path: Path
) -> None:
    awaits = ASK.replace("df.llm.classify", "await df.llm.aio.classify")
    cells = [setup(api, tmp_path / "s.sqlite3"), ASK, "print('after it')", awaits, ASK]
    notebook, _ = opened(page, lab, "cancel", kernel, cells)
    notebook.run(1)
    notebook.run(2)
    wait_for_rows(page, 32)
    began = time.monotonic()
    # The second of two quick clicks drops nothing: nobody has read yet that it would.
    page.get_by_role("button", name="Cancel").dblclick()
    said = notebook.ended(1)
    took = time.monotonic() - began
    sent = len(api.requests)
    answered, pending, known = map(int, re.search(r"returned (\d+) (\d+) (\d+)", said).groups())
    assert took < 2 + 0.2, "of which 0.2 s is the test's own wait"
    assert 0 < answered < TEXTS
    assert pending > 0
    assert known == 0
    assert answered == api.bill.completions == sent
    assert "Stopped" in said
    # The cell that waited its turn runs, for the call returned; it ran after it, not within it.
    assert notebook.ended(2).strip() == "after it"
    page.wait_for_timeout(700)
    assert len(api.requests) == sent

    # The same where a cell awaits, and the kernel's loop goes on meanwhile.
    notebook.run(3)
    page.get_by_role("button", name="Cancel").click()
    again, pending, _ = map(int, re.search(r"returned (\d+) (\d+) (\d+)", notebook.ended(3)).groups())
    assert pending > 0
    assert answered + again == api.bill.completions == len(api.requests)

    notebook.run(4)
    assert re.search(r"returned \d+ 0 \d+", notebook.ended(4))
    assert api.bill.completions == TEXTS
    assert set(api.bill.texts.values()) == {1}


def test_stop_raises_so_that_the_next_cell_does_not_run(
    lab: Lab, page: Any, api: FakeOpenAI, kernel: str, tmp_path: Path
) -> None:
    cells = [setup(api, tmp_path / "s.sqlite3"), ASK, "print('after it')", ASK]
    notebook, _ = opened(page, lab, "stop", kernel, cells)
    notebook.run(1)
    notebook.run(2)
    wait_for_rows(page, 32)
    notebook.stop()
    said = notebook.ended(1)
    sent = len(api.requests)
    assert re.search(r"Interrupted: \d+ of 480 rows are answered and kept", said)
    assert "Traceback" not in said
    assert "returned" not in said
    page.wait_for_timeout(700)
    assert len(api.requests) == sent
    assert "after it" not in notebook.said(2)
    # JupyterLab shows a cell that the kernel refused as one that never ran.
    assert notebook.prompt(2) == "[ ]:"

    notebook.run(3)
    assert re.search(r"returned \d+ 0 \d+", notebook.ended(3))
    assert api.bill.completions == TEXTS
    assert set(api.bill.texts.values()) == {1}


CAPTURED = """
import ipywidgets
output = ipywidgets.Output()
display(output)
with output:
    out = df.head(60).llm.classify("body", ["bug", "question", "praise"])
"""
FORKED = """
import contextlib, io, multiprocessing
def labelled(n):
    with contextlib.redirect_stderr(io.StringIO()) as lines:
        out = df.iloc[100:100 + n].llm.classify("body", ["bug", "question", "praise"])
    return int(out["body_label"].notna().sum()), "classify · body" in lines.getvalue()
with multiprocessing.get_context("fork").Pool(1) as pool:
    print("forked", *pool.apply_async(labelled, (20,)).get(30))
"""


def test_where_no_panel_can_be_the_account_is_seen_all_the_same(
    lab: Lab, page: Any, api: FakeOpenAI, kernel: str, tmp_path: Path
) -> None:
    notebook, _ = opened(page, lab, "places", kernel, [setup(api, tmp_path / "s.sqlite3"), CAPTURED, FORKED])
    notebook.run(1)
    # What an Output widget has taken can't be replaced: the panel itself becomes the summary there.
    assert "60 rows in" in notebook.ended(1)
    assert page.get_by_role("button", name="Cancel").count() == 0
    notebook.run(2)
    assert "forked 20 True" in notebook.ended(2)
    assert api.bill.completions == 80
