"""`make bench`: the tutorial script and one line of ours, in turn, against a server of its own.

Ratios of one run are what counts: this machine's speed drifts, and both sides drift with it. Exits 1 when a
ratio misses its bound.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FASTER = 5.0
"""Rows a second, ours over the tutorial's, at least."""


@contextlib.contextmanager
def server(*options: str) -> Iterator[str]:
    """The base URL of a fast server in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, str(HERE / "server.py"), "--port-file", str(port_file), *options]
        process = subprocess.Popen(command)
        try:
            while not port_file.exists() or not port_file.read_text().strip():
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port_file.read_text().strip()}/v1"
        finally:
            process.terminate()
            process.wait()


def measure(contender: str, base_url: str, rows: int, *options: str) -> dict[str, Any]:
    """What one contender took, in a process of its own."""
    command = [sys.executable, str(HERE / "contenders.py"), contender, "--base-url", base_url]
    done = subprocess.run(
        [*command, "--rows", str(rows), *options], check=True, capture_output=True, text=True
    )
    took: dict[str, Any] = json.loads(done.stdout)
    if took["answered"] != rows:
        raise SystemExit(f"{contender} answered {took['answered']} of {rows} rows")
    return {**took, "rate": rows / took["wall"], "cpu_ms": took["cpu"] / rows * 1000}


def main() -> None:
    """Print the table and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="distinct rows of ours")
    parser.add_argument("--tutorial-rows", type=int, default=2_000, help="it costs the same a row throughout")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"zero latency, 64 in flight, every row distinct, {args.rounds} rounds in turn")
    print(f"{'':10}{'rows':>8}{'rows/s':>10}{'CPU ms/row':>12}{'peak MB':>9}")
    ratios, cpu_ratios = [], []
    with server() as base_url:
        for _ in range(args.rounds):
            theirs = measure("tutorial", base_url, args.tutorial_rows)
            mine = measure("ours", base_url, args.rows)
            for name, rows, took in (("tutorial", args.tutorial_rows, theirs), ("ours", args.rows, mine)):
                print(f"{name:10}{rows:8,}{took['rate']:10,.0f}{took['cpu_ms']:12.3f}{took['peak_mb']:9.0f}")
            ratios.append(mine["rate"] / theirs["rate"])
            cpu_ratios.append(theirs["cpu_ms"] / mine["cpu_ms"])
    faster, leaner = statistics.median(ratios), statistics.median(cpu_ratios)
    print(f"median: {faster:.1f}x the rows/s (bound {FASTER:g}x), 1/{leaner:.1f} of the CPU a row")
    if faster < FASTER:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
