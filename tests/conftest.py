"""Fixtures only: a fake OpenAI server, a store of the test's own, and nothing of this machine's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fakes.openai_server import FakeOpenAI

from pandas_llm.dispatch import gate


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No key, endpoint or option of whoever runs the tests; a store that goes with the test."""
    for name in list(os.environ):
        if name.startswith(("PANDAS_LLM_", "OPENAI_")) and name != "PANDAS_LLM_LOCAL_MODEL":
            monkeypatch.delenv(name)
    store = tmp_path / "store.sqlite3"
    monkeypatch.setenv("PANDAS_LLM_CACHE", str(store))
    yield store
    from pandas_llm.core.options import CONFIGURABLE
    from pandas_llm.settings import configure

    configure(**dict.fromkeys(name for name in CONFIGURABLE if name != "confirm_above"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """A fake server that the verbs of this test talk to; every body must have kept the public contract."""
    # Ports come again: what the process learnt of another test's server isn't true of this one.
    gate._traffic.clear()
    with FakeOpenAI() as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
        yield fake
    assert fake.violations == []
