"""What is compared: one process labels one column and prints what it took as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

LABELS = ["bug", "question", "praise"]


def texts(rows: int, distinct: int) -> list[str]:
    """Short customer mails, `distinct` of them different."""
    return [f"Mail {n % distinct}: the parcel of order {n % distinct} has not arrived yet." for n in range(rows)]


def tutorial(mails: list[str], base_url: str, concurrency: int) -> int:
    """The script every tutorial shows: gather, a semaphore, the async client."""
    import pandas as pd
    from openai import AsyncOpenAI

    async def main() -> list[str | None]:
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

        return await asyncio.gather(*map(one, mails))

    frame = pd.DataFrame({"mail": mails})
    frame["label"] = asyncio.run(main())
    return int(frame["label"].notna().sum())


def ours(mails: list[str], base_url: str, concurrency: int, store: str) -> int:
    """One line: render, key, look-up, claim, request, parse, keep, columns."""
    import pandas as pd

    import pandas_llm

    pandas_llm.configure(api_key="bench", base_url=base_url, cache=store, progress=False)
    frame = pd.DataFrame({"mail": mails})
    out = frame.llm.classify("mail", LABELS, output="label", max_concurrency=concurrency)
    return int(out["label"].notna().sum())


def main() -> None:
    """Run one contender; imports are paid before the clock starts, for both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=["ours", "tutorial"])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--distinct", type=int)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--store", help="where answers are kept; a new file if it isn't given")
    args = parser.parse_args()
    mails = texts(args.rows, args.distinct or args.rows)
    warm_up = texts(64, 64)
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or str(Path(folder) / "store.sqlite3")
        if args.contender == "ours":
            ours(warm_up, args.base_url, args.concurrency, str(Path(folder) / "warm.sqlite3"))
        else:
            tutorial(warm_up, args.base_url, args.concurrency)
        cpu, wall = time.process_time(), time.perf_counter()
        if args.contender == "ours":
            answered = ours(mails, args.base_url, args.concurrency, store)
        else:
            answered = tutorial(mails, args.base_url, args.concurrency)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump({"answered": answered, "wall": wall, "cpu": cpu, "peak_mb": peak}, sys.stdout)


if __name__ == "__main__":
    main()
