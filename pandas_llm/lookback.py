"""From a finished frame back to what was asked: by key, never by position or by what attrs say."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pandas_llm.columns import Texts, TextSpec, label_of, positions_of, texts_from
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import key_of, question_of
from pandas_llm.core.types import Question, Reply
from pandas_llm.core.wire import messages_of, read_message
from pandas_llm.evaluate import Evaluation, evaluate
from pandas_llm.history import Shown
from pandas_llm.io.store import NoStore, Store
from pandas_llm.prepare import store_of
from pandas_llm.settings import resolve


@dataclass(frozen=True, slots=True)
class _Wrote:
    """One question that wrote a column, and the texts it would ask of a frame of today."""

    question: Question
    stem: bytes
    spec: TextSpec
    examples: frozenset[str]


def current_store() -> Store | NoStore:
    """The store that a call without options of its own would use."""
    return store_of(resolve({})[0])


def provenance(frame: pd.DataFrame) -> dict[str, Any]:
    """For each output of a frame the question that wrote it, and the runs the store has of it."""
    store = current_store()
    known: dict[str, Any] = json.loads(frame.attrs.get("pandas_llm", "{}"))
    runs = store.runs()
    for output in _outputs(frame, store):
        known.setdefault(output, {})
    for output, facts in known.items():
        facts["runs"] = [{**run, "id": f"r_{run['id']}"} for run in runs if run.get("output") == output]
    return known


def show(frame: pd.DataFrame, i: int, output: str | None) -> Shown:
    """The exact messages and every raw reply behind row `i`, rendered again and found by key."""
    if not -len(frame) <= i < len(frame):
        raise OptionsError(f"There is no row {i}: the frame has {len(frame):,}; rows are counted as in iloc.")
    store = current_store()
    name = _output(frame, store, output)
    row = frame.iloc[[i]]
    first: Shown | None = None
    for wrote in _wrote(row, store, name):
        texts = texts_from(row, wrote.spec)
        if not texts.texts:
            return Shown((), note=f"Row {i} has no text: nothing was sent.")
        messages = tuple(messages_of(wrote.question, texts.texts[0]))
        key = key_of(wrote.stem, texts.texts[0])
        replies = tuple(reply.decode("utf-8", "replace") for reply in store.raw(key))
        if replies or any(store.known_payloads(key)):
            return Shown(messages, replies, key.hex())
        first = first or Shown(
            messages,
            key=key.hex(),
            note=f"The store has no answer to this: the text was changed since {name!r} was written, or its "
            "answer was removed, or hasn't come yet.",
        )
    if first is None:
        raise OptionsError(f"The store knows of no run that wrote {name!r}: {store.path}")
    return first


def chats(frame: pd.DataFrame, output: str | None) -> Iterator[list[dict[str, Any]] | None]:
    """For each row the chat as sent, with the reply that became its answer; None where there is none."""
    store = current_store()
    wrote = next(_wrote(frame, store, _output(frame, store, output)), None)
    if wrote is None:
        raise OptionsError("The store knows of no run that wrote this output: its chats can't be told.")
    texts = texts_from(frame, wrote.spec)
    for code in texts.codes.tolist():
        yield None if code < 0 else _chat(store, wrote, texts.texts[code])


def _chat(store: Store | NoStore, wrote: _Wrote, text: str) -> list[dict[str, Any]] | None:
    key = key_of(wrote.stem, text)
    answered = [payload for chunk in store.known_payloads(key) for _, payload in chunk]
    replies = store.raw(key)
    if not replies or not answered or answered[0][0] is None:
        return None
    said = read_message(Reply(200, {}, replies[-1], 0.0)).content
    return [*messages_of(wrote.question, text), {"role": "assistant", "content": said}]


def evaluate_output(frame: pd.DataFrame, gold: Any, output: str | None) -> Evaluation:
    """How right an output is; rows whose text was among the examples are left out."""
    store = current_store()
    name = _output(frame, store, output)
    wrote = next(_wrote(frame, store, name), None)
    cost = f"{name}_cost"
    return evaluate(
        frame,
        gold,
        name,
        example_texts=frozenset() if wrote is None else wrote.examples,
        texts=None if wrote is None else _texts_by_row(texts_from(frame, wrote.spec)),
        cost_column=cost if positions_of(frame.columns, label_of(frame.columns, cost)) else None,
    )


def _texts_by_row(texts: Texts) -> list[str | None]:
    return [None if code < 0 else texts.texts[code] for code in texts.codes.tolist()]


def _wrote(frame: pd.DataFrame, store: Store | NoStore, name: str) -> Iterator[_Wrote]:
    """The questions that wrote a column, newest first, as far as this frame can still be asked them."""
    seen = set()
    for facts in store.columns(name):
        if facts["question"] in seen or facts["spec"] is None:
            continue
        seen.add(facts["question"])
        known = store.question(facts["question"])
        spec = TextSpec.from_json(frame, facts["spec"])
        if known is None or spec is None:
            continue
        stem = known["stem"].encode("ascii")
        yield _Wrote(question_of(stem), stem, spec, frozenset(known.get("examples", ())))


def name_of_output(label: Any) -> Any:
    """The output a column label may be: with MultiIndex columns it stands in the first level."""
    return label[0] if isinstance(label, tuple) else label


def _outputs(frame: pd.DataFrame, store: Store | NoStore) -> list[str]:
    """The outputs of a frame: columns that some run wrote as its first."""
    names = [name_of_output(label) for label in frame.columns]
    return [
        name
        for name in dict.fromkeys(names)
        if isinstance(name, str)
        and (f"{name}_source" in names or any(facts["field"] == 0 for facts in store.columns(name)))
    ]


def _output(frame: pd.DataFrame, store: Store | NoStore, output: str | None) -> str:
    outputs = _outputs(frame, store)
    if output is not None:
        if positions_of(frame.columns, label_of(frame.columns, output)):
            return output
        names = [str(label) for label in frame.columns]
        near = difflib.get_close_matches(output, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The outputs are {outputs}."
        raise OptionsError(f"There is no column {output!r}. {hint}")
    if len(outputs) == 1:
        return outputs[0]
    if not outputs:
        raise OptionsError("This frame has no output of a run: run df.llm.classify(…) first.")
    raise OptionsError(f"This frame has several outputs: say output= one of {', '.join(map(repr, outputs))}.")
