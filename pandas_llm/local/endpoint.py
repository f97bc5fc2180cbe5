"""The embedded model as an endpoint: concurrent requests become one batch in one thread, without a port."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from pandas_llm.core.errors import BadRequestError, NeedsModelError, ServerError
from pandas_llm.core.types import Reply
from pandas_llm.local import weights, wire
from pandas_llm.local.encoder import Encoded, Encoder, load
from pandas_llm.local.labels import Prototypes, method_of, prototypes
from pandas_llm.verbs.classify import Label, parse_system

BASE_URL = "local:"
"""What stands in keys where a server's address would."""

# Texts encoded before the first of them is answered: 1 s of work for short ones.
_BATCH = 256
# Questions whose labels' vectors are kept: calls that take turns, and repeated cells.
_QUESTIONS = 8
# Instructions stand last; before them everything is JSON on one line, so this can't occur.
_INSTRUCTIONS = "\n\nInstructions:\n"


def check(verb: str, *, explain: bool = False, multi_label: bool = False) -> None:
    """Refuse what the embedded model can't do, and a machine it isn't on, before anything is sent.

    Raises
    ------
    NeedsModelError
        The verb needs a language model, or the model's files are missing or not the expected ones.
    OptionsError
        The packages that read them are missing.
    """
    asked = {
        "explain=True": explain,
        "multi_label=True": multi_label,
        verb: verb not in ("classify", "embed"),
    }
    if wanted := [what for what, on in asked.items() if on]:
        raise NeedsModelError(f'model="local" can\'t do {wanted[0]}: {wire.ONLY_LABELS}.')
    weights.require_extra()
    weights.find()


def introduction(verb: str = "classify") -> str:
    """What to tell people once per process before the embedded model answers."""
    if verb == "embed":
        return (
            f'model="local": the encoder {weights.MODEL} on this machine. Nothing is sent anywhere.\n'
            "It was made for English, reads a few hundred words of a text, and makes 384 numbers of it."
        )
    return (
        f'model="local": the encoder {weights.MODEL} on this machine, no language model. Nothing is sent '
        "anywhere.\nIt gives each text the label nearest in meaning and reads no instructions; descriptions "
        "and examples help.\nRight on public tests without examples: AG News 78 %, SST-2 76 % (labels "
        "described), BANKING77 61 % (77 label names);\nit fails on labels like ham/spam. For a language "
        "model set OPENAI_API_KEY or pandas_llm.configure(base_url=…)."
    )


@dataclass(frozen=True, slots=True)
class _Waiting:
    path: str
    body: bytes
    future: asyncio.Future[Reply]
    since: float


_Jobs: TypeAlias = "SimpleQueue[list[_Waiting] | None]"


class LocalEndpoint:
    """The embedded model, answering as an OpenAI-compatible server would; for one event loop.

    Attributes
    ----------
    base_url : str
        `local:`; no bytes leave the process.
    model : str
        What answers say they come from: `local/all-MiniLM-L6-v2@53aa5117`.

    Raises
    ------
    NeedsModelError
        The model's files are missing or not the expected ones.
    """

    def __init__(self) -> None:
        self.base_url = BASE_URL
        # Found once: a changed environment must not mix two models in one column.
        self._weights = weights.find()
        self.model = self._weights.name
        self._waiting: list[_Waiting] = []
        self._jobs: _Jobs | None = None
        self._numbers = itertools.count(1)
        self._questions: dict[str, Prototypes] = {}
        self._remarks: list[str] = []
        self._unknown = 0
        self._cut = 0

    async def send(self, path: str, body: bytes, seconds: float) -> Reply:
        """The response to a POST of `body`."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            # Runs after all that is ready now: workers that start together become one batch.
            loop.call_soon(self._flush)
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append(_Waiting(path, body, future, time.perf_counter()))
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise ServerError(f"The embedded model took more than {seconds:g} s.", code="timeout") from None

    async def close(self) -> None:
        """End the thread after what it has in hand."""
        self._flush()
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None

    def notes(self) -> list[str]:
        """What people should know about the answers given so far, one line each."""
        notes = list(self._remarks)
        if self._unknown:
            notes.append(
                f"{_texts_have(self._unknown)} more than 10 % tokens that {self.model} doesn't know: it was "
                "made for English."
            )
        if self._cut:
            notes.append(
                f"{_texts_have(self._cut)} more tokens than {self.model} reads: the rest was ignored."
            )
        return notes

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(
                target=self._work, args=(self._jobs,), name="pandas_llm local", daemon=True
            ).start()
        self._jobs.put(waiting)

    def _work(self, jobs: _Jobs) -> None:
        while (waiting := jobs.get()) is not None:
            while not jobs.empty():
                more = jobs.get()
                if more is None:
                    jobs.put(None)
                    break
                waiting += more
            for at in range(0, len(waiting), _BATCH):
                self._settle([one for one in waiting[at : at + _BATCH] if not one.future.done()])

    def _settle(self, waiting: list[_Waiting]) -> None:
        try:
            outcomes: Sequence[Reply | Exception] = self._answer(waiting)
        except Exception as error:  # noqa: BLE001 — whatever it is, nobody may wait for ever
            outcomes = [error] * len(waiting)
        for one, outcome in zip(waiting, outcomes, strict=True):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                one.future.get_loop().call_soon_threadsafe(_tell, one.future, outcome)

    def _answer(self, waiting: Sequence[_Waiting]) -> list[Reply]:
        """The replies to a batch; all its texts are encoded together."""
        model = load(self._weights)
        asked = [self._read(model, one) for one in waiting]
        seen = model.encode(
            [text for ask in asked if not isinstance(ask, BadRequestError) for text in ask.texts]
        )
        self._unknown += sum(share > 0.1 for share in seen.unknown)
        self._cut += sum(seen.cut)
        replies, at = [], 0
        for one, ask in zip(waiting, asked, strict=True):
            number = next(self._numbers)
            if isinstance(ask, BadRequestError):
                status, body = ask.status or 400, wire.error_body(ask)
            else:
                status, body = 200, self._body(model, number, ask, seen[at : at + len(ask.texts)])
                at += len(ask.texts)
            headers = {"content-type": "application/json", "x-request-id": f"local-{number}"}
            replies.append(Reply(status, headers, body, time.perf_counter() - one.since))
        return replies

    def _body(self, model: Encoder, number: int, ask: wire.Classify | wire.Embed, seen: Encoded) -> bytes:
        if isinstance(ask, wire.Embed):
            return wire.embeddings(self.model, ask, seen.vectors, seen.tokens)
        nearest = self._prototypes(model, ask.system)
        logs = nearest.log_probabilities(seen.vectors)[0]
        return wire.completion(number, ask, wire.Chances(self.model, nearest.labels, logs), seen)

    def _read(self, model: Encoder, waiting: _Waiting) -> wire.Classify | wire.Embed | BadRequestError:
        try:
            ask = wire.read(waiting.path, waiting.body)
            if isinstance(ask, wire.Classify):
                self._prototypes(model, ask.system)
        except BadRequestError as error:
            return error
        return ask

    def _prototypes(self, model: Encoder, system: str) -> Prototypes:
        """The labels' vectors, made once a question: 77 labels cost as much as 30 texts."""
        if system not in self._questions:
            try:
                described, examples = parse_system(system)
            except ValueError:
                raise wire.refused() from None
            labels = tuple(described)
            self._remark(labels, described, examples)
            if _INSTRUCTIONS in system:
                self._remarks.append(
                    f"The instructions weren't read: {self.model} goes by labels, descriptions and examples."
                )
            if len(self._questions) >= _QUESTIONS:
                del self._questions[next(iter(self._questions))]
            self._questions[system] = prototypes(
                labels, described, examples, lambda texts: model.encode(texts).vectors
            )
        return self._questions[system]

    def _remark(
        self,
        labels: Sequence[Label],
        descriptions: Mapping[Label, str],
        examples: Sequence[tuple[str, Label]],
    ) -> None:
        method = method_of(labels, descriptions, examples)
        if examples and method != "examples":
            covered = {label for _, label in examples}
            without = next(label for label in labels if label not in covered)
            self._remarks.append(
                f"The examples weren't used: {self.model} needs one of every label, and {without!r} has none."
            )
        if method == "name" and not any(isinstance(label, str) for label in labels):
            self._remarks.append(
                f'The labels are numbers, which mean nothing to {self.model}: describe each, {{1: "…"}}.'
            )


def _tell(future: asyncio.Future[Reply], outcome: Reply | Exception) -> None:
    if future.done():  # cancelled, or out of time
        return
    if isinstance(outcome, Reply):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _texts_have(count: int) -> str:
    return f"{count:,} texts have" if count != 1 else "1 text has"
