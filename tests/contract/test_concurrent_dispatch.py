"""Workers and gate against an endpoint in this process: nothing is lost, held or sent when it mustn't be."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter

import pytest

from pandas_llm.core.errors import QuotaError, SchemaMismatchError, ServerError, StoreError
from pandas_llm.core.pace import Pace
from pandas_llm.core.types import Field, Question, Reply, Request, Task
from pandas_llm.core.wire import CHAT, Manner
from pandas_llm.dispatch.concurrent import Asking, Concurrent
from pandas_llm.dispatch.gate import Gate, Traffic

QUESTION = Question(base_url="test:", path=CHAT, verb="generate", model="m", system="Say.", schema=None)


def read(content):
    if content == "odd":
        raise SchemaMismatchError("odd")
    return [content]


TASK = Task(verb="generate", output="o", system="Say.", schema=None, fields=(Field("o", "text"),), read=read)


# Without them a pace would have to be found out, which takes seconds.
TOLD = {"x-ratelimit-limit-requests": "6000000", "x-ratelimit-remaining-requests": "100000"}


def good(content="fine"):
    body = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": {}}
    return Reply(200, TOLD, json.dumps(body).encode(), 0.0)


def limited(seconds):
    error = {"error": {"code": "rate_limit_exceeded", "message": "Slow."}}
    return Reply(429, {**TOLD, "retry-after": str(seconds)}, json.dumps(error).encode(), 0.0)


NO_MONEY = Reply(429, {}, b'{"error":{"code":"insufficient_quota","message":"No money."}}', 0.0)


class Endpoint:
    """Answers as `answer` does, a coroutine of (number of the request, its text)."""

    base_url = "test:"

    def __init__(self, answer):
        self.answer = answer
        self.texts = []
        self.billed = Counter()
        self.in_flight = self.most = 0

    async def send(self, path, body, seconds):
        text = json.loads(body)["messages"][1]["content"].split("\n")[1]
        number = len(self.texts)
        self.texts.append(text)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            reply = await self.answer(number, text)
        finally:
            self.in_flight -= 1
        if reply.status == 200:
            self.billed[text] += 1
        return reply

    async def close(self):
        pass


class Source:
    """So many requests, and what became of them."""

    def __init__(self, count, wait=None):
        self.todo = [Request(f"{n:016}".encode(), f"row {n}") for n in range(count)]
        self.wait = wait
        self.taken, self.dropped, self.settled = [], [], []

    async def take(self):
        if self.wait is not None:
            await self.wait()
        if not self.todo:
            return None
        self.taken.append(self.todo.pop(0))
        return self.taken[-1]

    def drop(self, request):
        self.dropped.append(request.key)

    def settle(self, result):
        self.settled.append(result.key)


class Watcher:
    def __init__(self):
        self.flying = 0

    def sent(self):
        self.flying += 1

    def back(self):
        self.flying -= 1

    def retried(self, error):
        pass

    def manner(self, manner):
        pass


class Setting:
    """A dispatcher with all that it needs."""

    def __init__(self, endpoint, places=8, *, alone_first=False, workers=None):
        self.endpoint, self.places = endpoint, places
        self.gate = Gate(Traffic(Pace(places)), places)
        self.watcher = Watcher()
        asking = Asking(
            question=QUESTION, task=TASK, endpoint=endpoint, price_of=lambda tier: None, seconds=5,
            max_retries=3, max_concurrency=workers or places, tokens_of=len,
        )  # fmt: skip
        self.dispatcher = Concurrent(asking, Manner(), self.gate, self.watcher, alone_first=alone_first)
        self.results = []

    async def run(self, source):
        async for result in self.dispatcher.answer(source):
            self.results.append(result)

    async def assert_whole(self, source):
        """Each taken request became one result or was given back, and every place is free again."""
        keys = Counter([result.key for result in self.results] + source.dropped)
        assert keys == Counter(request.key for request in source.taken)
        assert source.settled == [result.key for result in self.results]
        assert self.watcher.flying == self.endpoint.in_flight == 0
        assert self.endpoint.most <= self.places
        for _ in range(self.gate._pace.limit):
            await asyncio.wait_for(self.gate.enter(1), 1)
        self.gate.close()
        assert len(asyncio.all_tasks()) == 1


def play(coroutine):
    """Run in debug mode: it complains of what is slow, never awaited or called from the wrong thread."""

    async def timed():
        async with asyncio.timeout(20):
            await coroutine

    asyncio.run(timed(), debug=True)


def test_each_request_has_exactly_one_result_whatever_the_order():
    async def answer(number, text):
        await asyncio.sleep(random.Random(text).random() / 200)
        return good(text)

    async def story():
        setting, source = Setting(Endpoint(answer), 16), Source(300)
        await setting.run(source)
        assert len(setting.results) == 300
        assert all(result.output == [f"row {int(result.key)}"] for result in setting.results)
        assert setting.endpoint.most == 16
        await setting.assert_whole(source)

    play(story())


def unruly(dice):
    async def answer(number, text):
        await asyncio.sleep(dice.choice([0, 0, dice.random() / 100]))
        chance = dice.random()
        if chance < 0.1:
            raise ServerError("lost", code="connection", retry_after=0.0)
        if chance < 0.2:
            return limited(dice.choice([0.001, 0.01]))
        return good("odd" if chance < 0.3 else text)

    return answer


@pytest.mark.parametrize("how", ["stop", "stop with an error", "cancel", "stop, then cancel"])
def test_stopping_at_any_moment_loses_no_reply_and_sends_nothing_more(how):
    async def story(seed):
        dice = random.Random(seed)

        async def wait():
            await asyncio.sleep(dice.choice([0, 0, 0.001]))

        setting = Setting(Endpoint(unruly(dice)), dice.choice([1, 3, 8]), alone_first=dice.random() < 0.3)
        source = Source(60, dice.choice([None, wait]))
        work = asyncio.ensure_future(setting.run(source))
        await asyncio.sleep(dice.random() / 30)
        if "stop" in how:
            setting.dispatcher.stop(QuotaError("money") if "error" in how else None)
            sent = len(setting.endpoint.texts)
            await asyncio.sleep(dice.random() / 100 if "cancel" in how else 0)
        if "cancel" in how:
            work.cancel()
        await asyncio.wait({work}, timeout=5)
        assert work.done()
        if "stop" in how:
            assert len(setting.endpoint.texts) == sent
        # What was billed and wasn't in flight any more is a result, be it a failed one.
        billed = set(setting.endpoint.billed)
        assert billed <= {f"row {int(result.key)}" for result in setting.results}
        await setting.assert_whole(source)

    async def stories():
        for seed in range(20):
            await story(seed)

    play(stories())


def test_a_fatal_error_is_raised_after_the_results_that_were_in_flight():
    async def answer(number, text):
        if number == 3:
            return NO_MONEY
        await asyncio.sleep(0.02)
        return good(text)

    async def story():
        setting, source = Setting(Endpoint(answer), 4), Source(100)
        with pytest.raises(QuotaError):
            await setting.run(source)
        assert len(setting.results) == 3
        assert len(setting.endpoint.texts) == 4
        await setting.assert_whole(source)

    play(story())


def test_a_429_holds_those_whom_its_place_would_let_in():
    async def story():
        loop, left, refused = asyncio.get_running_loop(), [], []

        async def answer(number, text):
            left.append(loop.time())
            # The one that is refused comes back while the others are away.
            await asyncio.sleep(0.02 if number == 20 else 0.06 if 18 <= number <= 21 else 0.003)
            if number == 20:
                refused.append(len(left))
                return limited(0.1)
            return good(text)

        # More workers than places, as after a cut: one always waits for a place.
        setting, source = Setting(Endpoint(answer), 3, workers=4), Source(60)
        await setting.run(source)
        assert len(setting.results) == 60
        assert left[refused[0]] - left[20] >= 0.1
        await setting.assert_whole(source)

    play(story())


def test_the_first_goes_alone_where_it_has_something_to_settle_also_when_it_fails():
    async def answer(number, text):
        await asyncio.sleep(0.01)
        return Reply(400, {}, b'{"error":{"message":"No."}}', 0.0) if number == 0 else good(text)

    async def story():
        endpoint = Endpoint(answer)
        setting, source = Setting(endpoint, 4, alone_first=True), Source(12)
        work = asyncio.ensure_future(setting.run(source))
        await asyncio.sleep(0.005)
        assert endpoint.in_flight == 1
        await work
        assert endpoint.most == 4
        assert [result.output for result in setting.results].count(None) == 1
        await setting.assert_whole(source)

    play(story())


def test_a_crash_ends_the_run_with_its_own_exception():
    async def answer(number, text):
        await asyncio.sleep(0)
        if number == 5:
            raise ZeroDivisionError
        return good(text)

    async def story():
        setting, source = Setting(Endpoint(answer), 3), Source(50)
        with pytest.raises(ZeroDivisionError):
            await setting.run(source)
        assert 5 <= len(setting.results) < 10
        await setting.assert_whole(source)

    play(story())


def test_a_store_that_breaks_ends_the_run_and_what_is_in_flight_comes_back():
    async def answer(number, text):
        await asyncio.sleep(0.01)
        return good(text)

    async def story():
        source = Source(50)

        async def breaks():
            if len(source.taken) == 9:
                raise StoreError("disk full")

        source.wait = breaks
        setting = Setting(Endpoint(answer), 3)
        with pytest.raises(StoreError):
            await setting.run(source)
        assert len(setting.results) == 9
        await setting.assert_whole(source)

    play(story())


def test_waiters_pass_in_their_order_and_one_who_was_refused_goes_first():
    async def story():
        gate = Gate(Traffic(Pace(1)), 1)
        await gate.enter(1)
        passed = []

        async def enter(name, **how):
            await gate.enter(1, **how)
            passed.append(name)
            gate.leave()

        waiting = []
        for name, how in (("a", {}), ("b", {}), ("refused", {"first": False})):
            waiting.append(asyncio.ensure_future(enter(name, **how)))
            await asyncio.sleep(0)
        gate.leave()
        await asyncio.gather(*waiting)
        assert passed == ["refused", "a", "b"]
        gate.close()

    play(story())


def test_a_waiter_that_is_cancelled_blocks_nobody():
    async def story():
        gate = Gate(Traffic(Pace(2)), 2)
        await gate.enter(1)
        await gate.enter(1)
        waiting = [asyncio.ensure_future(gate.enter(1)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.leave()  # which lets the first one in; it is cancelled before it knows
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait_for(waiting[2], 1)
        gate.leave()
        gate.leave()
        for _ in range(2):
            await asyncio.wait_for(gate.enter(1), 1)
        gate.close()

    play(story())


def test_a_long_wait_is_told_with_its_reason():
    async def story():
        gate = Gate(Traffic(Pace(4)), 4)
        sent = await gate.enter(1)
        gate.refused(sent, 300.0, None)
        gate.leave()
        assert gate.waiting() == (0.0, "")  # nobody waits yet
        waiter = asyncio.ensure_future(gate.enter(1))
        await asyncio.sleep(0)
        seconds, reason = gate.waiting()
        assert 299 < seconds <= 300
        assert reason == "Retry-After"
        waiter.cancel()
        await asyncio.wait({waiter})
        gate.close()

    play(story())


def test_calls_in_several_threads_share_one_pace_and_all_come_through():
    traffic = Traffic(Pace())
    passed = []

    def call():
        async def story():
            gate = Gate(traffic, 4, rpm=60_000)

            async def one():
                sent = await gate.enter(1)
                await asyncio.sleep(0)
                gate.succeeded(sent, None, 1)
                gate.leave()
                passed.append(1)

            await asyncio.gather(*(one() for _ in range(200)))
            gate.close()

        play(story())

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(passed) == 600
    assert (traffic.calls, traffic.successes) == (0, 600)
