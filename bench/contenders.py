"""What is compared: one process labels one column and prints what it took as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

LABELS = ["bug", "question", "praise"]
PROBE_SECONDS = 0.005


def texts(rows: int, distinct: int) -> list[str]:
    """Short customer mails, `distinct` of them different."""
    return [
        f"Mail {n % distinct}: the parcel of order {n % distinct} has not arrived yet." for n in range(rows)
    ]


def tutorial(frame: pd.DataFrame, base_url: str, concurrency: int) -> pd.DataFrame:
    """The script every tutorial shows: gather, a semaphore, the async client."""
    from openai import AsyncOpenAI

    async def main() -> list[str | BaseException | None]:
        client = AsyncOpenAI(api_key="bench", base_url=base_url)
        semaphore = asyncio.Semaphore(concurrency)

        async def one(text: str) -> str | None:
            async with semaphore:
                reply = await client.chat.completions.create(
                    model="gpt-6-luna",
                    messages=[
                        {"role": "system", "content": f"Classify the mail. Answer with one of {LABELS}."},
                        {"role": "user", "content": text},
                    ],
                )
                return reply.choices[0].message.content

        # The kindest version: without return_exceptions one failed row loses all the others.
        return await asyncio.gather(*map(one, frame["mail"]), return_exceptions=True)

    answers = [None if isinstance(answer, BaseException) else answer for answer in asyncio.run(main())]
    return frame.assign(label=answers)


def ours(frame: pd.DataFrame, base_url: str, concurrency: int, **options: Any) -> pd.DataFrame:
    """One line: render, key, look-up, claim, request, parse, keep, columns."""
    import pandas_llm

    pandas_llm.configure(api_key="bench", base_url=base_url, progress=False)
    out: pd.DataFrame = frame.llm.classify(
        "mail", LABELS, output="label", max_concurrency=concurrency, confirm_above=None, **options
    )
    return out


def fill(rows: int, store: str, base_url: str) -> None:
    """Put an answer for every row into a store, without a server."""
    from functools import partial

    from pandas_llm.core.types import Record, Usage
    from pandas_llm.io.store import Kept
    from pandas_llm.prepare import Ask, prepare
    from pandas_llm.settings import resolve
    from pandas_llm.verbs import classify

    frame = pd.DataFrame({"mail": texts(rows, rows)})
    ask = Ask("classify", "mail", "label", None, None, partial(classify.task, LABELS), LABELS)
    import pandas_llm

    pandas_llm.configure(api_key="bench", base_url=base_url)
    call = prepare(frame, ask, *resolve({"cache": store})).call
    for start in range(0, rows, 20_000):
        call.store.keep(
            [
                Kept(
                    call.plan.key(code),
                    Record(
                        [LABELS[code % 3]],
                        None,
                        Usage(66, 5),
                        "gpt-6-luna",
                        "default",
                        "stop",
                        f"req_{code}",
                        0.2,
                    ),
                    (),
                    0,
                )
                for code in range(start, min(rows, start + 20_000))
            ]
        )


@contextlib.contextmanager
def lag_probe() -> Iterator[list[float]]:
    """How late the library's event loop wakes a sleeper, in seconds, every 5 ms."""
    from pandas_llm import blocking

    lags: list[float] = []

    async def probe() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(PROBE_SECONDS)
            lags.append(time.perf_counter() - started - PROBE_SECONDS)

    future = asyncio.run_coroutine_threadsafe(probe(), blocking._loop())
    try:
        yield lags
    finally:
        future.cancel()


def rss_mb() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class LiveMemory(threading.Thread):
    """How much a run grew while requests were on their way, in MB: from its first look to its last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.grown = 0.0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Look ten times a second, while a run of the library is live."""
        from pandas_llm import call

        first: float | None = None
        while not self._ended.wait(0.1):
            if call._live:
                first = first or rss_mb()
                self.grown = rss_mb() - first

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()


def reset_peak() -> None:
    """Let the kernel count the peak anew; without it, what happened before would hide it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The highest resident memory since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measured(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One contender's figures; imports and connections' first steps are paid before the clock starts."""
    frame = pd.DataFrame({"mail": texts(args.rows, args.distinct or args.rows)})
    warm_up = pd.DataFrame({"mail": [f"Warm-up {text}" for text in texts(64, 64)]})
    options: dict[str, Any] = {"cache": args.store or f"{folder}/store.sqlite3"}
    if args.rpm:
        options["rpm"] = args.rpm
    if args.paced:
        # One row pays for the imports; then the server's bucket is given the time to be full again.
        warm_up = warm_up.head(1)
    if args.contender == "ours":
        # Into the same store: from the second call on, a user's store knows what format the endpoint speaks.
        ours(warm_up, args.base_url, args.concurrency, cache=options["cache"])
    else:
        tutorial(warm_up, args.base_url, args.concurrency)
    if args.paced:
        time.sleep(1.2)
    reset_peak()
    before = rss_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    lags: list[float] = []
    live = LiveMemory() if args.contender == "ours" and args.live else None
    if args.contender == "tutorial":
        out = tutorial(frame, args.base_url, args.concurrency)
    elif args.lag:
        with lag_probe() as lags:
            out = ours(frame, args.base_url, args.concurrency, **options)
    else:
        out = ours(frame, args.base_url, args.concurrency, **options)
    if live is not None:
        live.stop()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "answered": int(out["label"].notna().sum()),
        "peak_mb": peak_mb() - before,
        "text_mb": frame.memory_usage(deep=True)["mail"] / 1e6,
        "out_mb": out.memory_usage(deep=True).sum() / 1e6,
        "live_mb": live.grown if live is not None else None,
        "lag_p999": sorted(lags)[int(len(lags) * 0.999)] if lags else None,
    }


def main() -> None:
    """Run one contender."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=["ours", "tutorial", "fill"])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--distinct", type=int)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rpm", type=float)
    parser.add_argument("--store", help="where answers are kept; a new file if it isn't given")
    parser.add_argument("--paced", action="store_true", help="a warm-up that leaves a server's limit whole")
    parser.add_argument("--live", action="store_true", help="watch memory while requests are on their way")
    parser.add_argument("--lag", action="store_true", help="watch the event loop")
    args = parser.parse_args()
    if args.contender == "fill":
        fill(args.rows, args.store, args.base_url)
        return
    with tempfile.TemporaryDirectory() as folder:
        json.dump(measured(args, folder), sys.stdout)


if __name__ == "__main__":
    main()
