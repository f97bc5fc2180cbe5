"""The house's rules that a program can check: floors, sizes, first lines, honest names."""

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pandas_llm"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# A file past 400 lines, or a function past 50 or with more than 6 parameters, wants to be two things.
LONG_FILES = {"accessor.py": 700}  # the verbs' docstrings, which people read with Shift-Tab
KEYWORDS = {  # whose parameters are the contract
    *["accessor.py:classify", "accessor.py:extract", "accessor.py:export"],
    *["verbs/classify.py:task", "export/__init__.py:export", "core/prices.py:price_of"],
}
KNOWS_PANDAS = (
    *("__init__", "accessor", "registration", "functions", "call", "prepare", "together", "lookback", "demo"),
    *("embedding", "nearness"),
)
FOLDERS_THAT_KNOW_PANDAS = ("columns", "history", "export", "evaluate")


def name_of(path):
    """A file's name below the package."""
    return path.relative_to(PACKAGE).as_posix()


def functions():
    """Every function of the package with where it is."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                yield f"{name_of(path)}:{node.name}", node


def lines_of(node):
    """A function's lines without its docstring, which may be as long as it takes to say it."""
    start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
    return node.end_lineno - start + 1


def public_names(tree):
    """`__all__`, where a module has one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def test_imports_go_down_only():
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("import-linter isn't installed beside this Python")
    command = [linter, "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_first_line_of_each_file_says_what_lives_there(path):
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    assert first.startswith('"""')
    assert len(first) > 20
    assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize("path", [path for path in FILES if public_names(TREES[path])], ids=name_of)
def test_all_is_honest(path):
    names = public_names(TREES[path])
    module = ".".join(("pandas_llm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(importlib.import_module(module), name)


def test_every_public_class_and_function_of_the_package_is_in_all():
    package = importlib.import_module("pandas_llm")
    for node in TREES[PACKAGE / "__init__.py"].body:
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing"):
            for alias in node.names:
                assert alias.name in (*package.__all__, "VERSION")


def test_no_file_is_longer_than_400_lines():
    lines = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {name: n for name, n in lines.items() if n > LONG_FILES.get(name, 400)} == {}


def test_no_function_is_longer_than_50_lines():
    assert {name: lines_of(node) for name, node in functions() if lines_of(node) > 50} == {}


def test_no_function_has_more_than_6_parameters():
    many = {}
    for name, node in functions():
        arguments = node.args
        count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        count -= bool(arguments.args or arguments.posonlyargs) and "self" in ast.unparse(arguments)
        if count > 6 and name not in KEYWORDS:
            many[name] = count
    assert many == {}


def test_only_the_edge_knows_pandas():
    knows = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] == "pandas" for module in modules):
                knows.add(path.relative_to(PACKAGE).with_suffix("").parts[0])
    assert knows <= {*KNOWS_PANDAS, *FOLDERS_THAT_KNOW_PANDAS}


def test_the_core_does_nothing_but_decide():
    effects = {
        *["asyncio", "os", "io", "random", "time", "socket", "subprocess", "sqlite3", "threading", "pathlib"],
        *["pandas", "aiohttp", "openai", "requests", "httpx", "logging", "tempfile", "shutil", "urllib"],
    }
    # A lock around a sum is no effect; a path is named in an annotation.
    allowed = {("core/budget.py", "threading"), ("core/options.py", "pathlib")}
    found = set()
    for path, tree in TREES.items():
        if not name_of(path).startswith("core/"):
            continue
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(name_of(path), module.split(".")[0]) for module in modules} - allowed
    assert {(file, module) for file, module in found if module in effects} == set()


def test_one_file_opens_connections_and_one_folder_writes_sql():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if "ClientSession(" in text:
            assert name_of(path) == "io/http.py"
        if "INSERT " in text or "sqlite3.connect" in text:
            assert name_of(path).startswith("io/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_left_undone(path):
    text = path.read_text(encoding="utf-8")
    for word in ("TODO", "FIXME", "XXX", "mock.patch"):
        assert word not in text
    assert path.stem not in ("utils", "helpers", "common", "base", "manager")


def test_no_test_mocks_our_own_names():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__).resolve():
            assert "mock.patch" not in text


def test_what_is_shipped_is_typed():
    assert (PACKAGE / "py.typed").exists()
