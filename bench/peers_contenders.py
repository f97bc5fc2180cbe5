"""What the peers are asked: one process, in a peer's environment, labels one column and writes what it took.

The column, the labels and the instructions are those of `contenders.py`. A peer's defaults are kept; what a
user would set is set: how many requests may be in flight, and the rate limit where the peer has one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from contenders import LABELS, ours, texts

INSTRUCTIONS = f"Classify the mail. Answer with one of {LABELS}."
NO_LIMIT = 1_000_000_000
SETTLE_SECONDS = 1.0
Label = Callable[[list[str]], int]
"""How many rows of a column came back with an answer."""


def with_ours(args: argparse.Namespace, folder: str) -> Label:
    """The line of ours that `run.py` times."""
    import pandas_llm  # noqa: F401  the peers' imports aren't timed either

    def label(mails: list[str]) -> int:
        options = {"rpm": args.rpm} if args.rpm else {}
        store = f"{folder}/store.sqlite3"
        frame = pd.DataFrame({"mail": mails})
        out = ours(frame, args.base_url, args.concurrency or 64, cache=store, **options)
        return int(out["label"].notna().sum())

    return label


def with_openaivec(
    args: argparse.Namespace, _folder: str, batch_size: int | None = None, attempts: int | None = None
) -> Label:
    """`Series.aio.responses`; without a batch size it packs rows into one request, ten at first."""
    import openaivec
    from openai import AsyncOpenAI
    from openaivec import pandas_ext  # noqa: F401  registers the accessors

    # It has no rate limiter; its own default is 8 in flight.
    options = {"max_concurrency": args.concurrency} if args.concurrency else {}
    if attempts is not None:
        options["retry_policy"] = openaivec.RetryPolicy(max_attempts=attempts)

    def label(mails: list[str]) -> int:
        # A client belongs to one loop, and each call has a loop of its own.
        openaivec.set_async_client(AsyncOpenAI(api_key="bench", base_url=args.base_url))
        column = pd.Series(mails)
        out = asyncio.run(column.aio.responses(INSTRUCTIONS, batch_size=batch_size, **options))
        return int(out.notna().sum())

    return label


def with_curator(args: argparse.Namespace, folder: str) -> Label:
    """`curator.LLM` over a list of rows, with its file-backed cache in a folder of this run."""
    from bespokelabs import curator

    class Labeller(curator.LLM):
        def prompt(self, row: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": row["mail"]},
            ]

        def parse(self, row: dict[str, str], response: str) -> dict[str, str]:
            return {"mail": row["mail"], "label": response}

    # Where neither the call nor a header names a limit, it paces itself at a low default.
    params = {
        "base_url": args.base_url,
        "api_key": "bench",
        "max_requests_per_minute": int(args.rpm) if args.rpm else NO_LIMIT,
        "max_tokens_per_minute": NO_LIMIT,
        "require_all_responses": False,
    }
    if args.concurrency:
        params["max_concurrent_requests"] = args.concurrency

    def label(mails: list[str]) -> int:
        labeller = Labeller(model_name="gpt-4o-mini", backend="openai", backend_params=dict(params))
        out = labeller([{"mail": mail} for mail in mails], working_dir=f"{folder}/{len(mails)}")
        return sum(row["label"] is not None for row in out.dataset)

    return label


CONTENDERS: dict[str, Callable[[argparse.Namespace, str], Label]] = {
    "ours": with_ours,
    "openaivec": with_openaivec,
    "openaivec-single": partial(with_openaivec, batch_size=1),
    "openaivec-patient": partial(with_openaivec, attempts=10),
    "openaivec-single-patient": partial(with_openaivec, batch_size=1, attempts=10),
    "curator": with_curator,
}


def stats(base_url: str) -> dict[str, int]:
    """What the server counted so far."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/__stats") as response:
        counts: dict[str, int] = json.load(response)
    return counts


def measured(args: argparse.Namespace, folder: str) -> dict[str, float | str | None]:
    """What labelling the column took; imports and first steps are paid before the clock starts."""
    label = CONTENDERS[args.contender](args, folder)
    label([f"Warm-up {text}" for text in texts(args.warm_up, args.warm_up)])
    # By then the bucket of a limited server is full again, whoever was before.
    time.sleep(SETTLE_SECONDS)
    mails = texts(args.rows, args.rows)
    before = stats(args.base_url)
    answered, error = 0, None
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        answered = label(mails)
    except Exception as raised:  # noqa: BLE001  what a peer raises is a result
        error = type(raised).__name__
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = stats(args.base_url)
    counts = {name: after[name] - before[name] for name in ("requests", "429")}
    return {"wall": wall, "cpu": cpu, "answered": answered, "error": error, **counts}


def main() -> None:
    """Run one contender."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument(
        "--result", type=Path, required=True, help="a file, for a peer may print what it likes"
    )
    parser.add_argument("--concurrency", type=int, help="requests in flight; the peer's default if not given")
    parser.add_argument("--rpm", type=float, help="for a peer that has a limiter")
    parser.add_argument("--warm-up", type=int, default=64, help="rows labelled before; few under a limit")
    args = parser.parse_args()
    # A peer may still be writing its log when the folder goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        args.result.write_text(json.dumps(measured(args, folder)))


if __name__ == "__main__":
    main()
