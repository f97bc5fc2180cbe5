"""Runs every notebook top to bottom, each in a fresh kernel and folder, against a fake server.

`python tests/notebooks/execute.py` raises where a cell does; with `--write` the notebooks keep the outputs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from typing import Any
from urllib.request import Request, urlopen

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

if __package__ in (None, ""):  # run as a script, whose first path entry is this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fakes.answers import Answer, Json, labels_of
from fakes.openai_server import FakeOpenAI, faults
from fakes.replies import embedding_inputs, embedding_of

from pandas_llm.errors import NeedsModelError
from pandas_llm.local.encoder import Encoder, load
from pandas_llm.local.weights import find

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
_HOURS = {"runs": 0.5, "tomorrow": 20, "back": 24, "second": -44.5, "cancel": 0.5}
"""Hours that go by at the provider before a cell runs, by the cell's id. The kernel's clock stands still:
where a new batch is shown beside it, the provider's comes home.
"""
_MINUTES = 10
_BATCH_SECONDS = 2.5 * 3600
_LATENCY = 0.12, 0.35
"""Median of an answer's seconds, and how far they spread: the standard deviation of their logarithm."""
_LOST, _REFUSED = "My phone is missing or stolen.", "someone's hacked my account"
"""Rows of which a batch loses the answer, and whose first answer is a refusal."""
_URGENT = re.compile(r"help|urgent|stolen|fraud|someone|angry|!")
_UPSET, _POLITE = re.compile(r"angry|!!"), re.compile(r"\b(?:hi|hello|please|thanks?)\b")
_LONG_WORD = re.compile(r"[a-z]{7,}")
_AMOUNT = re.compile(r"\d+(?= pounds| dollars|£)|(?<=[£$])\d+")
_CELL_FILE = re.compile(r"(?<![^\s\"])[^\s\"]*/ipykernel_\d+/\d+\.py:\d+: ")
_TIMES = re.compile(
    r"\d[\d,.]* (?:ms|s|min|h|rows/s|rows/min)\b|seconds +\d[\d,.]*|\d{4}-\d\d-\d\d \d\d:\d\d[\d:.+]*"
    r"|\b[0-9a-f]{32}\b|chatcmpl-\d+|created\W+(?:quot;\W+)?\d+"
)
"""What no two runs have in common: measured times, dates, who was answered first, and keys, in which the
server's port is.
"""
_DRAWS_A_RUN = "last_run().plot()"
"""In the code of a cell whose picture shows measured times."""
_MOST_BYTES, _COLOURS = 60_000, 64
"""Of a picture; and of one that has more. Most bytes of a figure are letters in 256 shades of their ink."""


def answer(text: str, body: Json) -> str | Answer:
    """What a support agent in a hurry would say, going by single words."""
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        return "Thank you for writing to us, we are looking into it now."
    lower = _read(text)
    found = {topic: re.findall(words, lower) for topic, words in _TOPICS.items()}
    topic = max(found, key=lambda each: len(found[each])) if any(found.values()) else "other"
    amount = _AMOUNT.search(text)
    known = {
        "label": _tone(text) if "polite" in labels_of(body) else topic,
        "explanation": f"The customer writes of “{found[topic][0] if topic in found else 'something else'}”.",
        "urgent": _URGENT.search(lower) is not None,
        "amount": amount and float(amount[0]),
        "wants": "an explanation" if "why" in lower else "help" if _URGENT.search(lower) else "information",
    }
    # The shorter a message, the surer.
    sure = max(4, 400 / len(lower.split()))
    weights = {label: sure ** len(found.get(label, ())) for label in labels_of(body)}
    return Answer(
        content=json.dumps({name: known[name] for name in schema["properties"]}, ensure_ascii=False),
        label_probabilities={label: each / sum(weights.values()) for label, each in weights.items()},
    )


def seconds_of(text: str) -> float:
    """What an answer takes: always the same for a text, most of them near the median, some much longer."""
    share = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) + 0.5) / 2**48
    median, spread = _LATENCY
    return median * math.exp(spread * NormalDist().inv_cdf(share))


def _tone(text: str) -> str:
    lower = text.lower()
    if text.isupper() or _UPSET.search(lower):
        return "upset"
    return "polite" if _POLITE.search(lower) else "plain"


def _read(text: str) -> str:
    """The text in small letters, read as readers do: who sees the letters of a long word sees the word."""
    known = _words_by_letters()
    return _LONG_WORD.sub(lambda word: known.get("".join(sorted(word[0])), word[0]), text.lower())


@cache
def _words_by_letters() -> dict[str, str]:
    with (ROOT / "pandas_llm" / "data" / "banking77.csv").open(encoding="utf-8") as file:
        words = [word for row in csv.DictReader(file) for word in _LONG_WORD.findall(row["text"].lower())]
    return {"".join(sorted(word)): word for word in words}


class Vectors:
    """A real encoder's, where one is installed: similar texts are then as similar as they really would be."""

    def __init__(self, server: FakeOpenAI) -> None:
        self._server = server
        self._known: dict[str, Any] = {}

    def __call__(self, text: str, size: int) -> Any:
        encoder = _encoder()
        if encoder is None:
            return embedding_of(text, size)
        if text not in self._known:
            # All texts of the request at once: one by one they take five times as long.
            texts = [text, *embedding_inputs(self._server.requests[-1].body)]
            self._known |= dict(zip(texts, encoder.encode(texts).vectors, strict=True))
        vector = self._known[text]
        return np.pad(vector, (0, size - len(vector)))


@cache
def _encoder() -> Encoder | None:
    try:
        return load(find())
    except NeedsModelError:
        return None


@contextmanager
def place(notebook: Path) -> Iterator[tuple[Path, FakeOpenAI]]:
    """A copy of the notebook in a folder of its own, with what it reads, and a server to ask."""
    with (
        tempfile.TemporaryDirectory() as made,
        FakeOpenAI(answer=answer, api_key=KEY, latency=seconds_of, batch_seconds=_BATCH_SECONDS) as server,
    ):
        server.embed = Vectors(server)
        # Where matplotlib looks for fonts for the first time, it says so, in a cell's output.
        importlib.import_module("matplotlib.font_manager")
        if "semantic" in notebook.stem:
            # How many more an audit asks until it has seen enough hangs from who answers first.
            server.latency = 0.05
        if "batch" in notebook.stem:
            server.batch_fault("reversed")  # shuffled, the order would hang from the port
            server.batch_fault("missing", _LOST, times=1)
            server.fault(_REFUSED, faults.REFUSAL, times=1)
        folder = Path(made).resolve() / "notebooks"
        folder.mkdir()
        shutil.copy(notebook, folder)
        shutil.copytree(notebook.parent / "data", folder / "data")
        yield folder / notebook.name, server
        if server.violations:
            raise AssertionError(f"No OpenAI server would take this: {server.violations[0]}")


def executed(copy: Path, server: FakeOpenAI) -> tuple[Any, dict[str, int]]:
    """The notebook with the outputs of this run, and the replies billed until each cell ended, by its id.

    What a cell raises is raised.
    """
    book = nbformat.read(copy, as_version=4)
    paid: dict[str, int] = {}
    before = replies_billed(server)

    def wait(cell: Any, **_: Any) -> None:
        let_hours_go_by(server, _HOURS.get(cell.id, 0.0))

    def note(cell: Any, **_: Any) -> None:
        paid[cell.id] = replies_billed(server) - before - sum(paid.values())

    client = NotebookClient(
        book,
        timeout=60,
        kernel_name="python3",
        resources={"metadata": {"path": copy.parent}},
        on_cell_execute=wait,
        on_cell_executed=note,
    )
    client.execute(env=_environment(copy.parent, server))
    return book, paid


def replies_billed(server: FakeOpenAI) -> int:
    """At once and in batches."""
    return server.bill.completions + server.bill.batch_completions


def let_hours_go_by(server: FakeOpenAI, hours: float) -> None:
    """Move the provider's clock, in steps in which its batches go on."""
    if hours < 0:
        server.clock.advance(3600 * hours)
    for _ in range(round(hours * 60 / _MINUTES)):
        server.clock.advance(60 * _MINUTES)
        asked = Request(f"{server.base_url}/batches", headers={"Authorization": f"Bearer {KEY}"})
        urlopen(asked).close()


def _environment(folder: Path, server: FakeOpenAI) -> dict[str, str]:
    """What a person with a key has; nothing of this machine's settings."""
    profile = folder.parent / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    # A kernel on loopback warns at each start that nobody encrypts what it says.
    (profile / "ipython_kernel_config.py").write_text("get_config().Application.log_level = 'ERROR'\n")
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
    """The notebook as it is committed: no path of a machine, no timestamps, no widgets, light pictures.

    A run that says nothing new changes nothing in the file: where a cell's outputs differ from those of
    `before` in measured times alone, those stay. The picture of a run stays where all other outputs do. (To
    have one drawn anew, clear the outputs of its cell.)
    """
    known = {cell.id: cell.get("outputs", []) for cell in before.cells}
    for cell in book.cells:
        cell.metadata = {}
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = [_light(_portable(output, folder)) for output in cell.outputs]
    same = {cell.id for cell in cells if _said(cell, cell.outputs) == _said(cell, known.get(cell.id, []))}
    for cell in cells:
        if cell.id in same and (len(same) == len(cells) or _DRAWS_A_RUN not in cell.source):
            cell.outputs = known.get(cell.id, [])
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return book


def _portable(output: Any, folder: Path) -> Any:
    """An output without what only this machine has: its folders, and the file name IPython gives a cell."""
    text = json.dumps(output, ensure_ascii=False).replace(f"{folder}/", "")
    return nbformat.from_dict(json.loads(_CELL_FILE.sub("", text)))


def _light(output: Any) -> Any:
    """An output whose picture, where it is big, has few colours: a third of the bytes, and looks the same."""
    png = base64.b64decode(output.get("data", {}).get("image/png", ""))
    if len(png) > _MOST_BYTES:
        small = BytesIO()
        _in_few_colours(Image.open(BytesIO(png)).convert("RGB")).save(small, "png", optimize=True)
        output.data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return output


def _in_few_colours(picture: Image.Image) -> Image.Image:
    """The picture in those of its own colours that change it least; areas stay exactly as they are.

    Pillow's `quantize` is some shades off even in areas of one colour.
    """
    pixels = np.asarray(picture).astype(np.int32)
    packed, places, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    kept = [int(counts.argmax())]
    nearest = np.zeros(len(colours), np.uint8)
    away = ((colours - colours[kept[0]]) ** 2).sum(axis=1)
    while len(kept) < min(_COLOURS, len(colours)):
        worst = int((away * counts).argmax())
        here = ((colours - colours[worst]) ** 2).sum(axis=1)
        nearest[here < away] = len(kept)
        away = np.minimum(away, here)
        kept.append(worst)
    light = Image.fromarray(nearest[places].reshape(pixels.shape[:2]))
    light.putpalette(colours[kept].astype(np.uint8).tobytes())
    return light


def _said(cell: Any, outputs: list[Any]) -> str:
    """What a cell's outputs say but for measured times, also those in the picture of a run."""
    text = _TIMES.sub("#", json.dumps(outputs, sort_keys=True))
    return re.sub(r'"image/png": "[^"]*"', '"image/png": "#"', text) if _DRAWS_A_RUN in cell.source else text


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
