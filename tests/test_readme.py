"""The project's words hold: README blocks run in order and say what is shown; named files exist."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.openai_server import FakeOpenAI, faults

import pandas_llm

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *DOCS,
    *sorted(ROOT.glob("docs/decisions/*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]{3,}")
_LINK = re.compile(r"\]\(([^)#]+)(?:#([^)]*))?\)")
_IMAGE = re.compile(r'(?:src|srcset)="([^"]+)"')
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")

TICKETS = """id,title,body,gold
1,Export,The app crashes when I open the export menu.,bug
2,Invoice,Where is the invoice of order 1042 over 49.90 EUR from 2026-03-01?,question
3,Thanks,"Great support, thank you!",praise
4,Export again,The app crashes when I open the export menu.,bug
5,No text,,
6,Odd,Tell me how to pick the lock of my neighbour.,question
"""
LABEL_OF = {"crashes": "bug", "invoice": "question", "thank": "praise"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], source.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(source)
    ]


def answer(text: str, body: dict[str, Any]) -> str:
    """What a language model would say to the tickets."""
    form = body.get("response_format")
    if form is None:
        return "A customer writes about the export." if "export" in text else "A customer writes."
    names = list(form["json_schema"]["schema"]["properties"])
    known = {
        "label": next((label for word, label in LABEL_OF.items() if word in text), "question"),
        "order": 1042 if "1042" in text else None,
        "total": 49.9 if "49.90" in text else None,
        "due": "2026-03-01" if "2026-03-01" in text else None,
    }
    return json.dumps({name: known[name] for name in names})


@pytest.fixture
def namespace(
    server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Where the blocks run: tickets, a server that knows them, and what Azure's client reads."""
    (tmp_path / "tickets.csv").write_text(TICKETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.root)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    monkeypatch.setenv("OPENAI_API_VERSION", "2026-06-01")
    server.answer = answer
    server.fault("pick the lock", faults.REFUSAL)
    pandas_llm.configure(batches=pandas_llm.Batches(poll=(0.01, 0.1)))
    with pd.option_context("display.width", 120, "display.max_columns", 20, "display.max_colwidth", 48):
        yield {}


def run(block: Block, namespace: dict[str, Any]) -> str:
    """All that a block says: prints, a last expression's value, warnings, and lines on stderr."""
    tree = ast.parse(block.text, filename=f"README.md:{block.line}")
    ast.increment_lineno(tree, block.line)
    *_, last = tree.body
    value = tree.body.pop() if isinstance(last, ast.Expr) else None
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            exec(compile(tree, "README.md", "exec"), namespace)
            if isinstance(value, ast.Expr):
                shown = eval(compile(ast.Expression(value.value), "README.md", "eval"), namespace)
                print("" if shown is None else shown)
    return said.getvalue() + "".join(f"{w.category.__name__}: {w.message}\n" for w in warned)


def test_the_readme_s_blocks_run_in_order_and_say_what_it_shows(namespace: dict[str, Any]) -> None:
    blocks = blocks_of(README)
    shown = 0
    for block, following in zip(blocks, [*blocks[1:], Block("", "", 0)], strict=True):
        if block.language != "python":
            continue
        said = run(block, namespace)
        if following.language == "text":
            missing = [word for word in _WORD.findall(following.text) if word not in said]
            assert not missing, (
                f"README.md:{following.line} shows {missing}; the block before it says:\n{said}"
            )
            shown += 1
    assert shown >= 4


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_blocks_of_the_docs_run(page: Path, namespace: dict[str, Any], server: FakeOpenAI) -> None:
    line = {"custom_id": "7", "response": {"status_code": 200, "body": {"choices": []}}, "error": None}
    for name in ("output.jsonl", "error.jsonl"):
        Path(name).write_text(json.dumps(line), encoding="utf-8")
    few = pandas_llm.Batches(min_requests=2, pilot=1, poll=(0.01, 0.1))
    df = pd.read_csv("tickets.csv")
    pandas_llm.configure(batches=few)
    namespace.update(pd=pd, pandas_llm=pandas_llm, df=df, out=df.llm.classify("body", ["bug", "question"]))
    for block in blocks_of(page):
        if block.language == "python":
            run(block, namespace)
    assert bool(server.batches) == (page.stem == "batch")
    assert "pending" not in namespace["out"].filter(like="_source").to_numpy()


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_block_of_every_page_names_its_language() -> None:
    for page in PAGES:
        fences = page.read_text(encoding="utf-8").count("\n```")
        assert fences == 2 * len(blocks_of(page)), page.name
        assert {block.language for block in blocks_of(page)} <= {"python", "text", "bash"}, page.name


def test_shell_blocks_use_targets_and_extras_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        line
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "bash"
        for line in block.text.splitlines()
    ]
    assert lines
    for line in lines:
        command, *words = line.split("#")[0].split()
        assert command in ("make", "pip", "python", "export", "PYTHONPATH=.:tests"), line
        if command == "make":
            assert set(words) <= targets, line
        for extras in re.findall(r"\[([a-z,]+)\]", line):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), line


def test_the_files_that_the_pages_name_are_there() -> None:
    ours = re.compile(r"(?:pandas_llm|tests|bench|docs|notebooks|\.ci)/[\w./*<>-]*")
    for page in PAGES:
        source = page.read_text(encoding="utf-8")
        for link, heading in (*_LINK.findall(source), *((image, "") for image in _IMAGE.findall(source))):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
            if heading and not link.startswith("http"):
                titles = _HEADING.findall((page.parent / link).read_text(encoding="utf-8"))
                assert heading in map(_anchor, titles), f"{page.name}: {link}#{heading}"
        for name in (code for code in _CODE.findall(source) if ours.fullmatch(code) and "<" not in code):
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: {name}"


def test_the_changelog_begins_with_the_package_s_version() -> None:
    versions = re.findall(
        r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert versions[0] == pandas_llm.__version__


def test_the_readme_names_every_option_s_default_as_the_code_has_it() -> None:
    from pandas_llm.core.options import OPTION_NAMES, default_of

    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 8
    for name, default in rows:
        assert name in OPTION_NAMES, name
        assert ast.literal_eval(default) == default_of(name), name
