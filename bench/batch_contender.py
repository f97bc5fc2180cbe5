"""One batch run in a process of its own: its memory, its event loop, reading files beside json.loads."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from typing import Any

import pandas as pd
from contenders import lag_probe, peak_mb, reset_peak, rss_mb, texts

import pandas_llm
from pandas_llm.dispatch.harvest import Harvest
from pandas_llm.verbs.classify import task

LABELS = ["bug", "question"]
SETTINGS = pandas_llm.Batches(pilot=0, poll=(0.05, 0.2), min_requests=1)


def run(rows: int) -> dict[str, Any]:
    """A whole call over so many rows: submit, wait, collect."""
    ask(pd.DataFrame({"mail": ["Warm-up 1", "Warm-up 2"]}))
    frame = pd.DataFrame({"mail": texts(rows, rows)})
    reset_peak()
    before, started = rss_mb(), time.perf_counter()
    with lag_probe() as lags:
        out = ask(frame)
    return {
        "wall": time.perf_counter() - started,
        "answered": int(out["mail_label"].notna().sum()),
        "peak_mb": peak_mb() - before,
        "text_mb": frame.memory_usage(deep=True)["mail"] / 1e6,
        "lag_p999": sorted(lags)[int(len(lags) * 0.999)] * 1000,
    }


def ask(frame: pd.DataFrame) -> pd.DataFrame:
    """The call."""
    out: pd.DataFrame = frame.llm.classify("mail", LABELS, mode="batch", batches=SETTINGS, progress=False)
    return out


def collect(rows: int, base_url: str, batch: str) -> dict[str, Any]:
    """Submit and leave; then collect what is there, and read the same file with json.loads."""
    frame = pd.DataFrame({"mail": [f"Left {text}" for text in texts(rows, rows)]})
    options: dict[str, Any] = {"mode": "batch", "batches": SETTINGS, "progress": False, "wait": False}
    frame.llm.classify("mail", LABELS, **options)
    started = time.perf_counter()
    out = frame.llm.classify("mail", LABELS, **options)
    wall = time.perf_counter() - started
    with urllib.request.urlopen(f"{base_url}/files/{batch}-out/content") as response:
        lines = response.read().split(b"\n")[:-1]
    plain, ours = reading(lines)
    return {"wall": wall, "answered": int(out["mail_label"].notna().sum()), "plain": plain, "ours": ours}


def reading(lines: list[bytes]) -> tuple[float, float]:
    """CPU seconds for the same lines: json.loads of each, and ours into results; the best of three each."""
    keys = [bytes.fromhex(json.loads(line)["custom_id"]) for line in lines]
    asked = task(LABELS, instructions=None, examples=None, output="label")
    best = [float("inf")] * 2
    for _ in range(3):
        started = time.process_time()
        for line in lines:
            json.loads(line)
        best[0] = min(best[0], time.process_time() - started)
        harvest = Harvest(b"".join(keys), range(len(keys)), set(), asked, None, 1)
        started = time.process_time()
        for at in range(0, len(lines), 128):
            harvest.take(lines[at : at + 128])
        best[1] = min(best[1], time.process_time() - started)
    return best[0], best[1]


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "collect"])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pandas_llm.configure(
            base_url=args.base_url, cache=f"{folder}/store.sqlite3", confirm_above=None, model="gpt-6-luna"
        )
        took = run(args.rows) if args.what == "run" else collect(args.rows, args.base_url, "batch_1")
    json.dump(took, sys.stdout)


if __name__ == "__main__":
    main()
