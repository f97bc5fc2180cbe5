"""A real JupyterLab in a real Chromium: notebooks are opened, run cell by cell, clicked on and looked at."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "lab"
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Lab:
    """A server that runs."""

    url: str
    folder: Path

    def write(self, name: str, cells: list[str], kernel: str) -> Path:
        """A notebook with these cells."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        book.metadata["kernelspec"] = {"display_name": kernel, "language": "python", "name": kernel}
        path = self.folder / name
        nbformat.write(book, path)
        return path

    def end_kernels(self) -> None:
        """Shut down all kernels: one that goes on takes the next test's time."""
        for kernel in json.loads(self._ask("GET", "/api/kernels")):
            self._ask("DELETE", f"/api/kernels/{kernel['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        asked = Request(f"{self.url}{path}", method=method, headers={"Authorization": f"token {TOKEN}"})
        with urlopen(asked, timeout=10) as reply:
            return bytes(reply.read())


@contextmanager
def jupyter_lab(
    folder: Path, kernels: Mapping[str, str], *, theme: str = "JupyterLab Light"
) -> Iterator[Lab]:
    """A JupyterLab of its own, with a kernel for each Python; nothing of whoever runs the tests."""
    for name, python in kernels.items():
        _write(
            folder / "data" / "kernels" / name / "kernel.json",
            {
                "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": name,
                "language": "python",
            },
        )
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    _write(settings / "themes.jupyterlab-settings", {"theme": theme})
    _write(settings / "notification.jupyterlab-settings", {"fetchNews": "false", "checkForUpdates": False})
    root = folder / "notebooks"
    root.mkdir()
    port = _free_port()
    lab = Lab(f"http://127.0.0.1:{port}", root)
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
                *(f"--IdentityProvider.token={TOKEN}", "--allow-root", f"--ServerApp.root_dir={root}"),
            ],
            env=_environment(folder),
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(server, f"{lab.url}/api?token={TOKEN}")
            yield lab
        finally:
            server.terminate()
            server.wait(20)


@contextmanager
def browser(folder: Path, *, width: int = 1100, height: int = 820, dark: bool = False) -> Iterator[Any]:
    """A page in a Chromium with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=list(_FLAGS),
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(20_000)
        yield context.pages[0]
        context.close()


@dataclass(frozen=True, slots=True)
class Notebook:
    """A notebook that is open in the browser."""

    page: Any

    def cell(self, i: int) -> Any:
        """A cell of it."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(i)

    def run(self, i: int) -> None:
        """Start a cell. JupyterLab swallows the keys now and then, so its prompt must change."""
        prompt = self.cell(i).locator(".jp-InputPrompt")
        before = prompt.inner_text()
        for _ in range(10):
            self.cell(i).locator(".cm-content").click()
            self.page.keyboard.press("Shift+Enter")
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                if prompt.inner_text() != before:
                    return
                self.page.wait_for_timeout(50)
        raise AssertionError(f"cell {i} didn't start")

    def ended(self, i: int) -> str:
        """What a cell says once it is over."""
        prompt = self.cell(i).locator(".jp-InputPrompt")
        end = time.monotonic() + _SECONDS
        while "*" in prompt.inner_text() or prompt.inner_text().strip() == "[ ]:":
            if time.monotonic() > end:
                raise AssertionError(f"cell {i} didn't end: {self.said(i)!r}")
            self.page.wait_for_timeout(50)
        # What it said last is drawn a moment after its prompt.
        self.page.wait_for_timeout(200)
        return self.said(i)

    def said(self, i: int) -> str:
        """What a cell says by now."""
        return str(self.cell(i).locator(".jp-Cell-outputArea").inner_text())

    def prompt(self, i: int) -> str:
        """`[3]:`, `[*]:` while it runs or waits, `[ ]:` before."""
        return str(self.cell(i).locator(".jp-InputPrompt").inner_text()).strip()

    def stop(self) -> None:
        """The kernel's Stop button."""
        commands = ("notebook:interrupt-kernel", "kernelmenu:interrupt")
        self.page.locator(", ".join(f"[data-command='{command}']" for command in commands)).first.click()

    def save(self, path: Path) -> Any:
        """Save it, and read what is on the disk then."""
        before = path.stat().st_mtime_ns
        self.page.locator("[data-command='docmanager:save']").first.click()
        end = time.monotonic() + 10
        while path.stat().st_mtime_ns == before and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        return nbformat.read(path, as_version=4)


def open_notebook(page: Any, lab: Lab, path: Path, *, kernel: bool = True) -> Notebook:
    """Open a notebook; with its kernel idle and its widgets' manager there."""
    page.goto(f"{lab.url}/doc/tree/{path.name}?token={TOKEN}&reset")
    if kernel:
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
        # The manager asks the kernel for its widgets first; a cell started earlier delays the first paint.
        page.wait_for_timeout(700)
    else:
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    return Notebook(page)


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PANDAS_LLM_"))
    }
    places = {"SETTINGS_DIR": "settings", "WORKSPACES_DIR": "workspaces"}
    return kept | {
        **{f"JUPYTERLAB_{name}": str(folder / place) for name, place in places.items()},
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def _wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise AssertionError(f"JupyterLab ended with {server.returncode}")
        try:
            urlopen(url, timeout=5).close()
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise AssertionError("JupyterLab didn't start")
