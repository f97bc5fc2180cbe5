"""What each way of a run is equipped with: supply, asking, filing, made from the call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pandas_llm.core.errors import (
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    LLMError,
    OutputError,
    RefusalError,
    SchemaMismatchError,
)
from pandas_llm.core.lines import url_of
from pandas_llm.core.plan import question_id
from pandas_llm.core.routes import concurrent_seconds, must_recover
from pandas_llm.core.tokens import admission_tokens, answer_tokens, tokens_in
from pandas_llm.core.types import BatchProgress, Endpoint, Misfit, Result, Usage
from pandas_llm.core.vectors import EMBEDDINGS, MOST_INPUTS
from pandas_llm.core.wire import body_maker
from pandas_llm.dispatch.asking import Asking
from pandas_llm.dispatch.batch import Batch
from pandas_llm.dispatch.concurrent import Concurrent
from pandas_llm.dispatch.gate import Gate, traffic_to
from pandas_llm.dispatch.lot import Filing
from pandas_llm.dispatch.manners import first_manner
from pandas_llm.dispatch.packed import Packed
from pandas_llm.dispatch.queue import Queue, Supply
from pandas_llm.io.journal import Journal, NoJournal
from pandas_llm.io.provider import Provider
from pandas_llm.io.store import NoStore
from pandas_llm.run.ways import Concurrently, Repairs

if TYPE_CHECKING:
    from pandas_llm.run.story import Run


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of what is asked, and by which route."""

    route: str
    """`concurrent`, `flex` or `batch`."""
    codes: Sequence[int]
    until: float | None = None
    """When its answers are needed, by `time.monotonic`; None: any time."""
    may_be_concurrent: bool = False
    """Whether what batches lose, or are too late for, is asked concurrently."""


class Outfit:
    """Equips the ways of one run."""

    def __init__(
        self, run: Run, endpoint: Endpoint, provider: Callable[[], Provider], journal: Journal | NoJournal
    ) -> None:
        self._run = run
        self._call = run.call
        self._endpoint = endpoint
        self._open_provider = provider
        self._provider: Provider | None = None
        self._journal = journal
        self._batches: list[Batch] = []
        self._gate: Gate | None = None

    async def close(self) -> None:
        """Give back the connections to the provider, and the place among the calls to this endpoint."""
        if self._gate is not None:
            self._gate.close()
        if self._provider is not None:
            await self._provider.close()

    # Concurrent calls -------------------------------------------------------------------------------

    def concurrently(self, leg: Leg) -> Concurrently:
        """A way for these codes."""
        return self._by_calls(Queue(self._supply(), leg.codes), leg, len(leg.codes))

    def repairs(self, misfits: Mapping[int, Misfit]) -> tuple[Repairs, Concurrently]:
        """A way for batched replies that are asked once more."""
        texts = self._call.plan.texts
        source = Repairs(misfits, texts.__getitem__, self._call.budget, self._estimate)
        return source, self._by_calls(source, Leg("concurrent", ()), len(misfits))

    def _by_calls(self, source: Queue | Repairs, leg: Leg, requests: int) -> Concurrently:
        question = self._call.plan.question
        tier = "flex" if leg.route == "flex" else self._call.options.service_tier
        gate = self._gate = self._gate or self._new_gate()
        price = self._run.price_of(tier)
        manner, alone = first_manner(self._call.store, question, self._run.fixed_tokens, tier, price)
        asking = self._asking(tier, requests, flex_or_standard=leg.route == "flex")
        if question.path == EMBEDDINGS:
            return Concurrently(Packed(asking, manner, gate, self._run), gate, source)
        return Concurrently(Concurrent(asking, manner, gate, self._run, alone_first=alone), gate, source)

    def _new_gate(self) -> Gate:
        """One for all ways of the run: `max_concurrency` is a ceiling for all of them together."""
        options, question = self._call.options, self._call.plan.question
        traffic = traffic_to(question.base_url, question.model)
        return Gate(traffic, options.max_concurrency, rpm=options.rpm, tpm=options.tpm)

    def _supply(self) -> Supply:
        options, packed = self._call.options, self._call.plan.question.path == EMBEDDINGS
        return Supply(
            plan=self._call.plan,
            store=self._call.store,
            journal=self._journal,
            # Waiting for each commit would cost 5 % at 200 ms; a kill then loses an eighth more.
            unsaved=max(1, options.max_concurrency // 8),
            budget=self._call.budget,
            estimate=self._estimate,
            found=self._run.found,
            in_batch=self._run.in_batch,
            # Texts for vectors are taken by packs, not one by one.
            places=MOST_INPUTS if packed else options.max_concurrency,
            seconds=options.seconds,
        )

    def _estimate(self, text: str) -> float:
        """USD that a request is expected to cost: the mean so far, before that the upper end of a guess."""
        tally = self._run.tally
        mean = tally.cost / tally.paid if tally.paid else math.nan
        if not math.isnan(mean):  # replies without usage have no price, and no cap holds against NaN
            return mean
        return self._guess(text, "concurrent")

    def _guess(self, text: str, route: str) -> float:
        price = self._run.route_price(route)
        assert price is not None, "a budget with an unknown price is refused before the run"
        question = self._call.plan.question
        _, high = answer_tokens(question)
        return price.cost(Usage(self._run.fixed_tokens + tokens_in(text), high))

    def _asking(self, tier: str | None, requests: int, *, flex_or_standard: bool) -> Asking:
        options, question = self._call.options, self._call.plan.question
        return Asking(
            question=question,
            task=self._call.task,
            endpoint=self._endpoint,
            price_of=self._run.price_of,
            seconds=options.seconds_at(tier),
            max_retries=options.max_retries,
            max_concurrency=max(1, min(options.max_concurrency, requests)),
            tokens_of=self._tokens_of,
            flex_or_standard=flex_or_standard,
        )

    def _tokens_of(self, text: str) -> int:
        question = self._call.plan.question
        low, _ = answer_tokens(question)
        return admission_tokens(self._run.fixed_tokens + tokens_in(text), question.params, low)

    # Batches ----------------------------------------------------------------------------------------

    def by_batch(self, leg: Leg, adopted: Mapping[int, Sequence[int]]) -> Batch:
        """A way for these codes, and for those that an open batch is about to answer."""
        self._provider = self._provider or self._open_provider()
        batch = Batch(self._filing(leg), self._provider, leg.codes, adopted, self._run)
        self._batches.append(batch)
        return batch

    def _filing(self, leg: Leg) -> Filing:
        call, options, question = self._call, self._call.options, self._call.plan.question
        assert not isinstance(call.store, NoStore), "batches without a store are refused before the run"
        assert isinstance(self._journal, Journal), "a store has a journal"
        manner, _ = first_manner(
            call.store, question, self._run.fixed_tokens, None, self._run.route_price("batch")
        )
        return Filing(
            plan=call.plan,
            task=call.task,
            body=body_maker(question, manner),
            url=url_of(question.path),
            settings=options.batches,
            wait=options.wait,
            store=call.store,
            journal=self._journal,
            run=self._run.id,
            facts=self._facts(),
            price=self._run.route_price("batch"),
            tokens_of=lambda text: self._run.fixed_tokens + tokens_in(text),
            seconds=options.seconds,
            max_retries=options.max_retries,
            replace=options.cache == "refresh" or options.retry_failed,
            budget=call.budget,
            estimate=lambda text: self._guess(text, "batch"),
            repair=self._run.repair,
            is_late=self._is_late(leg),
            concurrent_at_last=leg.may_be_concurrent,
        )

    def _facts(self) -> dict[str, Any]:
        call, question = self._call, self._call.plan.question
        return {
            "output": call.task.output,
            "question": question_id(question),
            "base_url": question.base_url,
            "model": question.model,
        }

    def _is_late(self, leg: Leg) -> Callable[[int], bool]:
        if leg.until is None or not leg.may_be_concurrent:
            return lambda _: False
        until, options, texts = leg.until, self._call.options, self._call.plan.texts
        some = [*leg.codes[:1_000]] or [codes[0] for codes in self._run.in_batches.values()]
        tokens = sum(self._tokens_of(texts[code]) for code in some) / max(1, len(some))

        def is_late(missing: int) -> bool:
            _, high = concurrent_seconds(
                missing,
                missing * tokens,
                rpm=options.rpm,
                tpm=options.tpm,
                max_concurrency=options.max_concurrency,
            )
            return must_recover(until - time.monotonic(), high)

        return is_late

    def batches_now(self) -> tuple[BatchProgress, ...]:
        """The batches of this run at this moment."""
        now = time.time()
        return tuple(each for batch in self._batches for each in batch.progress(now))

    def open_batches(self) -> list[tuple[str, str, str]]:
        """Name, run and status of those that go on at the provider."""
        return [
            (lot.shard.name, f"r_{lot.shard.run}", lot.status)
            for batch in self._batches
            for lot in batch.lots
            if not lot.over and lot.shard.facts.get("batch_id")
        ]

    @property
    def batch_cancelled(self) -> bool:
        """Whether somebody cancelled one of them, here or elsewhere."""
        return any(lot.status == "cancelled" for batch in self._batches for lot in batch.lots)


_OF_THE_ROW = (ContentFilterError, ContextLengthError, RefusalError, SchemaMismatchError)


def pilot_failure(results: Sequence[Result]) -> LLMError | None:
    """What a whole file would fail of, too, going by the few requests that were sent first."""
    errors = [result.error for result in results]
    first = errors[0] if errors else None
    if first is None or not isinstance(first, (BadRequestError, OutputError)):
        return None
    if len(errors) < 3 and isinstance(first, _OF_THE_ROW):
        return None
    same = all(type(each) is type(first) and _code(each) == _code(first) for each in errors)
    return first if same else None


def _code(error: BaseException | None) -> object:
    return getattr(error, "code", None)
