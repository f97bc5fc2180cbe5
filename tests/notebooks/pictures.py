"""Draws the panel for the README: a run on the shipped data in both themes, as it goes on and after it."""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

if __package__ in (None, ""):  # run as a script, whose first path entry is this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes import faults
from fakes.openai_server import FakeOpenAI
from lab import Lab, browser, jupyter_lab, open_notebook

import pandas_llm  # noqa: F401 — bank.llm

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SETUP = """
import os
os.environ.update(OPENAI_BASE_URL={url!r}, OPENAI_API_KEY="sk-test", PANDAS_LLM_CACHE={store!r})
import warnings
warnings.simplefilter("ignore")
import pandas as pd
import pandas_llm
from importlib.resources import files
bank = pd.read_csv(files("pandas_llm") / "data" / "banking77.csv")
df = pd.concat([bank, bank.sample(160, random_state=7), bank.assign(text=bank["text"] + " Thank you.")])
topics = ["card", "cash", "transfer", "top-up", "other"]
bank.sample(110, random_state=1).llm.classify("text", topics);
"""
ASK = 'out = df.llm.classify("text", topics)'


def server() -> FakeOpenAI:
    """A server with a limit, an answer in a third of a second or so, and a few bad days."""
    api = FakeOpenAI(latency=lambda text: 0.22 + len(text) % 60 / 200)
    api.rpm, api.depth = 4_000, 60.0
    api.fault(lambda n, _: n % 41 == 40, faults.rate_limited(milliseconds="150"), times=6)
    for text in ("My phone is missing or stolen.", "someone's hacked my account"):
        api.fault(text, faults.REFUSAL)
    api.fault(lambda n, _: n % 97 == 96, faults.outside("credit card"), times=4)
    return api


def draw(lab: Lab, page: Any, theme: str, store: Path) -> None:
    """The live panel, and what stays."""
    with server() as api:
        path = lab.write(f"{theme}.ipynb", [SETUP.format(url=api.base_url, store=str(store)), ASK], "python")
        notebook = open_notebook(page, lab, path)
        notebook.run(0)
        notebook.ended(0)
        notebook.run(1)
        page.wait_for_selector(".pandas-llm .bar")
        page.wait_for_timeout(2_600)
        cell = notebook.cell(1).locator(".jp-Cell-outputArea")
        cell.screenshot(path=FOLDER / f"panel-{theme}.png")
        notebook.ended(1)
        cell.screenshot(path=FOLDER / f"summary-{theme}.png")


def draw_evaluation(store: Path) -> None:
    """What the embedded model makes of the shipped messages, against the topics of their intents."""
    topics = pd.read_csv(NOTEBOOKS / "data" / "topics.csv", index_col="intent")["topic"]
    bank = pd.read_csv(files("pandas_llm") / "data" / "banking77.csv")
    bank["topic_by_hand"] = bank["category"].map(topics)
    labels = sorted(bank["topic_by_hand"].unique())
    local = {"model": "local", "cache": str(store), "progress": False}
    out = bank.llm.classify("text", labels, output="topic", confidence=True, **local)
    out.llm.evaluate("topic_by_hand", "topic").plot().savefig(FOLDER / "evaluation.png")


def main() -> None:
    """Draw all."""
    with tempfile.TemporaryDirectory() as made:
        draw_evaluation(Path(made) / "store.sqlite3")
    for theme, name in THEMES.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            with (
                jupyter_lab(folder, {"python": sys.executable}, theme=name) as lab,
                browser(folder, width=1090, dark=theme == "dark") as page,
            ):
                draw(lab, page, theme, folder / "store.sqlite3")


if __name__ == "__main__":
    main()
