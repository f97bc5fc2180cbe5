"""From a finished frame back to what was asked: by key, never by position or by what attrs say."""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm.columns import (
    Texts,
    TextSpec,
    index_anchor,
    key_anchor,
    label_of,
    name_of,
    positions_of,
    texts_from,
)
from pandas_llm.columns.fingerprints import Digests, digests_of, fingerprint, payload_digests
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import Plan, make_plan, question_of
from pandas_llm.core.prompts import excerpt
from pandas_llm.core.types import Key, Question, Reply
from pandas_llm.core.wire import messages_of, read_message
from pandas_llm.evaluate import Evaluation, evaluate
from pandas_llm.history import Shown, attrs_of, description, paid_by_row
from pandas_llm.io.similar_texts import Reuse
from pandas_llm.io.store import NoStore, Store
from pandas_llm.prepare import store_of
from pandas_llm.settings import resolve


@dataclass(frozen=True, slots=True, eq=False)
class _Wrote:
    """One question that wrote a column, as far as a frame of today can still be asked it."""

    id: str
    question: Question
    spec: TextSpec
    output: str
    """What the question's answers go by: the prefix of its side columns."""
    columns: tuple[str, ...]
    field: int
    """The column's place among these."""
    run: int
    samples: bool
    """Whether the n-th row of equal text was asked as sample n."""
    examples: frozenset[str]
    fingerprints: frozenset[bytes]
    """Of the columns it wrote."""

    def asks(self, frame: pd.DataFrame) -> tuple[Plan, Texts]:
        """What it would ask of a frame."""
        # "send": it may have asked for the empty text; where it didn't, nothing is found under that key.
        texts = texts_from(frame, self.spec, "send")
        return make_plan(self.question, texts.codes, texts.texts, exact=not self.samples), texts

    def signed(self, frame: pd.DataFrame, values: Digests) -> bool:
        """Whether these very values are a column it wrote, each in the row of its text."""
        return fingerprint(values, key_anchor(self.asks(frame)[0])) in self.fingerprints


def current_store() -> Store | NoStore:
    """The store that a call without options of its own would use."""
    return store_of(resolve({})[0])


def provenance(frame: pd.DataFrame) -> dict[str, Any]:
    """For each output of a frame the question that wrote it, and the runs the store has of it."""
    store = current_store()
    runs = [{**run, "id": f"r_{run['id']}"} for run in store.runs()]
    versions = {run["id"]: run.get("version") for run in runs}
    said = attrs_of(frame)
    known = {output: facts for output, facts in said.items() if any(_at(frame, c) for c in facts["columns"])}
    asked = {output: {facts["question"]} for output, facts in known.items()}
    for output, column in _outputs(frame, store).items():
        authors = _authors(frame, store, column)
        if not authors:
            continue
        if asked.get(output, set()).isdisjoint(author.id for author in authors):
            first = authors[0]
            facts = description(first.question, first.columns)
            known[output] = {**facts, "version": versions.get(f"r_{first.run}", facts["version"])}
        asked[output] = {author.id for author in authors}
    return {
        output: {
            **facts,
            "runs": [r for r in runs if r.get("output") == output and r.get("question") in asked[output]],
        }
        for output, facts in known.items()
    }


def show(frame: pd.DataFrame, i: int, output: str | None) -> Shown:
    """The exact messages and every raw reply behind row `i`, rendered again and found by key."""
    try:
        i = operator.index(i)
    except TypeError:
        raise OptionsError(f"A row is given by its number, as in iloc; got {excerpt(i)}.") from None
    if not -len(frame) <= i < len(frame):
        raise OptionsError(f"There is no row {i}: the frame has {len(frame):,}; rows are counted as in iloc.")
    store = current_store()
    column = _column(frame, store, output)
    wrote = list(_wrote(frame, store, column))
    if not wrote:
        raise _nobody(frame, store, column)
    values, row = _digests(frame, column), i % len(frame)
    author = _signed(frame, values, wrote)
    if author is not None:
        return _shown(store, author, frame, row)
    shown = {each: _shown(store, each, frame, row) for each in wrote}
    dated = _dated(frame, column)
    ranks = {each: _doubt(store, each, shown[each], values[row], dated) for each in wrote}
    best = [each for each in wrote if ranks[each] == min(ranks.values())]
    if len(best) > 1 and values.any():
        best = [each for each in best if each.signed(frame, values)] or best
    return shown[best[0]]


def _doubt(store: Store | NoStore, wrote: _Wrote, shown: Shown, value: Any, dated: bool) -> int:
    """How little a row's value looks like a question's answer: 0 it is, 1 there is another one, 2 none."""
    if shown.key is None or (shown.note and not shown.replies):
        return 2
    key, first = bytes.fromhex(shown.key), np.zeros(1, dtype=np.int32)
    stored = payload_digests(store.known_payloads, key, first, field=wrote.field, dated=dated)
    return int((stored[0] != value).any())


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
    reuse = store.similar.reuses(wrote.id, key).get(key)
    if reuse is not None:
        return _shared(store, wrote, plan.texts[code], reuse, i)
    if not plan.texts[code]:
        return Shown((), note=f"Row {i} has no text: nothing was sent.")
    note = (
        "The store has no answer to this: the text was changed since it was asked, its answer was removed, "
        "or it hasn't come yet."
    )
    return Shown(messages, key=key.hex(), note=note)


def _shared(store: Store | NoStore, wrote: _Wrote, text: str, reuse: Reuse, i: int) -> Shown:
    """What stands behind a row that took the answer of a near-equal text: that one's messages and replies."""
    asked = store.similar.text_of(wrote.id, reuse.answered_as)
    replies = tuple(reply.decode("utf-8", "replace") for reply in store.raw(reuse.answered_as))
    near = f"similarity {reuse.similarity:.3f}"
    took = f"Row {i} wasn't asked: it took this answer of a near-equal text ({near})."
    return Shown(
        () if asked is None else tuple(messages_of(wrote.question, asked)),
        replies,
        reuse.answered_as.hex(),
        f"{took} Its own text:\n{text}",
    )


def chats(frame: pd.DataFrame, output: str | None) -> Iterator[list[dict[str, Any]] | None]:
    """For each row the chat as sent, with the reply that became its answer; None where there is none."""
    store = current_store()
    column = _column(frame, store, output)
    asked = [(author.question, author.asks(frame)[0]) for author in _authors(frame, store, column)]
    if not asked:
        raise _nobody(frame, store, column)
    for codes in zip(*(plan.codes.tolist() for _, plan in asked), strict=True):
        found = (
            _chat(store, question, plan.texts[code], plan.key(code))
            for (question, plan), code in zip(asked, codes, strict=True)
            if code >= 0
        )
        yield next((chat for chat in found if chat is not None), None)


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
    authors = _authors(frame, store, column)
    asked = [author.asks(frame) for author in authors]
    return evaluate(
        frame,
        gold,
        label_of(frame.columns, column),
        example_texts=authors[0].examples if authors else frozenset(),
        texts=_texts_by_row(asked[0][1]) if asked else None,
        cost_column=paid_by_row(
            frame, store, [plan for plan, _ in asked], column, authors[0].output if authors else column
        ),
    )


def _texts_by_row(texts: Texts) -> list[str | None]:
    return [None if code < 0 else texts.texts[code] for code in texts.codes.tolist()]


def keys_behind(frame: pd.DataFrame) -> bytes:
    """The keys of all answers a frame's rows may show, whatever output they went to."""
    store = current_store()
    names = [name for name in map(_name_of_output, frame.columns) if isinstance(name, str)]
    wrote = {
        (w.id, w.spec, w.samples): w for name in dict.fromkeys(names) for w in _wrote(frame, store, name)
    }
    return b"".join(each.asks(frame)[0].keys for each in wrote.values())


# Which questions stand behind a column -----------------------------------------------------------------


def _wrote(frame: pd.DataFrame, store: Store | NoStore, column: str) -> Iterator[_Wrote]:
    """The questions that wrote columns of this name: the one the frame names itself, then newest first."""
    asked: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for facts in store.columns(column):
        asked.setdefault((facts["question"], facts["spec"], facts["samples"]), []).append(facts)
    # It decides only between questions whose answers are the same here.
    named = {said["question"] for said in attrs_of(frame).values() if column in said["columns"]}
    for name, written, samples in sorted(asked, key=lambda key: key[0] not in named):
        group = asked[name, written, samples]
        known = store.question(name)
        spec = None if written is None else TextSpec.from_json(frame, written)
        if known is None or spec is None:
            continue
        yield _Wrote(
            id=name,
            question=question_of(known["stem"].encode("ascii")),
            spec=spec,
            output=group[0]["output"],
            columns=tuple(group[0]["columns"]),
            field=group[0]["field"],
            run=group[0]["run"],
            samples=samples,
            examples=frozenset(known.get("examples", ())),
            fingerprints=frozenset(facts["fingerprint"] for facts in group),
        )


def _signed(frame: pd.DataFrame, values: Digests, wrote: list[_Wrote]) -> _Wrote | None:
    """The question whose column this is, by labels and values; the one the frame names, by keys too."""
    if not values.any():
        return None
    labels = index_anchor(frame.index)
    here = None if labels is None else fingerprint(values, labels)
    named = {said["question"] for said in attrs_of(frame).values()}
    for each in wrote:
        if here in each.fingerprints or (each.id in named and each.signed(frame, values)):
            return each
    return None


def _authors(frame: pd.DataFrame, store: Store | NoStore, column: str) -> list[_Wrote]:
    """The questions that wrote this very column; of one put together from several, as few as explain it."""
    wrote = list(_wrote(frame, store, column))
    if len(wrote) < 2:
        return wrote
    values = _digests(frame, column)
    author = _signed(frame, values, wrote)
    if author is not None:
        return [author]
    open_, dated = values.any(axis=1), _dated(frame, column)
    explained = []
    for each in wrote:
        plan = each.asks(frame)[0]
        wanted = np.unique(plan.codes[open_ & (plan.codes >= 0)])
        told = np.zeros(len(frame), dtype=np.bool_)
        for payloads in (store.known_payloads, partial(store.similar.shared_payloads, each.id)):
            stored = payload_digests(payloads, plan.keys, wanted, field=each.field, dated=dated)
            told |= (stored[plan.codes] == values).all(axis=1)
        explained.append(open_ & told)
    authors = []
    while open_.any():
        best = max(range(len(wrote)), key=lambda at: int((explained[at] & open_).sum()))
        if not (explained[best] & open_).any():
            break
        authors.append(wrote[best])
        open_ = open_ & ~explained[best]
    return authors or wrote[:1]


def _digests(frame: pd.DataFrame, column: str) -> Digests:
    at = _at(frame, column)
    return digests_of(frame.iloc[:, at[0]]) if at else np.zeros((len(frame), 2), dtype=np.uint64)


def _dated(frame: pd.DataFrame, column: str) -> bool:
    kinds, at = ("datetime64", "datetime", "date"), _at(frame, column)[:1]
    return any(pd.api.types.infer_dtype(frame.iloc[:, place], skipna=True) in kinds for place in at)


def _at(frame: pd.DataFrame, column: str) -> list[int]:
    return positions_of(frame.columns, label_of(frame.columns, column))


def _nobody(frame: pd.DataFrame, store: Store | NoStore, column: str) -> OptionsError:
    """Why no question that wrote a column can be asked again."""
    facts = next((facts for facts in store.columns(column) if facts["spec"] is not None), None)
    if facts is None:
        return OptionsError(
            f"No run in the store {store.path} wrote {column!r}. Where it was asked with cache=, say so with "
            "pandas_llm.option_context(cache=…) around this."
        )
    gone = _gone(frame, facts["spec"])
    if not gone:
        return OptionsError(
            f"No run in the store {store.path} tells what {column!r} was asked: it was removed."
        )
    names, it = ", ".join(map(repr, gone)), "it" if len(gone) == 1 else "them"
    return OptionsError(
        f"Run r_{facts['run']} wrote {column!r} from {names}, which this frame doesn't have any more: "
        f"give {it} the old name{'' if len(gone) == 1 else 's'} back, and its messages can be told."
    )


def _gone(frame: pd.DataFrame, written: str) -> list[Any]:
    """The columns that a text was made of and that a frame hasn't."""
    content = json.loads(written)
    if "template" in content:
        names = {name_of(label) for label in frame.columns}
        fields = (field for _, field, _, _ in Formatter().parse(content["template"]) if field)
        return [field for field in dict.fromkeys(fields) if field not in names]
    labels = content["columns"] if "columns" in content else [content["column"]]
    labels = [tuple(label) if isinstance(label, list) else label for label in labels]
    return [label for label in labels if not positions_of(frame.columns, label)]


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
        known = ", ".join(map(repr, outputs)) or "none: run df.llm.classify(…) first"
        hint = f"Did you mean {near[0]!r}?" if near else f"The outputs are {known}."
        raise OptionsError(f"There is no output {output!r}. {hint}")
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    if not outputs:
        raise OptionsError("This frame has no output of a run: run df.llm.classify(…) first.")
    raise OptionsError(f"This frame has several outputs: say output= one of {', '.join(map(repr, outputs))}.")
