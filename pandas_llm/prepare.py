"""From a verb's arguments to a plan: whatever can be refused is refused here, and costs nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from pandas_llm.columns import (
    Existing,
    Texts,
    TextSpec,
    Written,
    check_conflict,
    read_spec,
    texts_from,
    without,
)
from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.options import Options
from pandas_llm.core.plan import make_plan
from pandas_llm.core.prompts import check_instructions
from pandas_llm.core.types import Question, Task
from pandas_llm.core.wire import CHAT
from pandas_llm.io.http import base_url_of, check_client
from pandas_llm.io.store import NoStore, Store, default_path, open_store
from pandas_llm.run import Call

_DEFAULT_OUTPUTS = {"classify": "label", "generate": "output"}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a verb was called with."""

    verb: str
    text: Any
    output: str | None
    instructions: str | None
    examples: Any
    make: Callable[..., Task]
    """The verb's own `task`, still without instructions, examples and output."""
    about: Any = None
    """The labels or the schema."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """What the embedded model can't do, where it was asked for."""

    def of_series(self, name: Any) -> Ask:
        """The same over a Series, which stands in a frame whose only column has no name for an output."""
        if self.output is not None or self.verb == "extract":
            return self
        return replace(self, output=_default_output(self.verb, None if name is None else str(name)))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call whose every argument is in order."""

    frame: pd.DataFrame
    spec: TextSpec
    texts: Texts
    call: Call
    existing: Existing
    """Which values stay, which columns go."""
    parts: Mapping[str, str]
    """Digests of what the question is made of, by the names people know."""

    @property
    def options(self) -> Options:
        """The call's options."""
        return self.call.options

    @property
    def is_local(self) -> bool:
        """Whether the embedded model answers."""
        return self.options.model == "local"


def prepare(frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Prepared:
    """A call that may begin.

    Raises
    ------
    OptionsError
        Anything about it that can't be right, with what to write instead.
    """
    check_client(options.client)
    spec = read_spec(frame, ask.text)
    check_instructions(ask.instructions, [str(label) for label in frame.columns])
    output = ask.output if ask.verb == "extract" else ask.output or _default_output(ask.verb, spec.single)
    pairs = _pairs(spec, ask, output)
    task = ask.make(instructions=ask.instructions, examples=pairs, output=output)
    question = _question(ask, task, options)
    store = store_of(options)
    texts = texts_from(frame, spec, options.on_null)
    plan = make_plan(question, texts.codes, texts.texts, exact=options.dedupe == "exact")
    ledger = None if isinstance(store, NoStore) else Ledger(store)
    existing = check_conflict(frame, task, plan, options, ledger)
    plan = without(plan, existing.given)
    return Prepared(
        frame,
        spec,
        texts,
        Call(plan, task, options, store, budget),
        existing,
        _parts(ask, question, pairs, spec),
    )


def _parts(ask: Ask, question: Question, pairs: Any, spec: TextSpec) -> dict[str, str]:
    about = {"classify": "labels", "extract": "schema"}.get(ask.verb)
    parts = {
        "model": question.model,
        "base_url": question.base_url,
        "params": json.dumps(dict(question.params), sort_keys=True),
        "instructions": ask.instructions or "",
        "examples": repr(pairs),
        "text": spec.to_json() or "",
    }
    if about is not None:
        parts[about] = repr(ask.about)
    parts |= {name: str(flag) for name, flag in ask.flags.items()}
    return {name: digest(part) for name, part in parts.items()}


def digest(text: str) -> str:
    """A short name for a text, to tell whether it changed."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Ledger:
    """What the store knows of columns, as the pandas edge asks for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.known_payloads = store.known_payloads

    def column(self, output: str, fingerprint: bytes) -> Written | None:
        """The column of this name and these values, if a run wrote it."""
        facts = self._store.column(output, fingerprint)
        return None if facts is None else self._written(facts)

    def columns(self, output: str) -> list[Written]:
        """All columns of this name that runs wrote, newest first."""
        return [self._written(facts) for facts in self._store.columns(output)]

    def _written(self, facts: Mapping[str, Any]) -> Written:
        question = self._store.question(facts["question"])
        stem = question["stem"].encode("ascii") if question else None
        return Written(
            question_stem=stem, spec=facts["spec"], field=facts["field"], sides=tuple(facts["sides"])
        )


def _default_output(verb: str, column: str | None) -> str:
    plain = _DEFAULT_OUTPUTS[verb]
    return plain if column is None else f"{column}_{plain}"


def _question(ask: Ask, task: Task, options: Options) -> Question:
    if options.model == "local":
        from pandas_llm.local.endpoint import BASE_URL, check
        from pandas_llm.local.weights import model_name

        check(ask.verb, **ask.flags)
        base_url, model = BASE_URL, model_name()
    else:
        base_url, model = base_url_of(options.client, options.base_url), options.model
    return Question(
        base_url=base_url,
        path=CHAT,
        verb=ask.verb,
        model=model,
        system=task.system,
        schema=task.schema,
        params=options.params,
        logprobs=task.confidence,
    )


def store_of(options: Options) -> Store | NoStore:
    """The store that these options name."""
    if options.cache is False:
        return NoStore()
    return open_store(options.store_path or default_path())


# Examples --------------------------------------------------------------------------------------------


def _pairs(spec: TextSpec, ask: Ask, output: str | None) -> list[tuple[Any, Any]] | None:
    """The examples as pairs of text and output."""
    examples = ask.examples
    if examples is None:
        return None
    if not isinstance(examples, pd.DataFrame):
        return list(examples)
    texts = texts_from(examples, read_spec(examples, ask.text), "raise")
    if texts.failed:
        row, message = next(iter(texts.failed.items()))
        raise OptionsError(f"Example {row} has no text that can be sent: {message}")
    inputs = [texts.texts[code] for code in texts.codes.tolist()]
    used = {str(label) for label in spec.labels}
    return list(zip(inputs, _outputs(examples, output, used), strict=True))


def _outputs(examples: pd.DataFrame, output: str | None, used: set[str]) -> Iterator[Any]:
    if output is not None and output in examples.columns:
        yield from (None if _is_missing(value) else value for value in examples[output].tolist())
        return
    prefix = "" if output is None else f"{output}_"
    fields = {
        str(label).removeprefix(prefix): label
        for label in examples.columns
        if str(label) not in used and str(label).startswith(prefix)
    }
    if not fields:
        raise OptionsError(
            f"The examples have no column {output!r} with the right answers; their columns are "
            f"{', '.join(map(repr, examples.columns))}."
        )
    columns = [examples[label].tolist() for label in fields.values()]
    for values in zip(*columns, strict=True):
        named = zip(fields, values, strict=True)
        yield {name: None if _is_missing(value) else value for name, value in named}


def _is_missing(value: Any) -> bool:
    return not isinstance(value, (list, dict)) and bool(pd.isna(value))
