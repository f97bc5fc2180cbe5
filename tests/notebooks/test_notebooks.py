"""Every notebook runs top to bottom, pays nothing twice, and is committed with outputs anybody may see."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from execute import KEY, NOTEBOOKS, cleaned, executed, place
from fakes.openai_server import FakeOpenAI

_MACHINE = re.compile(r"/(?:tmp|home|root|work|Users|var|private|usr|opt)/|127\.0\.0\.1|localhost|ipykernel")
_KEPT = ("text/html", "text/plain", "image/png")
_SILENT = {
    "01_first_column": {"imports", "topics"},
    "02_batch": {"imports", "cancel"},
    "03_semantic_dedupe": {"imports"},
}
"""Imports, plain assignments, and what says nothing by design."""
_DRAWN = {
    "01_first_column": {"run-plot", "gold-plot"},
    "02_batch": {"money", "rest"},
    "03_semantic_dedupe": {"histogram", "curve", "money", "two-curves"},
}
_OTHER_PICTURE = base64.b64encode(b"another").decode()


@dataclass(frozen=True, slots=True)
class Ran:
    """A notebook that was run, and run again beside the answers of the first time."""

    path: Path
    folder: Path
    server: FakeOpenAI
    book: Any
    paid: dict[str, int]
    """Replies billed while a cell ran, by the cell's id."""
    paid_again: dict[str, int]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def ran(request: pytest.FixtureRequest) -> Iterator[Ran]:
    with place(request.param) as (copy, server):
        book, paid = executed(copy, server)
        _, paid_again = executed(copy, server)
        yield Ran(request.param, copy.parent, server, book, paid, paid_again)


def _question(body: Any) -> tuple[str, str]:
    return json.dumps(body["messages"]), body["model"]


def outputs_of(book: Any) -> list[Any]:
    return [output for cell in book.cells for output in cell.get("outputs", ())]


def pictures_of(book: Any) -> dict[str, Any]:
    """Outputs that hold a picture, by the cell's id."""
    return {
        cell.id: output
        for cell in book.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    }


def test_no_cell_fails_and_only_our_warnings_are_printed(ran: Ran) -> None:
    said = outputs_of(ran.book)
    assert said
    assert [output for output in said if output.output_type == "error"] == []
    printed = [output.text for output in said if output.output_type == "stream" and output.name == "stderr"]
    assert [text for text in printed if "BudgetWarning: " not in text] == []


def test_no_message_is_paid_for_twice(ran: Ran) -> None:
    bill = ran.server.bill
    asked = Counter(
        _question(seen.body) for seen in ran.server.requests if seen.path.endswith("/completions")
    )
    lines = [line for batch in ran.server.batches for line in batch.lines]
    batched = {line["custom_id"]: _question(line["body"]) for line in lines}
    paid = asked + Counter(batched[row] for row in bill.batch_rows.elements())
    assert paid.total() == bill.completions + bill.batch_completions == sum(ran.paid.values())
    assert max(paid.values()) == 1


def test_a_notebook_that_is_run_again_costs_nothing(ran: Ran) -> None:
    assert sum(ran.paid.values()) > 0
    assert sum(ran.paid_again.values()) == 0


def test_the_key_is_kept_nowhere(ran: Ran) -> None:
    written = [path for path in ran.folder.rglob("*") if path.is_file()]
    assert written
    assert [path.name for path in written if KEY.encode() in path.read_bytes()] == []


def test_run_again_it_changes_nothing_in_the_file_but_measured_times(ran: Ran) -> None:
    before = cleaned(deepcopy(ran.book), ran.book, ran.folder)
    kept = cleaned(_slower(ran.book), before, ran.folder)
    assert outputs_of(_slower(ran.book)) != outputs_of(ran.book)
    assert outputs_of(kept) == outputs_of(before)


def test_what_a_notebook_says_anew_is_written_with_the_pictures_of_its_runs(ran: Ran) -> None:
    before = cleaned(deepcopy(ran.book), ran.book, ran.folder)
    after = _slower(ran.book)
    changed = next(cell for cell in after.cells if cell.id not in pictures_of(after) and cell.get("outputs"))
    changed.outputs[0].data["text/plain"] = "something else"
    kept = cleaned(after, before, ran.folder)
    differ = {
        cell.id
        for cell, old in zip(kept.cells, before.cells, strict=True)
        if cell.get("outputs") != old.get("outputs")
    }
    assert differ == {changed.id} | ({"run-plot", "rest"} & pictures_of(after).keys())


def _slower(book: Any) -> Any:
    """The same a day later, when all took longer: in its words, and in the pictures of its runs."""
    text = re.sub(r" rows in \d+\.\d", " rows in 77.7", nbformat.writes(book))
    slower = nbformat.reads(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2031-01-01 00:00", text), as_version=4)
    for cell, output in pictures_of(slower).items():
        if cell in ("run-plot", "rest"):
            output.data["image/png"] = _OTHER_PICTURE
    return slower


def test_a_picture_that_says_something_else_is_written(ran: Ran) -> None:
    before = cleaned(deepcopy(ran.book), ran.book, ran.folder)
    after = deepcopy(ran.book)
    cell, output = next(
        (cell, output) for cell, output in pictures_of(after).items() if cell not in ("run-plot", "rest")
    )
    output.data["image/png"] = _OTHER_PICTURE
    assert pictures_of(cleaned(after, before, ran.folder))[cell].data["image/png"] == _OTHER_PICTURE


def test_it_draws_what_it_is_said_to_draw(ran: Ran) -> None:
    assert pictures_of(ran.book).keys() == _DRAWN[ran.path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommitted:
    def test_every_cell_that_says_something_says_it_in_the_file(self, path: Path) -> None:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert {cell.id for cell in cells if not cell.outputs} == _SILENT[path.stem]

    def test_its_pictures_are_there_light_and_explained_below(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        drawn = pictures_of(nbformat.read(path, as_version=4))
        assert drawn.keys() == _DRAWN[path.stem]
        pngs = [base64.b64decode(output.data["image/png"]) for output in drawn.values()]
        assert all(png.startswith(b"\x89PNG") for png in pngs)
        assert max(map(len, pngs)) < 60_000
        below = [after for cell, after in pairwise(cells) if cell.id in drawn]
        assert [cell.id for cell in below if not re.match(r"\*[^*]+\*", cell.source)] == []

    def test_outputs_are_static(self, path: Path) -> None:
        book = nbformat.read(path, as_version=4)
        kinds = {kind for output in outputs_of(book) for kind in output.get("data", ())}
        assert kinds <= set(_KEPT)
        assert set(book.metadata) == {"kernelspec"}
        assert book.metadata.kernelspec.name == "python3"
        assert [cell.metadata for cell in book.cells if cell.metadata] == []

    def test_there_is_no_path_of_a_machine_no_traceback_and_no_key(self, path: Path) -> None:
        book = nbformat.read(path, as_version=4)
        said = json.dumps(outputs_of(book))
        assert _MACHINE.findall(said) == []
        assert "Traceback" not in said
        assert re.findall(r"sk-\w+", path.read_text()) == []
        assert [output for output in outputs_of(book) if output.output_type == "error"] == []

    def test_nothing_in_it_knows_of_the_stand_in(self, path: Path) -> None:
        code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        assert re.findall(r"fake|base_url|api_key|127\.0\.0\.1|environ", code) == []

    def test_it_says_near_the_top_that_a_stand_in_answered(self, path: Path) -> None:
        first = nbformat.read(path, as_version=4).cells[0]
        assert first.cell_type == "markdown"
        assert "stand-in server" in first.source


def test_the_free_re_run_of_the_first_notebook_is_free(ran: Ran) -> None:
    if ran.path.stem != "01_first_column":
        pytest.skip("says so of itself elsewhere")
    assert ran.paid["estimate"] == 0
    assert ran.paid["classify"] == 385
    assert ran.paid["repair"] == 1
    assert ran.paid["free-run"] == 0
    assert ran.paid["explain"] == 6
    assert 0 < ran.paid["draft"] < 386
    assert ran.paid["draft"] + ran.paid["rest"] == 386


def test_what_another_kernel_has_collected_is_free(ran: Ran) -> None:
    if ran.path.stem != "02_batch":
        pytest.skip("has no batch")
    first, lost, second = ran.server.batches
    assert [len(batch.lines) for batch in (first, lost, second)] == [382, 1, 382]
    assert lost.custom_ids[0] in first.custom_ids
    assert {batch.status for batch in (first, lost)} == {"completed"}
    assert second.status == "cancelled"
    assert ran.paid["estimate"] == 0
    assert ran.paid["submit"] == 3
    assert ran.paid["runs"] + ran.paid["tomorrow"] == 381
    assert ran.paid["back"] == 1
    assert ran.paid["free"] == 0
    assert 0 < ran.paid["cancel"] < 382
    assert ran.paid["second"] + ran.paid["cancel"] + ran.paid["rest"] == 385


def test_near_equal_messages_share_an_answer_unless_the_question_is_about_their_wording(ran: Ran) -> None:
    if ran.path.stem != "03_semantic_dedupe":
        pytest.skip("asks all that differs")
    different_texts = ran.paid["tone"]
    assert 0 < ran.paid["classify"] < 0.7 * different_texts
    assert sum(ran.paid.values()) == ran.paid["classify"] + different_texts
    # The texts, the pairs that are never shared, and what is searched for; all of it once.
    assert ran.server.bill.embeddings == 3
