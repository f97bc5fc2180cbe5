"""`python -m pandas_llm.demo`: real bank customers' questions labelled on this machine, without a key."""

from __future__ import annotations

import tempfile
import time
from importlib.resources import files
from pathlib import Path

import pandas as pd

import pandas_llm
from pandas_llm.io.store import default_path
from pandas_llm.settings import resolve

TARGET = Path("demo_labelled.parquet")


def say(text: str = "") -> None:
    """Print a line at once, between a run's own lines on stderr."""
    print(text, flush=True)  # noqa: T201 — a demo talks


def main() -> None:
    """Label, look, evaluate, run again for nothing, export; in a store that goes with the demo."""
    kept = resolve({})[0].store_path or default_path()
    with (
        tempfile.TemporaryDirectory(prefix="pandas_llm_demo_", ignore_cleanup_errors=True) as folder,
        pandas_llm.option_context(cache=str(Path(folder) / "store.sqlite3")),
    ):
        show()
    say("With a key (OPENAI_API_KEY) leave out model=: the same line asks a language model.")
    say(f"The demo's answers are gone with its store. Yours will be kept in {kept}, or where cache= says.")


def show() -> None:
    """What the demo shows."""
    bank = pd.read_csv(str(files("pandas_llm") / "data" / "banking77.csv")).rename(
        columns={"category": "gold"}
    )
    intents = sorted(bank["gold"].unique())
    say(f"{len(bank)} questions of bank customers (BANKING77, CC BY 4.0), {len(intents)} intents.")
    say('\n>>> out = bank.llm.classify("text", intents, output="intent", confidence=True, model="local")')
    out = bank.llm.classify("text", intents, output="intent", confidence=True, model="local")
    with pd.option_context("display.width", 130, "display.max_colwidth", 48, "display.max_columns", 8):
        say(f"\n{out[['text', 'intent', 'intent_confidence', 'gold']].head(8)}")

    say('\n>>> out.llm.evaluate("gold")')
    result = out.llm.evaluate("gold")
    low, high = result.interval
    say(
        f"{result.accuracy:.1%} right (95 % interval {low:.1%} to {high:.1%}), macro F1 {result.macro_f1:.2f}"
    )
    sure = out["intent_confidence"] >= 0.5
    right = (out["intent"].astype(str) == out["gold"])[sure]
    say(f"of the {int(sure.sum())} rows with a confidence of 0.5 and more, {right.mean():.1%}")

    say("\nWhere the answers came from, and what they took")
    usage = out.groupby("intent_source", observed=True)[
        ["intent_input_tokens", "intent_output_tokens", "intent_cost"]
    ].sum()
    say(str(usage.assign(rows=out["intent_source"].value_counts())))

    say("\nThe same line again")
    started = time.perf_counter()
    again = bank.llm.classify("text", intents, output="intent", confidence=True, model="local")
    known = int((again["intent_source"] == "cache").sum())
    say(f"{known} of {len(again)} from the store, in {time.perf_counter() - started:.2f} s")

    path = again.llm.export(TARGET, overwrite=True)
    say(f"\nExported to {path} and {path}.provenance.json")


if __name__ == "__main__":
    main()
