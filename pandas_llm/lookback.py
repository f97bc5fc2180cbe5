"""From a finished frame back to what was asked: by key, never by position or by what attrs say."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pandas_llm.columns import Texts, TextSpec, label_of, positions_of, texts_from
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import Plan, make_plan, question_of
from pandas_llm.core.types import Key, Question, Reply
from pandas_llm.core.wire import messages_of, read_message
from pandas_llm.evaluate import Evaluation, evaluate
from pandas_llm.history import Shown, attrs_of, description
from pandas_llm.io.store import NoStore, Store
from pandas_llm.prepare import store_of
from pandas_llm.settings import resolve


@dataclass(frozen=True, slots=True)
class _Wrote:
    """One question that wrote a column, as far as a frame of today can still be asked it."""

    question: Question
    spec: TextSpec
    output: str
    """What the question's answers go by: the prefix of its side columns."""
    columns: tuple[str, ...]
    run: int
    samples: bool
    """Whether the n-th row of equal text was asked as sample n."""
    examples: frozenset[str]

    def asks(self, frame: pd.DataFrame) -> tuple[Plan, Texts]:
        """What it would ask of a frame."""
        # "send": it may have asked for the empty text; where it didn't, nothing is found under that key.
        texts = texts_from(frame, self.spec, "send")
        return make_plan(self.question, texts.codes, texts.texts, exact=not self.samples), texts


def current_store() -> Store | NoStore:
    """The store that a call without options of its own would use."""
    return store_of(resolve({})[0])


def provenance(frame: pd.DataFrame) -> dict[str, Any]:
    """For each output of a frame the question that wrote it, and the runs the store has of it."""
    store = current_store()
    runs = [{**run, "id": f"r_{run['id']}"} for run in store.runs()]
    versions = {run["id"]: run.get("version") for run in runs}
    known = attrs_of(frame)
    for output, column in _outputs(frame, store).items():
        wrote = next(_wrote(frame, store, column), None)
        if output not in known and wrote is not None:
            said = description(wrote.question, wrote.columns)
            known[output] = {**said, "version": versions.get(f"r_{wrote.run}", said["version"])}
    return {
        output: {**facts, "runs": [run for run in runs if run.get("output") == output]}
        for output, facts in known.items()
    }


def show(frame: pd.DataFrame, i: int, output: str | None) -> Shown:
    """The exact messages and every raw reply behind row `i`, rendered again and found by key."""
    if not -len(frame) <= i < len(frame):
        raise OptionsError(f"There is no row {i}: the frame has {len(frame):,}; rows are counted as in iloc.")
    store = current_store()
    column = _column(frame, store, output)
    newest: Shown | None = None
    for wrote in _wrote(frame, store, column):
        shown = _shown(store, wrote, frame, i % len(frame))
        if not shown.note:
            return shown
        newest = newest or shown
    if newest is None:
        raise OptionsError(
            f"No run in the store {store.path} wrote {column!r}. Where it was asked with cache=, say so with "
            "pandas_llm.option_context(cache=…) around this."
        )
    return newest


def _shown(store: Store | NoStore, wrote: _Wrote, frame: pd.DataFrame, i: int) -> Shown:
    # A sample's number is its row's among equal texts: that takes the rows before it.
    rows = frame.iloc[: i + 1] if wrote.samples else frame.iloc[[i]]
    plan, texts = wrote.asks(rows)
    code = int(plan.codes[-1])
    if code < 0:
        return Shown((), note=f"Row {i}: nothing was sent. {texts.failed[len(rows) - 1]}")
    key, messages = plan.key(code), tuple(messages_of(wrote.question, plan.texts[code]))
    replies = tuple(reply.decode("utf-8", "replace") for reply in store.raw(key))
    if replies or any(store.known_payloads(key)):
        return Shown(messages, replies, key.hex())
    if not plan.texts[code]:
        return Shown((), note=f"Row {i} has no text: nothing was sent.")
    note = (
        "The store has no answer to this: the text was changed since it was asked, its answer was removed, "
        "or it hasn't come yet."
    )
    return Shown(messages, key=key.hex(), note=note)


def chats(frame: pd.DataFrame, output: str | None) -> Iterator[list[dict[str, Any]] | None]:
    """For each row the chat as sent, with the reply that became its answer; None where there is none."""
    store = current_store()
    wrote = next(_wrote(frame, store, _column(frame, store, output)), None)
    if wrote is None:
        raise OptionsError("The store knows of no run that wrote this output: its chats can't be told.")
    plan, _ = wrote.asks(frame)
    for code in plan.codes.tolist():
        yield None if code < 0 else _chat(store, wrote.question, plan.texts[code], plan.key(code))


def _chat(store: Store | NoStore, question: Question, text: str, key: Key) -> list[dict[str, Any]] | None:
    answered = [payload for chunk in store.known_payloads(key) for _, payload in chunk]
    replies = store.raw(key)
    if not replies or not answered or answered[0][0] is None:
        return None
    said = read_message(Reply(200, {}, replies[-1], 0.0)).content
    return [*messages_of(question, text), {"role": "assistant", "content": said}]


def evaluate_output(frame: pd.DataFrame, gold: Any, output: str | None) -> Evaluation:
    """How right an output is; rows whose text was among the examples are left out."""
    store = current_store()
    column = _column(frame, store, output)
    wrote = next(_wrote(frame, store, column), None)
    cost = label_of(frame.columns, f"{column if wrote is None else wrote.output}_cost")
    return evaluate(
        frame,
        gold,
        label_of(frame.columns, column),
        example_texts=frozenset() if wrote is None else wrote.examples,
        texts=None if wrote is None else _texts_by_row(wrote.asks(frame)[1]),
        cost_column=cost if positions_of(frame.columns, cost) else None,
    )


def _texts_by_row(texts: Texts) -> list[str | None]:
    return [None if code < 0 else texts.texts[code] for code in texts.codes.tolist()]


def keys_behind(frame: pd.DataFrame) -> bytes:
    """The keys of all answers a frame's rows may show, whatever output they went to."""
    store = current_store()
    names = [name for name in map(_name_of_output, frame.columns) if isinstance(name, str)]
    return b"".join(wrote.asks(frame)[0].keys for wrote in _wrote(frame, store, *dict.fromkeys(names)))


def _wrote(frame: pd.DataFrame, store: Store | NoStore, *columns: str) -> Iterator[_Wrote]:
    """The questions that wrote some columns, newest first."""
    seen = set()
    for facts in (facts for column in columns for facts in store.columns(column)):
        asked = facts["question"], facts["spec"], facts["samples"]
        if asked in seen or facts["spec"] is None:
            continue
        seen.add(asked)
        known = store.question(facts["question"])
        spec = TextSpec.from_json(frame, facts["spec"])
        if known is None or spec is None:
            continue
        yield _Wrote(
            question=question_of(known["stem"].encode("ascii")),
            spec=spec,
            output=facts["output"],
            columns=tuple(facts["columns"]),
            run=facts["run"],
            samples=facts["samples"],
            examples=frozenset(known.get("examples", ())),
        )


def _name_of_output(label: Any) -> Any:
    """The output a column label may be: with MultiIndex columns it stands in the first level."""
    return label[0] if isinstance(label, tuple) and label else label


def _outputs(frame: pd.DataFrame, store: Store | NoStore) -> dict[str, str]:
    """By output, the first of its columns here: those that some run wrote, or that have sources beside."""
    names = dict.fromkeys(name for name in map(_name_of_output, frame.columns) if isinstance(name, str))
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        facts = next(iter(store.columns(name)), None)
        if facts is not None:
            place = (facts["field"], name)
            found[facts["output"]] = min(place, found.get(facts["output"], place))
        elif f"{name}_source" in names:
            found.setdefault(name, (0, name))
    return {output: name for output, (_, name) in found.items()}


def _column(frame: pd.DataFrame, store: Store | NoStore, output: str | None) -> str:
    """The column that an output means, or the only output there is."""
    outputs = _outputs(frame, store)
    if output is not None:
        if output in outputs:
            return outputs[output]
        if positions_of(frame.columns, label_of(frame.columns, output)):
            return output
        names = [*outputs, *map(str, frame.columns)]
        near = difflib.get_close_matches(str(output), names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The outputs are {', '.join(map(repr, outputs))}."
        raise OptionsError(f"There is no output {output!r}. {hint}")
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    if not outputs:
        raise OptionsError("This frame has no output of a run: run df.llm.classify(…) first.")
    raise OptionsError(f"This frame has several outputs: say output= one of {', '.join(map(repr, outputs))}.")
