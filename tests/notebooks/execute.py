"""Runs every notebook top to bottom, each in a fresh kernel and folder, against a fake server.

`python tests/notebooks/execute.py` raises where a cell does; with `--write` the notebooks keep the outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

if __package__ in (None, ""):  # run as a script, whose first path entry is this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fakes.answers import Answer, Json, labels_of
from fakes.openai_server import FakeOpenAI

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KEY = "sk-test-0123456789"

_TOPICS = {
    "fees & exchange": r"fees?\b|charge[ds]?\b|charging|exchang|rate\b|currenc|\beur\b|discount",
    "cash": r"\batms?\b|cash|withdr|machine|paid me",
    "top-up": r"top\w*[ -]?(?:up|off)|cheque|check\b|adding|add money|deposit",
    "transfer": r"transfer|recipient|salary|landlord|sent money",
    "account": r"identi|verif|passcode|password|phone|name|detail|document|delete|an account|the app",
    "payment": r"payment|refund|merchant|order|transaction|purchas|declin|accept",
    "card": r"cards?\b|\bpin\b|contactless|visa|wallet|deliver",
}
_URGENT = re.compile(r"help|urgent|stolen|fraud|someone|angry|!")
_AMOUNT = re.compile(r"\d+(?= pounds| dollars|£)|(?<=[£$])\d+")
_CELL_FILE = re.compile(r"[^\s\"]*/ipykernel_\d+/\d+\.py:\d+: ")
_TIMES = re.compile(r"\d[\d,.]* (?:ms|s|min|rows/s|rows/min)\b")


def answer(text: str, body: Json) -> str | Answer:
    """What a support agent in a hurry would say, going by single words."""
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        return "Thank you for writing to us, we are looking into it now."
    lower = text.lower()
    found = {topic: re.findall(words, lower) for topic, words in _TOPICS.items()}
    topic = max(found, key=lambda each: len(found[each])) if any(found.values()) else "other"
    amount = _AMOUNT.search(text)
    known = {
        "label": topic,
        "explanation": f"The customer writes of “{found[topic][0] if topic in found else 'something else'}”.",
        "urgent": _URGENT.search(lower) is not None,
        "amount": amount and float(amount[0]),
        "wants": "an explanation" if "why" in lower else "help" if _URGENT.search(lower) else "information",
    }
    weights = {label: 40 ** len(found.get(label, ())) for label in labels_of(body)}
    return Answer(
        content=json.dumps({name: known[name] for name in schema["properties"]}, ensure_ascii=False),
        label_probabilities={label: each / sum(weights.values()) for label, each in weights.items()},
    )


@contextmanager
def place(notebook: Path) -> Iterator[tuple[Path, FakeOpenAI]]:
    """A copy of the notebook in a folder of its own, with what it reads, and a server to ask."""
    with (
        tempfile.TemporaryDirectory() as made,
        FakeOpenAI(answer=answer, api_key=KEY, latency=0.05) as server,
    ):
        folder = Path(made).resolve() / "notebooks"
        folder.mkdir()
        shutil.copy(notebook, folder)
        shutil.copytree(notebook.parent / "data", folder / "data")
        yield folder / notebook.name, server
        if server.violations:
            raise AssertionError(f"No OpenAI server would take this: {server.violations[0]}")


def executed(copy: Path, server: FakeOpenAI) -> tuple[Any, dict[str, int]]:
    """The notebook with the outputs of this run, and the replies billed while each cell ran, by its id.

    What a cell raises is raised.
    """
    book = nbformat.read(copy, as_version=4)
    paid: dict[str, int] = {}
    before = server.bill.completions

    def note(cell: Any, **_: Any) -> None:
        paid[cell.id] = server.bill.completions - before - sum(paid.values())

    client = NotebookClient(
        book,
        timeout=60,
        kernel_name="python3",
        resources={"metadata": {"path": copy.parent}},
        on_cell_executed=note,
        # A kernel on loopback warns at each start that nobody encrypts what it says.
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=_environment(copy.parent, server))
    return book, paid


def _environment(folder: Path, server: FakeOpenAI) -> dict[str, str]:
    """What a person with a key has; nothing of this machine's settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PANDAS_LLM_"))
    }
    return kept | {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": KEY,
        "PANDAS_LLM_CACHE": str(folder.parent / "store.sqlite3"),
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder.parent / "ipython"),
        # An encoding that happens to lie on this disk would change what estimates say.
        "TIKTOKEN_CACHE_DIR": str(folder.parent / "tiktoken"),
    }


def cleaned(book: Any, before: Any, folder: Path) -> Any:
    """The notebook as it is committed: no path of a machine, no timestamps, no widgets.

    Where a cell's outputs differ from those of `before` in measured times alone, those stay: a run that says
    nothing new changes nothing in the file.
    """
    known = {cell.id: cell.get("outputs", []) for cell in before.cells}
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            said = [_portable(output, folder) for output in cell.outputs]
            old = known.get(cell.id, [])
            cell.outputs = old if _without_times(old) == _without_times(said) else said
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return book


def _portable(output: Any, folder: Path) -> Any:
    """An output without what only this machine has: its folders, and the file name IPython gives a cell."""
    text = json.dumps(output, ensure_ascii=False).replace(f"{folder}/", "")
    return nbformat.from_dict(json.loads(_CELL_FILE.sub("", text)))


def _without_times(outputs: list[Any]) -> str:
    return _TIMES.sub("#", json.dumps(outputs, sort_keys=True))


def main() -> None:
    """Execute all; with `--write` keep what they said."""
    parser = argparse.ArgumentParser(description="Runs every notebook against a fake server.")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    write = parser.parse_args().write
    for notebook in NOTEBOOKS:
        with place(notebook) as (copy, server):
            book, paid = executed(copy, server)
            print(f"{notebook.name}: {sum(paid.values()):,} replies billed")
        if write:
            nbformat.write(cleaned(book, nbformat.read(notebook, as_version=4), copy.parent), notebook)


if __name__ == "__main__":
    main()
