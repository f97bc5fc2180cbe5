"""What the notebook's panel costs: pairs of runs in a warm kernel, with it and without, in turn.

`python bench/panel.py [--pairs 5]` prints each pair; `bench/run.py --only panel` judges them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from queue import Empty
from typing import Any

ROWS, PLACES, LATENCY = 20_000, 64, 0.02
_SETUP = f"""
import json, os, time
os.environ.update(OPENAI_BASE_URL={{url!r}}, OPENAI_API_KEY="sk-bench", PANDAS_LLM_CACHE={{store!r}})
import pandas as pd
import pandas_llm
from pandas_llm.display.notebook import Notebook
painting, paint = [0.0], Notebook.paint
def timed(self, p):
    begun = time.thread_time()
    paint(self, p)
    painting[0] += time.thread_time() - begun
Notebook.paint = timed
def run(name, progress, rows={ROWS}):
    df = pd.DataFrame({{{{"t": [f"{{{{name}}}} {{{{i}}}}" for i in range(rows)]}}}})
    painting[0], begun, cpu = 0.0, time.perf_counter(), time.process_time()
    out = df.llm.classify("t", ["bug", "question"], progress=progress, max_concurrency={PLACES})
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    answered = int((out["t_label_source"] == "api").sum())
    print(json.dumps({{{{"wall": wall, "cpu": cpu, "painting": painting[0] / wall, "answered": answered}}}}))
run("warm", True, 2_000)
"""


def pairs(base_url: str, number: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """With the panel and without, so many times; who begins takes turns."""
    from jupyter_client.manager import start_new_kernel

    with tempfile.TemporaryDirectory() as folder:
        manager, client = start_new_kernel(cwd=str(Path(__file__).parents[1]))
        try:
            _said(client, _SETUP.format(url=base_url, store=str(Path(folder) / "store.sqlite3")))
            found = []
            for n in range(number):
                order = [True, False] if n % 2 else [False, True]
                took = {shown: _said(client, f"run('{n} {shown}', {shown})") for shown in order}
                found.append((took[True], took[False]))
            return found
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _said(client: Any, code: str) -> dict[str, Any]:
    """The JSON that a cell prints; all its other messages are read, as a front end would."""
    client.execute(code, store_history=False)
    printed = ""
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except Empty:
            raise SystemExit("the kernel says nothing any more") from None
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            raise SystemExit("\n".join(content["traceback"]))
        if kind == "stream" and content["name"] == "stdout":
            printed += content["text"]
        if kind == "status" and content["execution_state"] == "idle" and printed:
            found: dict[str, Any] = json.loads(printed.splitlines()[-1])
            return found


def main() -> None:
    """Print every pair."""
    from run import server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    with server("--latency", str(LATENCY)) as base_url:
        found = pairs(base_url, parser.parse_args().pairs)
    for shown, hidden in found:
        walls = f"{shown['wall']:.2f} s with the panel, {hidden['wall']:.2f} s without"
        cpu = f"CPU {shown['cpu']:.2f} and {hidden['cpu']:.2f} s"
        print(f"{walls}; {cpu}; painting {shown['painting']:.2%}")
    print(f"median ratio {statistics.median(a['wall'] / b['wall'] for a, b in found):.3f}")


if __name__ == "__main__":
    main()
