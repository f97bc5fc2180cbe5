"""Type-checked, never run: the public names as a user writes them, and what a checker must catch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Coroutine
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypedDict, assert_type

import openai
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel

import pandas_llm
from pandas_llm import (
    Batches,
    DataFrameLLM,
    Estimate,
    Evaluation,
    LastRun,
    Semantic,
    SeriesLLM,
    errors,
    llm,
)

df = pd.DataFrame({"body": ["a bug"], "gold": ["bug"]})
series: pd.Series[str] = df["body"]
verbs = assert_type(llm(df), DataFrameLLM)
texts = assert_type(pandas_llm.llm(series), SeriesLLM)

Out = pd.Series | pd.DataFrame


class Kind(Enum):
    BUG = "bug"
    QUESTION = "question"


class Invoice(BaseModel):
    number: int
    total: float | None


class Address(TypedDict):
    city: str


# Verbs on a frame --------------------------------------------------------------------------------------

assert_type(verbs.classify("body", ["bug", "question"]), pd.DataFrame)
verbs.classify("body", labels=("bug", "question"), multi_label=True, explain=True)
verbs.classify("body", {"bug": "broken", "question": None}, confidence=True, instructions="Be strict.")
verbs.classify(("a", "b"), [1, 2, 3], examples=[("a text", 1)], output="stars")
verbs.classify(["title", "body"], Kind)
verbs.classify("{title}: {body}", Literal["bug", "question"])
verbs.classify("body", pd.Series(["bug", "question"]), examples=df)
assert_type(verbs.extract("body", Invoice), pd.DataFrame)
verbs.extract("body", Address, many=True, output="found")
verbs.extract("body", {"number": int, "when": dt.date})
verbs.extract("body", ["city", "name"], examples=[("a text", {"city": "Ulm", "name": "Ann"})])
assert_type(verbs.generate("body", "Translate into English."), pd.DataFrame)
verbs.generate("body", examples=[("eins", "one")], output="english")

assert_type(verbs.embed("body"), pd.DataFrame)
verbs.embed(["title", "body"], output="v", model="text-embedding-3-large", params={"dimensions": 256})
verbs.embed("body", model=lambda texts: [[float(len(text))] for text in texts], mode="concurrent")

assert_type(verbs.dedupe("body"), pd.DataFrame)
verbs.dedupe(["title", "body"], threshold=0.95, guards=False, output="g", model="local", details="all")
assert_type(verbs.similar("body", "a query"), pd.DataFrame)
verbs.similar("body", query="a query", k=3, model="local", progress=False)

verbs.classify(
    "body",
    ["bug", "question"],
    model="gpt-6-luna",
    params={"temperature": 0, "seed": 7},
    mode="concurrent",
    wait=True,
    deadline=dt.timedelta(hours=6),
    batches=Batches(max_requests=1_000, poll=(5, 60)),
    service_tier="flex",
    max_concurrency=32,
    rpm=500,
    tpm=200_000,
    max_retries=3,
    timeout=60,
    max_cost=2.5,
    confirm_above=None,
    prices={"my-model": (0.10, 0.40), "other": (0.10, 0.05, 0.40)},
    cache=Path("answers.sqlite3"),
    retry_failed=True,
    dedupe=Semantic(threshold=0.95, max_error=0.05, confidence=0.95, audit=200),
    on_null="send",
    on_conflict="keep",
    on_error="raise",
    max_error_rate=0.2,
    details="all",
    progress=False,
    client=openai.OpenAI(),
    loop="notebook",
)
verbs.generate("body", cache=False, dedupe=False)
verbs.generate("body", mode="batch", wait=False, batches=Batches(pilot=0, delete_files=True, force=True))
verbs.generate("body", mode="auto", deadline="20min")
verbs.generate("body", mode="auto", deadline=dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
verbs.generate("body", mode="auto", deadline=("due", "by"))
verbs.generate("body", cache="only", dedupe="exact")

# What a checker must catch; unused ignores are errors.
verbs.classify("body", ["a", "b"], max_concurency=3)  # type: ignore[call-arg]
verbs.classify("body", ["a", "b"], temperature=0)  # type: ignore[call-arg]
verbs.classify("body", ["a", "b"], schema={"a": int})  # type: ignore[call-arg]
verbs.classify("body")  # type: ignore[call-arg]
verbs.classify("body", ["a", "b"], "Be strict.")  # type: ignore[call-arg, arg-type]
verbs.classify(text="body", labels=["a", "b"])  # type: ignore[call-arg]
verbs.classify("body", ["a", "b"], on_null="skp")  # type: ignore[arg-type]
verbs.classify("body", ["a", "b"], details="everything")  # type: ignore[arg-type]
verbs.classify("body", ["a", "b"], max_concurrency="8")  # type: ignore[arg-type]
verbs.extract("body", ["a"], multi_label=True)  # type: ignore[call-arg]
verbs.generate("body", labels=["a", "b"])  # type: ignore[call-arg]
verbs.embed("body", instructions="Be strict.")  # type: ignore[call-arg]
verbs.embed("body", model=5)  # type: ignore[arg-type]
verbs.dedupe("body", threshold="high")  # type: ignore[arg-type]
verbs.similar("body")  # type: ignore[call-arg]
verbs.similar("body", "a query", 3)  # type: ignore[call-arg]
verbs.generate("body", 5)  # type: ignore[arg-type]
texts.classify("body", ["a", "b"])  # type: ignore[call-arg, arg-type]
texts.generate("Say it.", max_cots=1)  # type: ignore[call-arg]
llm([1, 2])  # type: ignore[call-overload]
verbs.generate("body", mode="bacth")  # type: ignore[arg-type]
Batches(max_request=5)  # type: ignore[call-arg]
Batches(pilot="3")  # type: ignore[arg-type]

# Verbs on a Series -------------------------------------------------------------------------------------

assert_type(texts.classify(["bug", "question"], details="errors"), Out)
assert_type(texts.extract(Invoice, many=True), Out)
assert_type(texts.generate("Translate."), Out)
assert_type(texts.embed(output="v", model="local"), Out)
assert_type(texts.dedupe(threshold=0.9), Out)
assert_type(texts.similar("a query", k=3), Out)

# Coroutines and estimates ------------------------------------------------------------------------------

work = assert_type(verbs.aio.classify("body", ["a", "b"]), Coroutine[Any, Any, pd.DataFrame])
more_work = assert_type(texts.aio.generate("Say it."), Coroutine[Any, Any, Out])


async def cell() -> pd.DataFrame:
    """A cell of a notebook."""
    return assert_type(await verbs.aio.extract("body", ["a"]), pd.DataFrame)


estimate = assert_type(verbs.estimate.classify("body", ["a", "b"]), Estimate)
assert_type(texts.estimate.generate("Say it."), Estimate)
assert_type(texts.estimate.embed(), Estimate)
assert_type(texts.estimate.dedupe(), Estimate)
assert_type(verbs.estimate.similar("body", "a query"), Estimate)
found = assert_type(verbs.aio.similar("body", "a query"), Coroutine[Any, Any, pd.DataFrame])
found_texts = assert_type(texts.aio.similar("a query"), Coroutine[Any, Any, Out])
assert_type(estimate.reusable, int | None)
assert_type(estimate.rows + estimate.skipped + estimate.duplicates + estimate.cached + estimate.requests, int)
assert_type(estimate.cost.low, float)
assert_type(estimate.cost.high, float)
low, high = estimate.seconds
assert_type(estimate.input_tokens.low + estimate.output_tokens.high + low + high, float)
assert_type(estimate.routes, pd.DataFrame)
assert_type(estimate.write_jsonl("requests.jsonl", overwrite=True), Path)
assert_type(estimate.show(0).messages[0]["content"], str)

# What came of it ---------------------------------------------------------------------------------------

assert_type(verbs.export("out.parquet", overwrite=True), Path)
verbs.export(Path("out.json"), format="label-studio", text="body", output="body_label", incomplete=True)
evaluation = assert_type(verbs.evaluate("gold", output="body_label"), Evaluation)
assert_type(evaluation.accuracy + evaluation.macro_f1 + evaluation.kappa + evaluation.coverage, float)
assert_type(evaluation.interval, tuple[float, float])
assert_type(evaluation.confusion, pd.DataFrame)
assert_type(evaluation.per_label, pd.DataFrame)
assert_type(evaluation.cost_per_right_label + evaluation.ece, float)
assert_type(evaluation.reliability, pd.DataFrame | None)
assert_type(evaluation.plot(), Figure)
assert_type(verbs.show(0, "body_label").replies, tuple[str, ...])
assert_type(verbs.provenance, dict[str, Any])

run = pandas_llm.last_run()
assert_type(run, LastRun | None)
if run is not None:
    assert_type(run.id + run.status + run.verb + run.model, str)
    assert_type(run.snapshots, tuple[str, ...])
    assert_type(run.rows + run.input_tokens + run.output_tokens + run.paid + run.in_doubt, int)
    assert_type(run.cost + run.seconds + run.saved, float)
    assert_type(run.sources["api"] + run.errors["RefusalError"], int)
    assert_type(run.route + run.reason, str)
    assert_type(run.routes, pd.DataFrame | None)
    assert_type(run.plot(), Figure)

# Settings and the store --------------------------------------------------------------------------------

assert_type(pandas_llm.configure(model="local", max_cost=None)["model"], Any)
pandas_llm.configure(api_key="sk-…", base_url="http://localhost:8000/v1")
with pandas_llm.option_context(max_cost=2.0):
    verbs.generate("body")
assert_type(pandas_llm.runs(), pd.DataFrame)
assert_type(pandas_llm.cache_info(), dict[str, Any])
assert_type(pandas_llm.clear_cache(run="r_41", model="m", older_than="30 days", frame=df), int)
pandas_llm.cancel("r_41")
pandas_llm.register("ask")
assert_type(pandas_llm.read_batch_output("output.jsonl", error=None), pd.DataFrame)
assert_type(pandas_llm.read_batch_output(["a.jsonl", Path("b.jsonl")], "error.jsonl"), pd.DataFrame)
assert_type(pandas_llm.__version__, str)

try:
    verbs.generate("body")
except errors.ApiError as error:
    assert_type(error.status, int | None)
    assert_type(error.code, str | None)
    assert_type(error.request_id, str | None)
except (errors.OptionsError, errors.RowErrors, errors.TooManyErrors) as error:
    print(error.frame)
except errors.Interrupted as stopped:
    print(stopped.frame)
