"""`make bench`: the tutorial script and one line of ours, in turn, against a fast server of its own.

Ratios of one run are what counts: a machine's speed drifts, and both sides drift with it. Each figure stands
beside its bound; exits 1 when one misses. `--only zero,latency` runs a part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Took = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    figure: float
    bound: float | None
    """None: reported, not judged."""
    least: bool = True
    """Whether the bound is a least or a most."""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        if self.bound is None:
            return True
        return self.figure >= self.bound if self.least else self.figure <= self.bound

    def __str__(self) -> str:
        bound = "" if self.bound is None else f"{'>=' if self.least else '<='} {self.bound:g}"
        verdict = "" if self.bound is None else "ok" if self.holds else "MISSED"
        return f"{self.what:58}{self.figure:>10.3f}  {bound:>10}  {verdict:7}{self.note}"


@contextlib.contextmanager
def server(*options: str, script: str = "server.py") -> Iterator[str]:
    """The base URL of a fast server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, str(HERE / script), "--port-file", str(port_file), *options]
        process = subprocess.Popen(command)
        try:
            while not port_file.exists():
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port_file.read_text().strip()}/v1"
        finally:
            process.terminate()
            process.wait()


def stats(base_url: str) -> dict[str, int]:
    """What the server counted."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/__stats") as response:
        counts: dict[str, int] = json.load(response)
    return counts


def contender(name: str, base_url: str, rows: int, *options: str) -> Took:
    """What one contender took, in a process of its own."""
    command = [sys.executable, str(HERE / "contenders.py"), name, "--base-url", base_url]
    done = subprocess.run([*command, "--rows", str(rows), *options], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout) if done.stdout else {}


def speed(took: Took, rows: int) -> str:
    """A contender's own figures, for a note."""
    return f"{rows / took['wall']:,.0f} rows/s, {took['cpu'] / rows * 1000:.3f} ms CPU a row"


def zero(rounds: int) -> Iterator[Line]:
    """Zero latency, every row distinct: all the work there is, render, key, store and columns included."""
    rows, theirs_rows = 20_000, 2_000
    faster, leaner, lags, last = [], [], [], ""
    with server() as base_url:
        for _ in range(rounds):
            theirs = contender("tutorial", base_url, theirs_rows)
            mine = contender("ours", base_url, rows, "--lag")
            faster.append(rows / mine["wall"] / (theirs_rows / theirs["wall"]))
            leaner.append(mine["cpu"] / rows / (theirs["cpu"] / theirs_rows))
            lags.append(mine["lag_p999"] * 1000)
            last = f"ours {speed(mine, rows)}; tutorial {speed(theirs, theirs_rows)}"
    yield Line(
        "zero latency, 20,000 distinct: rows/s over the tutorial's", statistics.median(faster), 8, note=last
    )
    yield Line("  CPU a row over the tutorial's", statistics.median(leaner), 1 / 8, least=False)
    yield Line("  event-loop lag, p99.9, ms", statistics.median(lags), 100, least=False)


def latency(rounds: int) -> Iterator[Line]:
    """200 ms a reply, 256 in flight, 40 full waves."""
    rows, places = 10_240, 256
    shares, cpu = [], []
    with server("--latency", "0.2") as base_url:
        for _ in range(rounds):
            took = contender("ours", base_url, rows, "--concurrency", str(places))
            shares.append(rows * 0.2 / places / took["wall"])
            cpu.append(took["cpu"] / rows * 1000)
    note = ", ".join(f"{share:.3f}" for share in shares) + f"; {statistics.median(cpu):.2f} ms CPU a row"
    yield Line(
        "200 ms, 256 in flight, 10,240 rows: share of the ideal", statistics.median(shares), 0.93, note=note
    )


def limits(_: int) -> Iterator[Line]:
    """A limit that is declared, told in headers, or found out."""
    cases = (
        ("declared rpm=600", 600, 300, ("--rpm", "600"), (), 0.98, 0.0),
        ("declared rpm=3,000", 3_000, 1_500, ("--rpm", "3000"), (), 0.98, 0.0),
        ("3,000 rpm learnt from headers", 3_000, 2_000, (), (), 0.95, None),
        ("3,000 rpm learnt from 429s alone (goal 0.8)", 3_000, 2_000, (), ("--no-headers",), None, None),
    )
    for what, rpm, rows, ours, served, bound, refused in cases:
        with server("--latency", "0.05", "--rpm", str(rpm), "--depth", "1.0", *served) as base_url:
            took = contender("ours", base_url, rows, "--paced", *ours)
            counts = stats(base_url)
        ideal = (rows - rpm / 60) * 60 / rpm
        note = f"{took['answered']:,} answered, {counts['429']} 429s, {counts['429_late']} after 10 s"
        yield Line(f"{what}: share of it", ideal / took["wall"], bound, note=note)
        yield Line("  rows without an answer", rows - took["answered"], 0, least=False)
        if refused is not None:
            yield Line("  429s", counts["429"], refused, least=False)
        elif not served:
            yield Line("  429s after the first 10 s", counts["429_late"], 0, least=False)
        else:
            yield Line("  429s, share of requests (goal 0.05)", counts["429"] / counts["requests"], None)


def cached(rounds: int) -> Iterator[Line]:
    """Everything known, and one row in ten known."""
    rows, theirs_rows, distinct = 200_000, 2_000, 20_000
    with tempfile.TemporaryDirectory() as folder, server() as base_url:
        store = str(Path(folder) / "store.sqlite3")
        contender("fill", base_url, rows, "--store", store)
        theirs = contender("tutorial", base_url, theirs_rows)["wall"] * rows / theirs_rows
        walls = [contender("ours", base_url, rows, "--store", store)["wall"] for _ in range(rounds)]
        asked = stats(base_url)["requests"] - theirs_rows - 64 * (rounds + 1)
        tenth = [
            contender("ours", base_url, rows, "--distinct", str(distinct))["wall"]
            / contender("ours", base_url, distinct)["wall"]
            for _ in range(rounds)
        ]
    wall = statistics.median(walls)
    yield Line("200,000 rows, all known: share of the tutorial's time", wall / theirs, 1 / 200, least=False)
    yield Line("  seconds", wall, 2, least=False, note=f"{asked} asked")
    yield Line("200,000 rows, 20,000 distinct, over these alone", statistics.median(tenth), 1.1, least=False)


def memory(_: int) -> Iterator[Line]:
    """What a run needs beside the frame."""
    with tempfile.TemporaryDirectory() as folder, server() as base_url:
        store = str(Path(folder) / "store.sqlite3")
        contender("fill", base_url, 1_000_000, "--store", store)
        took = contender("ours", base_url, 1_000_000, "--store", store)
        # Two lengths: what a run needs once (connections, page cache) falls out of the difference.
        short, long = (contender("ours", base_url, rows, "--live") for rows in (50_000, 150_000))
    bound = 4.5 * took["text_mb"] + 100
    note = f"text column {took['text_mb']:.0f} MB; {took['wall']:.1f} s"
    yield Line("1,000,000 rows, all known: peak growth, MB", took["peak_mb"], bound, least=False, note=note)
    yield Line(
        "a live run, first reply to last: growth, MB per 100,000 rows",
        long["live_mb"] - short["live_mb"],
        10,
        least=False,
    )
    # The texts themselves, and the dict that tells them apart, are most of this.
    grown = (long["peak_mb"] - long["out_mb"]) - (short["peak_mb"] - short["out_mb"])
    yield Line("  the whole call beyond the frame it returns", grown, None)


def batch(rounds: int) -> Iterator[Line]:
    """120,000 rows as three batches; then 50,000 left behind and collected."""
    runs = []
    for _ in range(rounds):
        with server(script="batch_server.py") as base_url:
            runs.append(batched("run", base_url, 120_000))
    with server(script="batch_server.py") as base_url:
        left = batched("collect", base_url, 50_000)
    grown = [took["peak_mb"] / took["text_mb"] for took in runs]
    note = f"{', '.join(f'{each:.2f}' for each in grown)}; text column {runs[0]['text_mb']:.1f} MB"
    what = "120,000 rows, three batches: growth over the text column"
    yield Line(what, statistics.median(grown), 8, least=False, note=note)
    yield Line(
        "  rows without an answer", 120_000 * rounds - sum(t["answered"] for t in runs), 0, least=False
    )
    lag = statistics.median(took["lag_p999"] for took in runs)
    yield Line("  event-loop lag, p99.9, ms", lag, 100, least=False)
    yield Line("reading a batch's file: speed over json.loads of it", left["plain"] / left["ours"], 0.4)
    note = f"{50_000 / left['wall']:,.0f} rows/s with every answer saved"
    yield Line("  collecting 50,000 rows: seconds", left["wall"], None, note=note)


def semantic(_: int) -> Iterator[Line]:
    """Near-equal texts share answers: how often wrongly, how much is saved."""
    from semantic import lines

    yield from lines()


def panel(_: int) -> Iterator[Line]:
    """20,000 rows at 20 ms in a warm notebook kernel, with the panel and without."""
    from panel import LATENCY, ROWS, pairs

    with server("--latency", str(LATENCY)) as base_url:
        found = pairs(base_url, 5)
    ratios = [shown["wall"] / hidden["wall"] for shown, hidden in found]
    note = f"{', '.join(f'{each:.3f}' for each in ratios)}; {found[0][1]['wall']:.1f} s without"
    what = "a notebook's panel, 20,000 rows at 20 ms: time over none"
    yield Line(what, statistics.median(ratios), 1.03, least=False, note=note)
    painting = statistics.median(shown["painting"] for shown, _ in found)
    yield Line("  painting, share of a core", painting, 0.01, least=False)
    missing = sum(ROWS - took["answered"] for pair in found for took in pair)
    yield Line("  rows without an answer", missing, 0, least=False)


def batched(what: str, base_url: str, rows: int) -> Took:
    """What a batch run took, in a process of its own."""
    command = [sys.executable, str(HERE / "batch_contender.py"), what, "--base-url", base_url]
    done = subprocess.run([*command, "--rows", str(rows)], check=True, stdout=subprocess.PIPE)
    took: Took = json.loads(done.stdout)
    return took


PARTS: dict[str, Callable[[int], Iterator[Line]]] = {
    "zero": zero,
    "latency": latency,
    "limits": limits,
    "cached": cached,
    "memory": memory,
    "batch": batch,
    "semantic": semantic,
    "panel": panel,
}


def main() -> None:
    """Print the table and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", action="store_true", help="then other packages on the same work (peers.py)"
    )
    args = parser.parse_args()
    missed = 0
    for part in args.only.split(","):
        for line in PARTS[part](args.rounds):
            print(line, flush=True)
            missed += not line.holds
    if args.peers:
        subprocess.run([sys.executable, str(HERE / "peers.py")], check=False)
    if missed:
        raise SystemExit(f"{missed} missed")


if __name__ == "__main__":
    main()
