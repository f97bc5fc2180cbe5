"""The story of a run: plan -> known -> dispatch -> keep -> tell."""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import LLMError, OutputError, TooManyErrors
from pandas_llm.core.options import Options
from pandas_llm.core.plan import Plan
from pandas_llm.core.prices import Price, price_of
from pandas_llm.core.results import Answers
from pandas_llm.core.retry import ErrorWindow
from pandas_llm.core.routes import Choice
from pandas_llm.core.tally import UNKNOWN, Tally
from pandas_llm.core.tokens import prompt_tokens
from pandas_llm.core.types import Endpoint, Key, Misfit, Progress, Result, Task
from pandas_llm.core.wire import Manner
from pandas_llm.dispatch.batch import Batch
from pandas_llm.dispatch.harvest import Harvest
from pandas_llm.dispatch.heap import steady_heap
from pandas_llm.dispatch.manners import remember
from pandas_llm.io.journal import Journal, NoJournal
from pandas_llm.io.records import Kept
from pandas_llm.io.store import NoStore, Payload, Store
from pandas_llm.run.journey import Journey
from pandas_llm.run.known import look_up_answers, look_up_batches, read_unread, settle_left_overs
from pandas_llm.run.outfit import Leg, Outfit
from pandas_llm.run.reuse import Reuse
from pandas_llm.run.sheet import Sheet, record_of_result
from pandas_llm.run.ways import Concurrently, Inner, Way, why_waiting

FEW = 64
"""Results of a way that are also handed to who asked: a pilot's."""


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
        self.cancelled = False
        """Whether its batches are to stop, too."""
        self.dropped_requests = 0
        """Requests that were in flight when somebody wouldn't wait for them."""
        self.out_of_money = False
        """Whether rows are pending for want of money."""
        self.notes: list[str] = []
        """What people are told at the end."""
        self.choice: Choice | None = None
        """Which route was taken, and why; None where nothing was to be chosen."""
        self.legs: Sequence[Leg] = ()
        """What is asked by which route."""
        self.routes_taken: Counter[str] = Counter()
        """Requests by route."""
        self.sheet = Sheet(call.plan, call.task, call.options, tally)
        self.fixed_tokens = prompt_tokens(call.plan.question)
        self.reuse = None if call.options.semantic is None else Reuse(self, call.options.semantic)
        """How near-equal texts share an answer."""
        self.in_batches: Mapping[int, Sequence[int]] = {}
        """By the number of its shard, the codes that a batch is about to answer."""
        self._in_hand: dict[Key, tuple[Result, Way]] = {}
        self._window = ErrorWindow()
        self._active: list[Way | Inner] = []
        self._outfit: Outfit | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._journal: Journal | NoJournal = NoJournal()
        question = call.plan.question
        self._priced = lru_cache(partial(price_of, question.model, question.base_url, call.options.prices))
        self._now = time.time()

    # Prices -----------------------------------------------------------------------------------------

    def price_of(self, tier: str | None) -> Price | None:
        """The price of a concurrent request at a service tier."""
        return self._priced(tier, now=self._now)

    def route_price(self, route: str) -> Price | None:
        """The price of a route: `concurrent`, `flex` or `batch`."""
        if route == "batch":
            return self._priced(None, processing="batch", now=self._now)
        return self.price_of("flex" if route == "flex" else self.call.options.service_tier)

    # Known ------------------------------------------------------------------------------------------

    def look_up(self) -> None:
        """Take from the store what was paid for before, and what a batch is about to answer."""
        plan, options = self.call.plan, self.call.options
        if not len(plan):
            return
        if options.cache != "refresh":
            with steady_heap(len(plan)):
                look_up_answers(plan, self.call.store, self.sheet)
        if self.reuse is not None:
            self.reuse.recall(self.unknown())
        concurrent = options.mode == "concurrent" and options.cache != "only"
        settle_left_overs(self.call.store, seconds=options.seconds, concurrent=concurrent)
        self.in_batches = look_up_batches(plan, self.call.store, self.unknown)
        for number, codes in self.in_batches.items():
            self.in_batch(codes, number)
        if options.cache == "only":
            self.sheet.pend(self.unknown(), 'not in the store, and cache="only" sends nothing')

    def in_batch(self, codes: Sequence[int], shard: int) -> None:
        """Leave codes to the batch that holds them."""
        found = self.call.store.shards.get(shard)
        if found is not None:
            self.sheet.pend(codes, f"{found.name} {found.facts.get('status') or found.state}")

    def read_unread(self) -> None:
        """Read the answers that were collected from a cancelled batch without this question at hand."""
        read_unread(self.call.plan, self.call.store, self.sheet, self._harvest_of, self.id)

    def _harvest_of(self, codes: Sequence[int]) -> Harvest:
        keys = b"".join(map(self.call.plan.key, codes))
        return Harvest(keys, codes, set(), self.call.task, self.route_price("batch"), self.id)

    def unknown(self) -> array[int]:
        """The codes without an answer, in the plan's order."""
        return self.sheet.unknown()

    @property
    def has_work(self) -> bool:
        """Whether anything is to be sent, watched or collected."""
        waits = bool(self.in_batches) and self.call.options.mode != "concurrent"
        return bool(self.unknown()) or (waits and self.call.options.cache != "only")

    # Dispatch ---------------------------------------------------------------------------------------

    async def ask(self, endpoint: Endpoint, provider: Callable[[], Any]) -> None:
        """Ask for what isn't known. What stops the run is kept in `error`, to be raised with the frame."""
        codes = self.unknown()
        if not self.has_work:
            return
        watches = self.call.options.mode != "concurrent"
        self.tally.asked = len(codes) + (sum(map(len, self.in_batches.values())) if watches else 0)
        self._loop = asyncio.get_running_loop()
        self._journal = journal = self._new_journal()
        self._outfit = outfit = Outfit(self, endpoint, provider, journal)
        try:
            with steady_heap(len(codes)):
                await Journey(self, outfit).go(codes)
                await journal.drain()
        except Exception as error:  # noqa: BLE001 — whoever builds the frame raises it
            self.error = error
        finally:
            try:
                await journal.close()
            except LLMError as error:
                self.error = self.error or error
            finally:
                # No commit took these, but they are paid for: the frame is all that can give them.
                for result, way in list(self._in_hand.values()):
                    self._tell((result,), way)
                await outfit.close()

    async def take(self, way: Way, route: str, requests: int) -> list[Result]:
        """Keep what a way yields; of a few, what it was."""
        few: list[Result] = []
        if self.interrupted:
            return few
        self.routes_taken[route] += requests
        try:
            with self.beside(way):
                async with contextlib.aclosing(way.results()) as parts:
                    async for results in parts:
                        self._keep(results, way)
                        if requests <= FEW:
                            few += results
            return few
        finally:
            self.out_of_money = self.out_of_money or way.out_of_money

    @contextlib.contextmanager
    def beside(self, way: Way | Inner) -> Iterator[None]:
        """While something sends requests for this run: what stops the run stops it."""
        self._active.append(way)
        try:
            yield
        finally:
            self._active.remove(way)

    async def saved(self) -> None:
        """Return when every answer so far is committed and told."""
        await self._journal.drain()

    def _new_journal(self) -> Journal | NoJournal:
        store = self.call.store
        if isinstance(store, NoStore):
            return NoJournal()
        options = self.call.options
        replace = options.cache == "refresh" or options.retry_failed
        return Journal(store, self.id, timeout=options.seconds, replace=replace)

    async def repair(self, misfits: Mapping[int, Misfit]) -> bool:
        """Ask once more, concurrently, for batched replies that didn't fit; whether each has its result."""
        assert self._outfit is not None, "there is a batch, so there is an outfit"
        source, way = self._outfit.repairs(misfits)
        await self.take(way, "concurrent", len(misfits))
        if source.out_of_money:
            self._keep(source.unrepaired(), way)
        return not source.left

    def found(self, code: int, payload: Payload) -> bool:
        """Take an answer that another call paid for while this one waited."""
        if not self.sheet.known(code, payload):
            return False
        self.tally.asked -= 1
        self.read_unread()
        return True

    def pend(self, codes: Iterable[int], reason: str) -> None:
        """No answer in this run, and why."""
        self.sheet.pend(codes, reason)

    # What the endpoint understands ------------------------------------------------------------------

    def manner(self, manner: Manner) -> None:
        """Remember the answer format that has shown to work here."""
        remember(self.call.store, self.call.plan.question, manner)

    def note(self, line: str) -> None:
        """Something to be told at the end, once."""
        self.notes += [line] if line not in self.notes else []

    # Keep, then tell --------------------------------------------------------------------------------

    def _keep(self, results: Sequence[Result], way: Way) -> None:
        kept, saved, free = [], [], []
        for result in results:
            way.handed_over()
            self._in_hand[result.key] = (result, way)
            if result.output is not None or (isinstance(result.error, OutputError) and result.replies):
                kept.append(Kept(result.key, record_of_result(result), result.replies, self.id))
                saved.append(result)
            else:
                free.append(result)
        if kept:
            self._journal.keep(kept, partial(self._tell, saved, way))
        if free:
            self._journal.release([result.key for result in free])
            self._tell(free, way)

    def _tell(self, results: Sequence[Result], way: Way) -> None:
        rate = self.call.options.max_error_rate
        for result in results:
            if self._in_hand.pop(result.key, None) is None:
                continue
            self.sheet.told(way.arrived(result.key), result, time.monotonic())
            self._window.add(result.error is not None)
            if self._window.tripped(rate):
                self.stop_sending(self._too_many(rate))

    def _too_many(self, rate: float) -> TooManyErrors:
        last = self.tally.last_error.rstrip(".")
        return TooManyErrors(
            f"More than {rate:.0%} of the last requests failed for good, and nothing more was sent. The "
            f"last: {last}. Run the same line again to go on, or raise max_error_rate=."
        )

    # Stop -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Send nothing more; what is in flight may come back, batches go on. From any thread."""
        self.interrupted = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is in flight
                self._loop.call_soon_threadsafe(self.stop_sending)

    def cancel(self) -> None:
        """Stop, and let the provider stop its batches too; what they answered is collected."""
        self.cancelled = True
        self.stop()

    def stop_sending(self, error: LLMError | None = None) -> None:
        """Let nothing more leave, by any way. On the loop."""
        for way in list(self._active):
            if self.cancelled and isinstance(way, Batch):
                way.cancel()
            else:
                way.stop(error)

    def let_go_if_orphaned(self) -> None:
        """Give back the claims where somebody closed the loop under this run.

        They are this process's, and it lives: the next call would wait for itself.
        """
        if self._loop is not None and self._loop.is_closed():
            self._loop = None
            self._journal.abandon()
        for way in self._active:
            if isinstance(way, Inner):
                way.let_go_if_orphaned()

    # What watchers are told -------------------------------------------------------------------------

    def sent(self) -> None:
        """A request left."""
        self.tally.sent(time.monotonic())

    def back(self) -> None:
        """Its reply, or its failure, is here."""
        self.tally.in_flight -= 1

    def dropped(self) -> None:
        """Nobody waits for its reply any more, which may be billed all the same."""
        self.dropped_requests += 1
        self.tally.in_doubt += 1

    def retried(self, error: LLMError) -> None:
        """A request will be sent again."""
        self.tally.retries += 1
        self.tally.last_error = f"{type(error).__name__}: {error}"

    def progress(self) -> Progress:
        """The run at this moment."""
        batches = () if self._outfit is None else self._outfit.batches_now()
        allowed = next((way.allowed for way in list(self._active) if isinstance(way, Concurrently)), UNKNOWN)
        return self.tally.snapshot(
            time.monotonic(), waiting=self._waiting(), allowed=allowed, batches=batches
        )

    def _waiting(self) -> str:
        """Why nothing is sent just now."""
        if self.tally.state != "running":
            return ""
        if self.interrupted and self.tally.in_flight:
            return f"stopping, {self.tally.in_flight:,} still in flight"
        return why_waiting(list(self._active))

    # What came of it --------------------------------------------------------------------------------

    def answers(self) -> Answers:
        """What became of the plan; what has no answer yet is pending, with the reason."""
        self.sheet.pend(self.unknown(), self.reason)
        return self.sheet.answers()

    @property
    def open_batches(self) -> list[tuple[str, str, str]]:
        """Name, run and status of the batches that go on at the provider with rows of this call."""
        return [] if self._outfit is None else self._outfit.open_batches()

    @property
    def batch_cancelled(self) -> bool:
        """Whether somebody cancelled one of its batches, here or elsewhere."""
        return self._outfit is not None and self._outfit.batch_cancelled

    @property
    def no_confidence(self) -> bool:
        """Whether a confidence was asked for and not one reply had log-probabilities."""
        return self.sheet.lacks_confidence

    @property
    def reason(self) -> str:
        """Why rows are pending."""
        return self.reason_in(lambda _, said: said)

    def reason_in(self, words: Callable[[str, str], str]) -> str:
        """The same; what an error of a kind says, in such words."""
        if self.out_of_money:
            return "max_cost reached"
        if isinstance(self.error, TooManyErrors):
            return "too many errors"
        if self.error is not None:
            # Its first line says what happened; what to do about it needn't stand in every row.
            kind = type(self.error).__name__
            return f"{kind}: {words(kind, str(self.error))}".partition("\n")[0].rstrip(".")
        if self.open_batches:
            name, _, status = self.open_batches[0]
            return f"{name} {status}"
        return "interrupted"
