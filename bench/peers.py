"""`make bench PEERS=1`: openaivec and bespokelabs-curator on the column and the server that ours is timed on.

Each has an environment of its own under `.venv-peers/`, made at the first run, and a process of its own. Its
lines are facts: they have no bounds, and a peer that can't be installed or doesn't end is one line that says
so. `--only zero,latency,limits` runs a part.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from run import HERE, Line, Took, server

ENVIRONMENTS = HERE.parent / ".venv-peers"
INSTALL_SECONDS = 900
RUN_SECONDS = 180
ENCODINGS = "litellm==1.83.7"
"""Its wheel holds tiktoken's files under tiktoken's cache names; without them both peers need the network."""
QUIET = {
    "TELEMETRY_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
}
"""Nothing is told to anybody, and nothing is fetched."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A package from PyPI."""

    package: str
    version: str

    @property
    def folder(self) -> Path:
        """Its environment."""
        return ENVIRONMENTS / self.package

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def encodings(self) -> Path | None:
        """Where tiktoken's files lie, once they are installed."""
        found = self.folder.glob("lib/python*/site-packages/litellm/litellm_core_utils/tokenizers")
        return next(found, None)


OPENAIVEC = Peer("openaivec", "2.9.3")
CURATOR = Peer("bespokelabs-curator", "0.1.31")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to label the column."""

    name: str
    what: str
    peer: Peer | None
    """None: ours, in the environment this runs in."""
    rows: dict[str, int]
    """For each case it takes part in: enough for seconds, not minutes."""


CONTENDERS = (
    Contender("ours", "ours", None, {"zero": 10_000, "latency": 10_240, "limits": 300}),
    Contender(
        "openaivec",
        f"openaivec {OPENAIVEC.version}, packing rows",
        OPENAIVEC,
        {"zero": 4_000, "latency": 10_240, "limits": 300},
    ),
    Contender(
        "openaivec-single",
        f"openaivec {OPENAIVEC.version}, batch_size=1",
        OPENAIVEC,
        {"zero": 500, "latency": 1_280, "limits": 300},
    ),
    Contender(
        "openaivec-patient",
        f"openaivec {OPENAIVEC.version}, packing rows, max_attempts=10",
        OPENAIVEC,
        {"limits": 300},
    ),
    Contender(
        "openaivec-single-patient",
        f"openaivec {OPENAIVEC.version}, batch_size=1, max_attempts=10",
        OPENAIVEC,
        {"limits": 300},
    ),
    Contender(
        "curator",
        f"{CURATOR.package} {CURATOR.version}",
        CURATOR,
        {"zero": 2_000, "latency": 5_120, "limits": 300},
    ),
)


class FailedError(Exception):
    """A peer that gave no result; its text says why."""


def last_line(stderr: bytes | None) -> str:
    """The line that names the error."""
    lines = (stderr or b"").decode(errors="replace").split("\n")
    return next((line.strip()[:110] for line in reversed(lines) if line.strip()), "no message")


def finished(command: list[str], seconds: float, **options: object) -> None:
    """Run a command to its end, quietly."""
    try:
        subprocess.run(
            command, timeout=seconds, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
        )
    except subprocess.CalledProcessError as error:
        raise FailedError(last_line(error.stderr)) from None
    except subprocess.TimeoutExpired:
        raise FailedError(f"no result in {seconds:.0f} s") from None


def install(peer: Peer) -> None:
    """Make its environment, unless this version's stands already."""
    done = peer.folder / f"{peer.version}.done"
    if done.exists():
        return
    print(f"installing {peer.package} {peer.version} into {peer.folder} ...", file=sys.stderr, flush=True)
    shutil.rmtree(peer.folder, ignore_errors=True)
    pip = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    finished([sys.executable, "-m", "venv", str(peer.folder)], INSTALL_SECONDS)
    finished([*pip, f"{peer.package}=={peer.version}"], INSTALL_SECONDS)
    if peer.encodings() is None:
        finished([*pip, "--no-deps", ENCODINGS], INSTALL_SECONDS)
    done.touch()


def took(contender: Contender, base_url: str, rows: int, *options: str) -> Took:
    """What one contender took, in a process of its own that sees neither our settings nor our home."""
    python, environment = sys.executable, dict(os.environ)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        if contender.peer is not None:
            install(contender.peer)
            python = str(contender.peer.python)
            private = ("OPENAI_", "AZURE_", "PYTHON")
            environment = {name: v for name, v in environment.items() if not name.startswith(private)}
            encodings = contender.peer.encodings() or home
            environment |= QUIET | {"HOME": home, "TIKTOKEN_CACHE_DIR": str(encodings)}
        result = Path(home) / "result.json"
        command = [python, str(HERE / "peers_contenders.py"), contender.name, "--base-url", base_url]
        command += ["--rows", str(rows), "--result", str(result), *options]
        try:
            finished(command, RUN_SECONDS, env=environment)
        except FailedError:
            # Some crash on the way out, after the result is written.
            if not result.exists():
                raise
        return json.loads(result.read_text())


def useful(taken: Took) -> float:
    """Requests that became answers: one for a packed request, none for rows that were paid for and lost."""
    return min(taken["requests"] - taken["429"], taken["answered"])


def note(taken: Took, rows: int) -> str:
    """The facts beside the figure."""
    told = (
        f"{taken['answered']:,} of {rows:,} rows, {rows - taken['answered']:,} lost, "
        f"{taken['answered'] / taken['wall']:,.0f} rows/s, {taken['cpu'] / rows * 1000:.3f} ms CPU a row, "
        f"{taken['requests']:,} requests, {taken['429']:,} 429s, {taken['wall']:.1f} s"
    )
    return told if taken["error"] is None else f"{told}, raises {taken['error']}"


@dataclass(frozen=True, slots=True)
class Case:
    """One server, and what is read off it."""

    what: str
    served: tuple[str, ...]
    options: tuple[str, ...]
    figure: Callable[[Took], float]


CASES = {
    "zero": Case(
        "zero latency, 64 in flight: rows/s",
        (),
        ("--concurrency", "64"),
        lambda taken: taken["answered"] / taken["wall"],
    ),
    "latency": Case(
        "200 ms, 256 in flight: share of the ideal",
        ("--latency", "0.2"),
        ("--concurrency", "256"),
        lambda taken: useful(taken) * 0.2 / 256 / taken["wall"],
    ),
    "limits": Case(
        "600 rpm enforced: share of it",
        ("--latency", "0.05", "--rpm", "600", "--depth", "1.0"),
        ("--rpm", "600", "--warm-up", "1"),
        # The 10 that a full bucket gives at once aren't the limit's.
        lambda taken: max(0.0, useful(taken) - 10) / 10 / taken["wall"],
    ),
}


def lines(name: str) -> Iterator[Line]:
    """One case, everybody who takes part in turn, each on a new server."""
    case = CASES[name]
    for contender in CONTENDERS:
        rows = contender.rows.get(name)
        if rows is None:
            continue
        try:
            with server(*case.served, script="peers_server.py") as base_url:
                taken = took(contender, base_url, rows, *case.options)
        except FailedError as error:
            yield Line(f"  {contender.what}", math.nan, None, note=f"no figure: {error}")
        else:
            yield Line(f"  {contender.what}", case.figure(taken), None, note=note(taken, rows))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    for name in parser.parse_args().only.split(","):
        print(CASES[name].what, flush=True)
        for line in lines(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
