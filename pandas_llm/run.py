"""The story of a run: plan -> known -> dispatch -> keep -> tell."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import LLMError, OutputError, TooManyErrors
from pandas_llm.core.options import Options
from pandas_llm.core.plan import Plan
from pandas_llm.core.prices import price_of
from pandas_llm.core.results import Answers, Results
from pandas_llm.core.retry import ErrorWindow
from pandas_llm.core.tally import Tally
from pandas_llm.core.tokens import PER_REQUEST, admission_tokens, expected_output, tokens_in
from pandas_llm.core.types import Endpoint, Key, Progress, Record, Result, Task, Usage
from pandas_llm.core.wire import Manner
from pandas_llm.dispatch.concurrent import Asking, Concurrent
from pandas_llm.dispatch.gate import Gate, traffic_to
from pandas_llm.dispatch.heap import steady_heap
from pandas_llm.dispatch.manners import first_manner, remember
from pandas_llm.dispatch.queue import Queue, Supply
from pandas_llm.io.journal import Journal, NoJournal
from pandas_llm.io.records import Kept, record_of
from pandas_llm.io.store import NoStore, Store

LOOK_UP_KEYS = 16_384
"""Keys looked up together: sorted, they are read from the file in its own order."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a run is made of."""

    plan: Plan
    task: Task
    options: Options
    store: Store | NoStore
    budget: Budget | None = None


class Run:
    """One execution of a plan: look up what is known, ask for the rest, keep each answer, then tell."""

    def __init__(self, call: Call, tally: Tally) -> None:
        self.call = call
        self.tally = tally
        self.id = 0
        self.error: Exception | None = None
        self.interrupted = False
        """Whether it was asked to stop."""
        self.notes: Sequence[str] = ()
        """What the endpoint has to say at the end."""
        self.fixed_tokens = tokens_in(call.plan.question.system) + PER_REQUEST
        n = len(call.plan)
        self._fields: tuple[list[Any], ...] = tuple([None] * n for _ in call.task.fields)
        self._sources = [""] * n
        self._errors: dict[int, str] = {}
        self._results = Results(details=call.options.details == "all")
        self._in_hand: dict[Key, Result] = {}
        self._records: dict[int, Record] = {}
        asks = call.plan.codes >= 0
        self._rows_of = np.bincount(call.plan.codes[asks], minlength=n) if n else np.zeros(0, dtype=np.int64)
        self._window = ErrorWindow()
        self._dispatcher: Concurrent | None = None
        self._queue: Queue | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._journal: Journal | NoJournal = NoJournal()
        self._gate: Gate | None = None
        question = call.plan.question
        self.price_of = lru_cache(
            partial(price_of, question.model, question.base_url, call.options.prices, now=time.time())
        )

    # Known ------------------------------------------------------------------------------------------

    def look_up(self) -> None:
        """Take from the store what was paid for before."""
        plan, options = self.call.plan, self.call.options
        if options.cache == "refresh" or not len(plan):
            return
        halves = np.frombuffer(plan.keys, dtype=">u8").reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        with steady_heap(len(plan)):
            for start in range(0, len(order), LOOK_UP_KEYS):
                codes = order[start : start + LOOK_UP_KEYS].tolist()
                keys = [plan.key(code) for code in codes]
                at = dict(zip(keys, codes, strict=True))
                for found in self.call.store.known_payloads(b"".join(keys)):
                    self._answered_before(found, at)
        if options.cache == "only":
            self._pend(self.unknown(), 'not in the store, and cache="only" sends nothing')

    def _answered_before(self, found: list[tuple[Key, list[Any]]], at: dict[Key, int]) -> None:
        """Take a chunk of stored payloads: the plain answers here, without a call a row."""
        column, sources = self._fields[0], self._sources
        plain: list[int] = []
        one_field = len(self._fields) == 1 and self.call.options.details != "all"
        for key, payload in found:
            output, code = payload[0], at[key]
            if one_field and output is not None:
                column[code] = output[0]
                sources[code] = "cache"
                plain.append(code)
            else:
                self.known(code, payload)
        self.tally.sources["cache"] += int(self._rows_of[plain].sum())

    def known(self, code: int, payload: list[Any]) -> bool:
        """Take one stored payload as the answer of a code; False where it is to be bought again."""
        output, error = payload[0], payload[1]
        if output is None and self.call.options.retry_failed:
            return False
        if output is None:
            self._sources[code] = "failed"
            self._errors[code] = f"{error[0]}: {error[1]}"
            self.tally.sources["failed"] += int(self._rows_of[code])
        else:
            for column, value in zip(self._fields, output, strict=True):
                column[code] = value
            self._sources[code] = "cache"
            self.tally.sources["cache"] += int(self._rows_of[code])
        if self.call.options.details == "all":
            self._records[code] = record_of(payload)
        return True

    def unknown(self) -> array[int]:
        """The codes without an answer, in the plan's order; a list of them would be 36 bytes a row."""
        return array("i", (code for code, source in enumerate(self._sources) if not source))

    # Dispatch ---------------------------------------------------------------------------------------

    async def ask(self, endpoint: Endpoint) -> None:
        """Ask for what isn't known. What stops the run is kept in `error`, to be raised with the frame."""
        codes = self.unknown()
        self.tally.asked = len(codes)
        if not codes:
            return
        self._loop = asyncio.get_running_loop()
        self._journal = journal = self._new_journal()
        try:
            with steady_heap(len(codes)):
                await self._dispatch(codes, endpoint, journal)
        except Exception as error:  # noqa: BLE001 — whoever builds the frame raises it
            self.error = error
        finally:
            try:
                await journal.close()
            except LLMError as error:
                self.error = self.error or error
            finally:
                # No commit took these, but they are paid for: the frame is all that can give them.
                for result in list(self._in_hand.values()):
                    self._tell(result)

    async def _dispatch(self, codes: Sequence[int], endpoint: Endpoint, journal: Journal | NoJournal) -> None:
        options, question = self.call.options, self.call.plan.question
        traffic = traffic_to(question.base_url, question.model)
        gate = Gate(traffic, options.max_concurrency, rpm=options.rpm, tpm=options.tpm)
        tier = options.service_tier
        manner, alone = first_manner(self.call.store, question, self.fixed_tokens, tier, self.price_of(tier))
        self._gate, self._queue = gate, Queue(self._supply(journal), codes)
        self._dispatcher = Concurrent(self._asking(endpoint), manner, gate, self, alone_first=alone)
        try:
            if not self.interrupted:
                async with contextlib.aclosing(self._dispatcher.answer(self._queue)) as results:
                    async for result in results:
                        self._keep(result, journal)
            await journal.drain()
        finally:
            gate.close()
            await self._queue.close()

    def _supply(self, journal: Journal | NoJournal) -> Supply:
        options = self.call.options
        return Supply(
            plan=self.call.plan,
            store=self.call.store,
            journal=journal,
            # Waiting for each commit would cost 5 % at 200 ms; a kill then loses an eighth more.
            unsaved=max(1, options.max_concurrency // 8),
            budget=self.call.budget,
            estimate=self._estimate,
            found=self._found,
            places=options.max_concurrency,
            seconds=options.seconds,
        )

    def _estimate(self, text: str) -> float:
        """USD that a request is expected to cost: the mean so far, before that the upper end of a guess."""
        mean = self.tally.cost / self.tally.paid if self.tally.paid else math.nan
        if not math.isnan(mean):  # replies without usage have no price, and no cap holds against NaN
            return mean
        price = self.price_of(self.call.options.service_tier)
        assert price is not None, "a budget with an unknown price is refused before the run"
        question = self.call.plan.question
        _, high = expected_output(question.schema, question.params)
        return price.cost(Usage(self.fixed_tokens + tokens_in(text), high))

    def _found(self, code: int, payload: list[Any]) -> bool:
        """Take an answer that another call paid for while this one waited."""
        if not self.known(code, payload):
            return False
        self.tally.asked -= 1
        return True

    def _asking(self, endpoint: Endpoint) -> Asking:
        options, task, question = self.call.options, self.call.task, self.call.plan.question
        output_low, _ = expected_output(question.schema, question.params)
        return Asking(
            question=question,
            task=task,
            endpoint=endpoint,
            price_of=lambda tier: self.price_of(tier or options.service_tier),
            seconds=options.seconds,
            max_retries=options.max_retries,
            max_concurrency=min(options.max_concurrency, self.tally.asked),
            tokens_of=lambda text: admission_tokens(
                self.fixed_tokens + tokens_in(text), question.params, output_low
            ),
        )

    def _new_journal(self) -> Journal | NoJournal:
        store = self.call.store
        if isinstance(store, NoStore):
            return NoJournal()
        options = self.call.options
        replace = options.cache == "refresh" or options.retry_failed
        return Journal(store, self.id, timeout=options.seconds, replace=replace)

    # What the endpoint understands ------------------------------------------------------------------

    def manner(self, manner: Manner) -> None:
        """Remember the answer format that has shown to work here."""
        remember(self.call.store, self.call.plan.question, manner)

    # Keep, then tell --------------------------------------------------------------------------------

    def _keep(self, result: Result, journal: Journal | NoJournal) -> None:
        assert self._queue is not None
        self._queue.handed_over()
        if result.output is not None or (isinstance(result.error, OutputError) and result.replies):
            error = None if result.error is None else (type(result.error).__name__, str(result.error))
            record = Record(
                result.output,
                error,
                result.usage,
                result.model,
                result.service_tier,
                result.finish_reason,
                result.request_id,
                result.latency,
                result.attempts,
            )
            self._in_hand[result.key] = result
            journal.keep(Kept(result.key, record, result.replies, self.id), partial(self._tell, result))
        else:
            self._in_hand[result.key] = result
            journal.release([result.key])
            self._tell(result)

    def _tell(self, result: Result) -> None:
        if self._in_hand.pop(result.key, None) is None:
            return
        assert self._queue is not None
        code = self._queue.arrived(result.key)
        if result.output is None:
            self._sources[code] = "failed"
            self._errors[code] = f"{type(result.error).__name__}: {result.error}"
        else:
            self._sources[code] = "api"
            for column, value in zip(self._fields, result.output, strict=True):
                column[code] = value
        self.tally.told(result, int(self._rows_of[code]), time.monotonic())
        self._results.add(code, result)
        self._window.add(result.error is not None)
        rate = self.call.options.max_error_rate
        if self._window.tripped(rate) and self._dispatcher is not None:
            self._dispatcher.stop(self._too_many(rate))

    def _too_many(self, rate: float) -> TooManyErrors:
        last = self.tally.last_error.rstrip(".")
        return TooManyErrors(
            f"More than {rate:.0%} of the last requests failed for good, and nothing more was sent. The "
            f"last: {last}. Run the same line again to go on, or raise max_error_rate=."
        )

    # Stop -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Send nothing more; what is in flight may come back. From any thread."""
        self.interrupted = True
        if self._loop is not None and self._dispatcher is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is in flight
                self._loop.call_soon_threadsafe(self._dispatcher.stop)

    def let_go_if_orphaned(self) -> None:
        """Give back the claims where somebody closed the loop under this run.

        They are this process's, and it lives: the next call would wait for itself.
        """
        if self._loop is not None and self._loop.is_closed():
            self._loop = None
            self._journal.abandon()

    # What watchers are told -------------------------------------------------------------------------

    def sent(self) -> None:
        """A request left."""
        self.tally.in_flight += 1

    def back(self) -> None:
        """Its reply, or its failure, is here."""
        self.tally.in_flight -= 1

    def retried(self, error: LLMError) -> None:
        """A request will be sent again."""
        self.tally.retries += 1
        self.tally.last_error = f"{type(error).__name__}: {error}"

    def progress(self) -> Progress:
        """The run at this moment."""
        return self.tally.snapshot(time.monotonic(), waiting=self._waiting())

    def _waiting(self) -> str:
        """Why nothing is sent just now."""
        if self._gate is None or self.tally.state != "running":
            return ""
        seconds, reason = self._gate.waiting()
        # Pacing holds requests for moments all the time; only a wait that people notice is told.
        if seconds >= 1:
            return f"{reason}, {seconds:,.0f} s"
        others = 0 if self._queue is None or self.tally.in_flight else self._queue.held_by_others
        return f"another call is asking for {others:,} of these texts" if others else ""

    # What came of it --------------------------------------------------------------------------------

    def answers(self) -> Answers:
        """What became of the plan; what has no answer yet is pending, with the reason."""
        self._pend(self.unknown(), self.reason)
        return Answers(
            fields=self._fields,
            sources=self._sources,
            errors=self._errors,
            results=self._results,
            records=self._records,
        )

    @property
    def out_of_money(self) -> bool:
        """Whether rows are pending for want of money."""
        return self._queue is not None and self._queue.out_of_money

    @property
    def no_confidence(self) -> bool:
        """Whether a confidence was asked for and not one reply had log-probabilities."""
        asked = self._fields[-1] if self.call.task.confidence else []
        answered = (value for value, source in zip(asked, self._sources, strict=False) if source == "api")
        return (
            any(source == "api" for source in self._sources)
            and bool(asked)
            and not any(value is not None for value in answered)
        )

    @property
    def reason(self) -> str:
        """Why rows are pending."""
        if self.out_of_money:
            return "max_cost reached"
        if isinstance(self.error, TooManyErrors):
            return "too many errors"
        if self.error is not None:
            # Its first line says what happened; what to do about it needn't stand in every row.
            return f"{type(self.error).__name__}: {self.error}".partition("\n")[0].rstrip(".")
        return "interrupted"

    def _pend(self, codes: Iterable[int], reason: str) -> None:
        for code in codes:
            self._sources[code] = "pending"
            self._errors[code] = f"Pending: {reason}"
            self.tally.sources["pending"] += int(self._rows_of[code])
