"""Real Python processes that have the library imported: forked off one process that did it once.

A fresh interpreter takes 1.5 s to import pandas, openai and aiohttp; a fork of one that has them takes 20 ms.
It is an ordinary process all the same, with its own main thread, signals and exit.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PROLOGUE = """
import asyncio, json, os, signal, sys, threading, time
import pandas as pd
import pandas_llm
from pandas_llm.errors import *
LABELS = ["bug", "question", "praise"]
def tickets(n, first=0):
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})
def say(**facts):
    print(json.dumps(facts), flush=True)
"""


class Child:
    """One process and what it said."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self._folder = folder

    @property
    def stdout(self) -> str:
        return self._read("stdout")

    @property
    def stderr(self) -> str:
        return self._read("stderr")

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""

    @property
    def said(self) -> dict[str, Any]:
        """All that it said as JSON lines, in one dict."""
        lines = (line for line in self.stdout.splitlines() if line.startswith("{"))
        return {name: fact for line in lines for name, fact in json.loads(line).items()}

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 20) -> int:
        """Its exit code; minus the signal's number where one killed it."""
        code = self._folder / "code"
        until(code.exists, seconds, lambda: f"the child goes on:\n{self.stdout}\n{self.stderr}")
        return int(code.read_text())


def until(condition: Callable[[], object], seconds: float = 20, why: Callable[[], str] = str) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s: {why()}"
        time.sleep(0.002)


def start(script: str, folder: Path, **environment: str) -> Child:
    """A process that runs `script`, after some imports; `folder` is for what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.py").write_text(_PROLOGUE + script)
    keep = ("OPENAI_", "PANDAS_LLM_")
    given = {name: value for name, value in os.environ.items() if name.startswith(keep)}
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps({"folder": str(folder), "environment": {**given, **environment}}) + "\n")
    parent.stdin.flush()
    return Child(int(parent.stdout.readline()), folder)


@functools.cache
def _parent() -> subprocess.Popen[str]:
    # -X dev shows forgotten coroutines, sockets and tasks; -W error makes a line on stderr of each warning.
    command = [sys.executable, "-X", "dev", "-W", "error", __file__]
    pipe = subprocess.PIPE
    parent = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=_plain_environment())

    def end() -> None:
        parent.communicate()  # the end of its input is its end

    atexit.register(end)
    return parent


def _plain_environment() -> dict[str, str]:
    ours = ("OPENAI_", "PANDAS_LLM_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _serve() -> None:
    """Fork a child for each line of the standard input."""
    running: dict[int, Path] = {}

    def reap(*_: object) -> None:
        for pid, folder in list(running.items()):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # a handler within this one was quicker
                continue
            if found:
                running.pop(pid, None)
                unfinished = folder / "code.part"
                unfinished.write_text(str(os.waitstatus_to_exitcode(status)))
                unfinished.rename(folder / "code")

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _become(folder, asked["environment"])
            return
        running[pid] = folder
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(pid, flush=True)


def _become(folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    script = folder / "script.py"
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "__main__"})


def _import_all() -> None:
    sys.path[0] = str(_ROOT)
    import aiohttp  # noqa: F401
    import openai  # noqa: F401
    import pandas as pd

    import pandas_llm  # noqa: F401

    # What is imported when it is first needed: by a call, and by a client that is made.
    pd.DataFrame({"text": ["a"]}).llm.estimate.classify("text", ["a", "b"], cache=False)
    from pandas_llm.io.http import open_endpoint

    url = "http://127.0.0.1:9/v1"
    open_endpoint(client=None, api_key="none", base_url=url, model="none", places=1)
    # A collection in a fork writes to every object, and so copies 150 MB of pages: 0.2 s with five at once.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is the tests' business
    _import_all()
    _serve()
