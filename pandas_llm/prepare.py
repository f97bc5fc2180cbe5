"""From a verb's arguments to a plan: whatever can be refused is refused here, and costs nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm.columns import (
    Existing,
    Seconds,
    Texts,
    TextSpec,
    Written,
    check_conflict,
    deadlines_of,
    read_spec,
    texts_from,
    without,
)
from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import OptionsError, PromptError
from pandas_llm.core.options import Options
from pandas_llm.core.plan import make_plan, question_id, question_of
from pandas_llm.core.prompts import check_instructions
from pandas_llm.core.types import Key, Question, Task
from pandas_llm.core.vectors import EMBEDDINGS
from pandas_llm.core.wire import CHAT
from pandas_llm.io.http import base_url_of, check_client
from pandas_llm.io.store import NoStore, Store, default_path, open_store
from pandas_llm.run import Call
from pandas_llm.together import Together, check_whole
from pandas_llm.verbs import embed
from pandas_llm.verbs.classify import labels_of

_DEFAULT_OUTPUTS = {"classify": "label", "generate": "output", "embed": "embedding"}
_NOT_LOCAL = ("explain", "multi_label")
_UNNAMED = "(without a name)"


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
    """The verb's switches."""
    embedder: Callable[[list[str]], Any] | None = None
    """The function that is asked for vectors, in place of a model."""
    together: Together | None = None
    finish: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """What is made of the frame at last."""
    series: tuple[Any] | None = None
    """The name of the Series that is asked about, which stands in a frame as its only column, 0."""

    def of_series(self, name: Any) -> Ask:
        """The same over a Series of this name."""
        return replace(self, series=(name,))

    @property
    def is_nameless(self) -> bool:
        """Whether it is about a Series without a name."""
        return self.series is not None and self.series[0] is None

    def spec(self, frame: pd.DataFrame) -> TextSpec:
        """What is sent, in the words of the frame the user has: the Series may be one of its columns."""
        spec = read_spec(frame, self.text)
        return spec if self.series is None else replace(spec, labels=self.series)


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
    deadlines: Seconds | None = None
    """By code, the seconds that were left when the call was made; None where none was named."""
    embedder: Callable[[list[str]], Any] | None = None
    """The function that is asked for vectors, in place of a model."""
    together: Together | None = None
    finish: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """What is made of the frame at last."""

    @property
    def shown(self) -> Task:
        """What comes back: the answers, or what is made of them."""
        return self.call.task if self.together is None else self.together.task(self.call.task)

    @property
    def options(self) -> Options:
        """The call's options."""
        return self.call.options

    @property
    def seconds_left(self) -> Seconds:
        """By code, the seconds until its answer is needed; infinite where it has time."""
        return np.full(len(self.call.plan), np.inf) if self.deadlines is None else self.deadlines

    @property
    def is_local(self) -> bool:
        """Whether the embedded model answers."""
        return self.options.model == "local"

    @property
    def title(self) -> str:
        """`classify · body · gpt-6-luna`: what it is about, for people."""
        question = self.call.plan.question
        labels = ", ".join(str(label) for label in self.spec.labels if label is not None)
        return " · ".join(part for part in (question.verb, labels, question.model) if part)

    @property
    def unasked(self) -> dict[str, int]:
        """Rows by source that ask nothing, whatever the store knows. A value that stays stands before all."""
        given = self.existing.given
        skipped = self.texts.skipped if given is None else self.texts.skipped & ~given
        return {
            "skipped": int(skipped.sum()),
            "failed": len(self.unsendable),
            "given": 0 if given is None else int(given.sum()),
        }

    @property
    def unsendable(self) -> dict[int, str]:
        """Why rows can't be sent, a sentence by row, those left out whose value stays."""
        given = self.existing.given
        return {row: why for row, why in self.texts.failed.items() if given is None or not given[row]}


def prepare(frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Prepared:
    """A call that may begin.

    Raises
    ------
    OptionsError
        Anything about it that can't be right, with what to write instead.
    """
    check_client(options.client)
    _check_agreement(ask, options)
    spec = ask.spec(frame)
    check_instructions(ask.instructions, map(str, ask.series or frame.columns))
    output = _output(ask, spec)
    pairs = _pairs(spec, ask, output)
    task = ask.make(instructions=ask.instructions, examples=pairs, output=output)
    question = _question(ask, task, options)
    store = store_of(options)
    # Under its own name, so that a cell that can't be sent is told where the user knows it.
    cells = (
        frame
        if ask.series is None
        else frame.iloc[:, 0].to_frame(_UNNAMED if ask.is_nameless else ask.series[0])
    )
    texts = texts_from(cells, spec, options.on_null)
    plan = make_plan(question, texts.codes, texts.texts, exact=options.dedupe is not False)
    ledger = None if isinstance(store, NoStore) else Ledger(store)
    if ask.together is None:
        existing = check_conflict(frame, task, plan, options, ledger)
    else:
        existing = check_whole(frame, ask.together.task(task), plan, options, ledger)
    plan = without(plan, existing.given)
    # Beside a Series there is no column that could hold deadlines.
    beside = frame if ask.series is None else frame.iloc[:, :0]
    deadlines = deadlines_of(beside, options.deadline, plan.codes, len(plan), time.time())
    return Prepared(
        frame,
        spec,
        texts,
        Call(plan, task, options, store, budget),
        existing,
        _parts(ask, question, pairs),
        deadlines,
        ask.embedder,
        ask.together,
        ask.finish,
    )


def _check_agreement(ask: Ask, options: Options) -> None:
    semantic = options.semantic
    if ask.together is not None and options.dedupe != "exact":
        raise OptionsError(
            f"dedupe={options.dedupe!r} is about answers; here vectors are asked for, once for equal texts: "
            "leave it out."
        )
    if ask.verb == "embed" and semantic is not None:
        raise OptionsError(
            'dedupe="semantic" compares by vectors, and these are what embed asks for: leave it out.'
        )
    if ask.verb == "generate" and semantic is not None and semantic.agreement is None:
        raise OptionsError(
            'generate with dedupe="semantic": nothing says when two texts agree, so no audit could tell a '
            "right reuse from a wrong one. Say when they do: Semantic(agreement=lambda a, b: …)."
        )


def _parts(ask: Ask, question: Question, pairs: Any) -> dict[str, str]:
    parts = {
        "verb": ask.verb,
        "model": question.model,
        "base_url": question.base_url,
        "params": json.dumps(dict(question.params), sort_keys=True),
        "instructions": ask.instructions or "",
        "examples": repr(pairs),
    }
    if ask.verb == "classify":
        parts["labels"] = repr(labels_of(ask.about, least=1))
    elif ask.verb == "extract":
        parts["schema"] = json.dumps(question.schema)
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

    def shared_payloads(self, stem: bytes, keys: bytes) -> Iterator[list[tuple[Key, Any]]]:
        """The answers that near-equal texts gave to these keys of a question."""
        return self._store.similar.shared_payloads(question_id(question_of(stem)), keys)

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


def _output(ask: Ask, spec: TextSpec) -> str | None:
    """The output's name; None for fields that go by their own."""
    if ask.output is not None:
        if not isinstance(ask.output, str) or not ask.output:
            raise OptionsError(f"output is a name, a string; got {ask.output!r}.")
        return ask.output
    if ask.verb == "extract":
        return None
    plain = _DEFAULT_OUTPUTS[ask.verb] if ask.together is None else ask.together.name
    return plain if spec.single is None or ask.is_nameless else f"{spec.single}_{plain}"


def _question(ask: Ask, task: Task, options: Options) -> Question:
    here = options.model == "local" or ask.embedder is not None
    if here:
        from pandas_llm.local.endpoint import BASE_URL

        base_url, model = BASE_URL, _model_here(ask)
    else:
        base_url, model = base_url_of(options.client, options.base_url), options.model
    if ask.verb == "embed":
        embed.check(options, in_process=here)
    return Question(
        base_url=base_url,
        path=EMBEDDINGS if ask.verb == "embed" else CHAT,
        verb=ask.verb,
        model=model,
        system=task.system,
        schema=task.schema,
        params=options.params,
        logprobs=task.confidence,
    )


def _model_here(ask: Ask) -> str:
    """The name of the model that answers in this process."""
    if ask.embedder is not None:
        from pandas_llm.local.callable import name_of

        return name_of(ask.embedder)
    from pandas_llm.local.endpoint import check
    from pandas_llm.local.weights import model_name

    check(ask.verb, **{name: on for name, on in ask.flags.items() if name in _NOT_LOCAL})
    return model_name()


def store_of(options: Options) -> Store | NoStore:
    """The store that these options name."""
    if options.cache is False:
        return NoStore()
    return open_store(options.store_path or default_path())


# Examples --------------------------------------------------------------------------------------------


def _pairs(spec: TextSpec, ask: Ask, output: str | None) -> Any:
    """The examples of a frame as pairs of text and output; others as they were given."""
    examples = ask.examples
    if not isinstance(examples, pd.DataFrame):
        return examples
    if ask.is_nameless:
        raise OptionsError(
            "The Series has no name, so no column of the examples can be its text: "
            "write examples=[(text, output), …], or name the Series."
        )
    text = ask.text if ask.series is None else ask.series[0]
    try:
        texts = texts_from(examples, read_spec(examples, text))
    except PromptError as error:
        raise PromptError(f"The examples: {error}") from None
    for row in [*texts.failed, *texts.skipped.nonzero()[0].tolist()][:1]:
        raise OptionsError(f"Example {row + 1}: {texts.failed.get(row, 'its text is missing')}.")
    inputs = [texts.texts[code] for code in texts.codes.tolist()]
    used = {str(label) for label in spec.labels}
    return list(zip(inputs, _outputs(examples, ask, output, used), strict=True))


def _outputs(examples: pd.DataFrame, ask: Ask, output: str | None, used: set[str]) -> Iterator[Any]:
    records = ask.verb == "extract" and not ask.flags.get("many")
    if not records:
        name = output or "records"
        if name not in examples.columns:
            raise _no_answers(examples, name)
        yield from (None if _is_missing(value) else value for value in examples[name].tolist())
        return
    prefix = "" if output is None else f"{output}_"
    fields = {
        str(label).removeprefix(prefix): label
        for label in examples.columns
        if str(label) not in used and str(label).startswith(prefix)
    }
    if not fields:
        raise _no_answers(examples, f"{prefix}…")
    columns = [examples[label].tolist() for label in fields.values()]
    for values in zip(*columns, strict=True):
        named = zip(fields, values, strict=True)
        yield {name: None if _is_missing(value) else value for name, value in named}


def _no_answers(examples: pd.DataFrame, name: str) -> OptionsError:
    columns = ", ".join(map(repr, examples.columns))
    return OptionsError(
        f"The examples have no column {name!r} with the right answers; their columns are {columns}."
    )


def _is_missing(value: Any) -> bool:
    return not isinstance(value, (list, dict)) and bool(pd.isna(value))
