"""Files and batches at the provider, through every client: one try each, nothing read whole, no key told."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from fakes.openai_server import FakeOpenAI

from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    BadRequestError,
    EndpointError,
    OptionsError,
    RateLimitError,
    ServerError,
)
from pandas_llm.io.provider import Provider, open_provider

KEY = "sk-test-0123456789"
URL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as running:
        yield running
    assert running.violations == []


@pytest.fixture
def server(fake: FakeOpenAI) -> FakeOpenAI:
    fake.clear()
    fake.clear_faults()
    return fake


def line(i: int) -> bytes:
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": f"row {i}"}]}
    return json.dumps({"custom_id": f"{i:032x}", "method": "POST", "url": URL, "body": body}).encode() + b"\n"


LINES = b"".join(line(i) for i in range(30))


def provider(server: FakeOpenAI, **options: Any) -> Provider:
    return open_provider(**{"client": None, "api_key": KEY, "base_url": server.base_url, **options})


def azure(server: FakeOpenAI, **options: Any) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        api_key=KEY, azure_endpoint=server.root, api_version="2026-01-01", max_retries=5, **options
    )


CLIENTS: dict[str, Callable[[FakeOpenAI], Any]] = {
    "none": lambda server: None,
    "OpenAI": lambda server: openai.OpenAI(api_key=KEY, base_url=server.base_url, max_retries=5),
    "AsyncOpenAI": lambda server: openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url, max_retries=5),
    "own http_client": lambda server: openai.OpenAI(
        api_key=KEY, base_url=server.base_url, http_client=openai.DefaultHttpxClient(trust_env=False)
    ),
    "AzureOpenAI": azure,
    "of a deployment": lambda server: azure(server, azure_deployment="gpt-6-luna"),
}


@contextlib.asynccontextmanager
async def reached(server: FakeOpenAI, kind: str = "none", **options: Any) -> AsyncIterator[Provider]:
    """A provider over a client of this kind; at the end both are closed."""
    client = CLIENTS[kind](server)
    there = provider(server, client=client, **options)
    yield there
    await there.close()
    if isinstance(client, openai.AsyncOpenAI):
        await client.close()
    elif client is not None:
        client.close()


def answered(handle: Callable[[httpx2.Request], httpx2.Response], **options: Any) -> Provider:
    """A provider whose server is a function."""
    http_client = httpx2.Client(transport=httpx2.MockTransport(handle))
    client = openai.OpenAI(
        **{"api_key": KEY, "base_url": "http://h/v1", "http_client": http_client, **options}
    )
    return open_provider(client=client, api_key=None, base_url=None)


async def ended(there: Provider, server: FakeOpenAI, batch_id: str) -> Any:
    while not (info := await there.retrieve(batch_id)).over:
        server.clock.advance(60)
    return info


# There and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_batch_goes_there_and_back_through_every_client(server, kind):
    async def main():
        async with reached(server, kind) as there:
            file = io.BytesIO(LINES)
            file.seek(0, io.SEEK_END)
            file_id = await there.upload("rows.jsonl", file, 30)
            assert not file.closed
            assert server.files[file_id].content == LINES
            assert (server.files[file_id].filename, server.files[file_id].purpose) == ("rows.jsonl", "batch")
            made = await there.create(file_id, URL, {"pandas_llm_run": "1"}, 30)
            assert (made.status, made.input_file_id, dict(made.metadata)) == (
                "validating",
                file_id,
                {"pandas_llm_run": "1"},
            )
            info = await ended(there, server, made.id)
            assert (info.status, info.completed) == ("completed", 30)
            into = io.BytesIO(b"of a try before" * 10_000)
            into.seek(7)
            assert await there.download(info.output_file_id, into, 30) == len(into.getvalue())
            assert into.getvalue() == server.files[info.output_file_id].content
            assert [batch.id for batch in await there.recent()] == [made.id]
            assert (await there.cancel(made.id)).status == "completed", "it was quicker"
            await there.delete(file_id)
            await there.delete(file_id)
            assert server.files[file_id].deleted

    asyncio.run(main())


def test_a_batch_is_cancelled(server):
    async def main():
        async with reached(server) as there:
            file_id = await there.upload("rows.jsonl", io.BytesIO(LINES), 30)
            made = await there.create(file_id, URL, {}, 30)
            assert (await there.cancel(made.id)).status in ("cancelling", "cancelled")
            assert (await ended(there, server, made.id)).status == "cancelled"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["none", "AsyncOpenAI"])
def test_no_file_is_read_whole(server, kind):
    size = 16 << 20

    async def main():
        async with reached(server, kind) as there:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                await there.upload("small.jsonl", io.BytesIO(LINES), 30)  # what is made once
                tracemalloc.start()
                try:
                    file_id = await there.upload("large.jsonl", file, 30)
                    assert await there.download(file_id, file, 30) == size
                    assert tracemalloc.get_traced_memory()[1] < size / 4
                finally:
                    tracemalloc.stop()
                assert file.seek(0, io.SEEK_END) == size

    asyncio.run(main())


def test_what_isn_t_flushed_yet_is_sent_too(server):
    async def main():
        async with reached(server) as there:
            with tempfile.TemporaryFile() as file:
                file.write(LINES)
                file_id = await there.upload("rows.jsonl", file, 30)
            assert server.files[file_id].content == LINES

    asyncio.run(main())


def test_all_pages_of_the_list_are_read_and_what_can_not_be_read_is_passed_over():
    ids = [f"batch_{i}" for i in range(250)]

    def handle(request):
        after = request.url.params.get("after")
        start = ids.index(after) + 1 if after else 0
        page = [{"id": id_, "status": "completed"} for id_ in ids[start : start + 100]]
        odd = [None, "batch", {"id": "without a status"}]
        return httpx2.Response(200, json={"data": odd + page, "has_more": start + 100 < 250})

    assert [info.id for info in asyncio.run(answered(handle).recent())] == ids


def test_a_server_that_gives_the_same_page_for_ever_is_asked_twice():
    asked = []

    def handle(request):
        asked.append(request)
        return httpx2.Response(200, json={"data": [{"id": "b", "status": "failed"}], "has_more": True})

    assert len(asyncio.run(answered(handle).recent())) == 1
    assert len(asked) == 2


# What fails ---------------------------------------------------------------------------------------------


def failing(server: FakeOpenAI, fault: str, kind: str, ask: Callable[[Provider, str], Any]) -> ApiError:
    """What is raised under a fault, after which the same thing works."""

    async def main() -> ApiError:
        async with reached(server, kind) as there:
            file_id = await there.upload("rows.jsonl", io.BytesIO(LINES), 30)
            server.batch_fault(fault, times=1)
            before = len(server.requests)
            with pytest.raises(ApiError) as raised:
                await ask(there, file_id)
            assert len(server.requests) == before + 1, "retries are the caller's"
            await ask(there, file_id)
            return raised.value

    return asyncio.run(main())


def upload(there: Provider, _: str) -> Any:
    return there.upload("rows.jsonl", io.BytesIO(LINES), 30)


def create(there: Provider, file_id: str) -> Any:
    return there.create(file_id, URL, {}, 0.3)


def download(there: Provider, file_id: str) -> Any:
    return there.download(file_id, io.BytesIO(), 30)


@pytest.mark.parametrize("kind", ["none", "AsyncOpenAI"])
@pytest.mark.parametrize(
    ("fault", "ask", "cls", "status", "code"),
    [
        ("upload_500", upload, ServerError, 500, None),
        ("upload_reset", upload, ServerError, None, "connection"),
        ("create_429", create, RateLimitError, 429, None),
        ("create_500_exists", create, ServerError, 500, None),
        ("create_reset_exists", create, ServerError, None, "connection"),
        ("create_timeout_exists", create, ServerError, None, "timeout"),
        ("cannot_find_file", create, BadRequestError, 400, None),
        ("content_502", download, ServerError, 502, None),
        ("content_cut", download, ServerError, None, "connection"),
        ("content_reset", download, ServerError, None, "connection"),
    ],
)
def test_each_failure_is_raised_once_as_its_class(server, fault, ask, cls, status, code, kind):
    error = failing(server, fault, kind, ask)
    assert type(error) is cls
    assert error.status == status
    assert code is None or error.code == code
    assert (error.request_id is None) == (status is None)
    assert error.retry_after == (1.0 if fault == "create_429" else None)
    assert KEY not in str(error)


def test_a_file_that_is_shorter_than_its_server_says_is_an_error():
    def handle(request):
        return httpx2.Response(200, headers={"content-length": "1000"}, stream=httpx2.ByteStream(b"x" * 900))

    with pytest.raises(ServerError, match=r"isn't whole: 900 of 1,000 bytes") as raised:
        asyncio.run(answered(handle).download("file-1", io.BytesIO(), 5))
    assert raised.value.code == "connection"


def test_the_disk_s_errors_are_no_server_s():
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        asyncio.run(
            answered(lambda request: httpx2.Response(200, content=b"x")).download("file-1", Full(), 5)
        )


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json=[]),
        httpx2.Response(200, json={}),
        httpx2.Response(200, json={"error": {"message": "no"}}),
    ],
)
def test_a_200_that_is_no_batch_may_have_made_one(reply):
    there = answered(lambda request: reply)
    with pytest.raises(ServerError):
        asyncio.run(there.create("file-1", URL, {}, 5))
    with pytest.raises(ServerError):
        asyncio.run(there.upload("rows.jsonl", io.BytesIO(LINES), 5))


def test_nobody_answering_is_said():
    there = open_provider(client=None, api_key=KEY, base_url="http://127.0.0.1:1/v1")

    async def main():
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1:1"):
            await there.retrieve("batch_1")
        await there.close()

    asyncio.run(main())


def test_a_key_that_the_server_repeats_isn_t_told(server):
    there = answered(
        lambda request: httpx2.Response(401, json={"error": {"message": f"Incorrect API key: {KEY}"}})
    )
    with pytest.raises(AuthError, match=r"Incorrect API key: \[key\]"):
        asyncio.run(there.retrieve("batch_1"))


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}–"])
def test_a_key_that_fits_no_header_isn_t_told(server, key):
    async def main():
        async with reached(server, api_key=key) as there:
            with pytest.raises(AuthError) as raised:
                await there.retrieve("batch_1")
            return raised.value

    error = asyncio.run(main())
    assert KEY not in f"{error} {error.__dict__} {error.__cause__}"
    assert error.__suppress_context__


def test_a_token_provider_that_fails_is_an_auth_error():
    def provide():
        raise KeyError("secret")

    client = openai.AzureOpenAI(azure_ad_token_provider=provide, azure_endpoint="http://h", api_version="1")
    with pytest.raises(AuthError, match="KeyError") as raised:
        asyncio.run(open_provider(client=client, api_key=None, base_url=None).retrieve("batch_1"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", [KEY, None])
def test_without_a_key_none_is_sent(server, key):
    async def main():
        async with reached(server, api_key=key) as there:
            await there.recent()

    asyncio.run(main())
    (seen,) = server.requests
    assert seen.headers.get("authorization") == (key and f"Bearer {key}")


def test_a_client_without_batches_is_refused():
    class Chat:
        base_url = "http://h/v1"
        chat = openai.OpenAI(api_key=KEY).chat

    with pytest.raises(
        OptionsError, match='mode="batch" needs a client with files and batches; Chat has none'
    ):
        open_provider(client=Chat(), api_key=None, base_url=None)


# Giving up ----------------------------------------------------------------------------------------------


def test_a_call_that_is_given_up_touches_its_file_no_more():
    asked, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def handle(request):
        asked.set()
        go_on.wait(10)
        try:
            request.read()
        finally:
            over.set()
        return httpx2.Response(200, json={"id": "file-1"})

    async def main():
        file = io.BytesIO(LINES)
        there = answered(handle)
        with pytest.raises(ServerError, match=r"No answer within 0\.05 s") as raised:
            await there.upload("rows.jsonl", file, 0.05)
        assert raised.value.code == "timeout"
        await asyncio.to_thread(asked.wait, 10)
        file.seek(3)
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        assert file.tell() == 3

    asyncio.run(main())


def test_a_call_that_hangs_keeps_nobody_from_ending(server):
    hangs = threading.Event()

    async def main():
        there = answered(lambda request: hangs.wait(30))
        task = asyncio.create_task(there.retrieve("b"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert all(thread.daemon for thread in threading.enumerate() if "provider" in thread.name)
    hangs.set()


def test_closing_leaves_the_user_s_client_open(server):
    async def main():
        client = CLIENTS["OpenAI"](server)
        there = provider(server, client=client)
        await there.close()
        assert not client.is_closed()
        client.close()
        ours = provider(server)
        await ours.recent()
        await ours.close()
        with pytest.raises(EndpointError, match="The client is closed"):
            await ours.recent()

    asyncio.run(main())
