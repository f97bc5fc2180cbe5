"""Files and batches at the provider, through the SDK with its retries off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, TypeVar

import orjson

from pandas_llm.core.batches import BatchInfo, batch_info
from pandas_llm.core.errors import ApiError, OptionsError, ServerError
from pandas_llm.core.retry import parse_retry_after
from pandas_llm.core.wire import error_of, request_id_of
from pandas_llm.io.http import NO_KEY, OPENAI, base_url_of, is_async, lost_in_body, reply_of, through_sdk

T = TypeVar("T")

_CHUNK = 1 << 18
_PAGE, _PAGES = 100, 10


class Provider:
    """What a provider does with batches. Each call is one try; what fails is an `ApiError`."""

    def __init__(self, client: Any, *, ours: bool) -> None:
        self.base_url = base_url_of(client, None)
        self._client = client
        self._ours = ours
        self._run = _awaited if is_async(client) else _in_thread

    async def upload(self, name: str, file: BinaryIO, seconds: float) -> str:
        """The id of the file, sent piece by piece from its beginning; `file` stays open."""
        lent = _Lent(file)
        try:
            body = await self._body(
                lambda client: client.files.with_raw_response.create(
                    file=(name, lent, "application/jsonl"), purpose="batch"
                ),
                seconds,
            )
        finally:
            lent.end()
        if not isinstance(body.get("id"), str):
            raise ServerError("The reply to an upload names no file.", status=200)
        file_id: str = body["id"]
        return file_id

    async def create(
        self, input_file_id: str, url: str, metadata: Mapping[str, str], seconds: float
    ) -> BatchInfo:
        """A new batch. After a `ServerError` there may be one all the same: look for it in `recent`."""
        return await self._batch(
            lambda client: client.batches.with_raw_response.create(
                input_file_id=input_file_id,
                endpoint=url,
                completion_window="24h",
                metadata=dict(metadata),
            ),
            seconds,
        )

    async def retrieve(self, batch_id: str, seconds: float = 60.0) -> BatchInfo:
        """The batch as it is now."""
        return await self._batch(lambda client: client.batches.with_raw_response.retrieve(batch_id), seconds)

    async def cancel(self, batch_id: str, seconds: float = 60.0) -> BatchInfo:
        """The batch, on its way to be cancelled, or over."""
        try:
            return await self._batch(
                lambda client: client.batches.with_raw_response.cancel(batch_id), seconds
            )
        except ApiError as error:
            if error.status not in (400, 409):
                raise
            info = await self.retrieve(batch_id, seconds)
            if not (info.over or info.status == "cancelling"):
                raise
            return info  # it was quicker

    async def recent(self, seconds: float = 60.0) -> list[BatchInfo]:
        """The newest 1,000 batches at most, newest first; `seconds` are for each hundred of them."""
        found: dict[str, BatchInfo] = {}
        after: dict[str, str] = {}
        for _ in range(_PAGES):
            page = await self._body(partial(_page, after=after), seconds)
            known = len(found)
            for each in page.get("data") or ():
                # One that can't be read isn't ours, and mustn't hide those that are.
                with contextlib.suppress(ValueError, AttributeError):
                    info = batch_info(each)
                    found[info.id] = info
            if len(found) == known or not page.get("has_more", known + _PAGE == len(found)):
                break
            after = {"after": next(reversed(found))}
        return list(found.values())

    async def download(self, file_id: str, into: BinaryIO, seconds: float) -> int:
        """How many bytes the file has; they are all that `into` holds then.

        Raises
        ------
        ServerError
            Also where the file didn't come whole.
        """
        lent = _Lent(into)
        receive = _receive_awaited if self._run is _awaited else _receive
        try:
            size: int = await self._asked(lambda client: receive(client, file_id, lent, seconds), seconds)
        finally:
            lent.end()
        return size

    async def delete(self, file_id: str, seconds: float = 60.0) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            await self._asked(lambda client: client.files.with_raw_response.delete(file_id), seconds)
        except ApiError as error:
            if error.status != 404:
                raise

    async def close(self) -> None:
        """Give back the connections; a client of the user's stays as it is."""
        if self._ours:
            self._client.close()

    async def _batch(self, ask: Callable[[Any], Any], seconds: float) -> BatchInfo:
        try:
            return batch_info(await self._body(ask, seconds))
        except ValueError as error:
            raise ServerError(f"The reply isn't a batch: {error}.", status=200) from None

    async def _body(self, ask: Callable[[Any], Any], seconds: float) -> dict[str, Any]:
        started = time.perf_counter()
        reply = reply_of((await self._asked(ask, seconds)).http_response, started)
        try:
            body = orjson.loads(reply.body)
        except ValueError:
            body = None
        if not isinstance(body, dict) or body.get("error"):
            raise ServerError(
                "The reply isn't a JSON object, or holds an error.",
                status=reply.status,
                request_id=request_id_of(reply),
            )
        return body

    async def _asked(self, ask: Callable[[Any], Any], seconds: float) -> Any:
        import openai

        started = time.perf_counter()
        try:
            return await through_sdk(self._client, ask, seconds, self._run)
        except openai.APIStatusError as error:
            reply = reply_of(error.response, started)
        raise error_of(reply, retry_after=parse_retry_after(reply.headers, time.time()))


def open_provider(*, client: Any, api_key: str | None, base_url: str | None) -> Provider:
    """The provider behind a client, or behind a URL and its key."""
    if client is None:
        import openai

        # The SDK must have a key; where there is none, a server is told none.
        keyless = None if api_key else openai.DefaultHttpxClient(event_hooks={"request": [_drop_key]})
        made = openai.OpenAI(api_key=api_key or NO_KEY, base_url=base_url or OPENAI, http_client=keyless)
        return Provider(made, ours=True)
    if not (hasattr(client, "files") and hasattr(client, "batches")):
        raise OptionsError(
            f'mode="batch" needs a client with files and batches; {type(client).__name__} has none. Use an '
            'OpenAI or AzureOpenAI client, or mode="concurrent".'
        )
    return Provider(client, ours=False)


def _drop_key(request: Any) -> None:
    del request.headers["authorization"]


def _page(client: Any, after: dict[str, str]) -> Any:
    return client.batches.with_raw_response.list(limit=_PAGE, **after)


class _Lent:
    """A file lent to a call that its caller may give up while a thread still carries it out.

    After `end` that thread can neither move the file's position nor write into it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._turn = threading.Lock()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        return self._with(lambda file: file.read(size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where the file stands after it."""
        return self._with(lambda file: file.seek(offset, whence))

    def tell(self) -> int:
        """Where the file stands."""
        return self._with(lambda file: file.tell())

    def write(self, data: bytes) -> int:
        """How many bytes were written."""
        return self._with(lambda file: file.write(data))

    def empty(self) -> None:
        """Begin anew."""
        self._with(lambda file: (file.seek(0), file.truncate()))

    def end(self) -> None:
        """The file is its owner's again."""
        with self._turn:
            self._file = None

    def _with(self, act: Callable[[BinaryIO], T]) -> T:
        with self._turn:
            if self._file is None:
                raise ValueError("the call that this file was lent to is over")
            return act(self._file)


def _receive(client: Any, file_id: str, into: _Lent, seconds: float) -> int:
    with client.files.with_streaming_response.content(file_id) as response:
        into.empty()
        size = 0
        try:
            for chunk in response.iter_bytes(_CHUNK):
                size += into.write(chunk)
        except OSError:  # the disk's; the HTTP library has errors of its own
            raise
        except Exception as error:  # noqa: BLE001 — of whichever HTTP library the client stands on
            raise lost_in_body(error, seconds) from None
        return _checked(size, response.http_response)


async def _receive_awaited(client: Any, file_id: str, into: _Lent, seconds: float) -> int:
    async with client.files.with_streaming_response.content(file_id) as response:
        into.empty()
        size = 0
        try:
            async for chunk in response.iter_bytes(_CHUNK):
                size += into.write(chunk)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 — of whichever HTTP library the client stands on
            raise lost_in_body(error, seconds) from None
        return _checked(size, response.http_response)


def _checked(size: int, response: Any) -> int:
    """The size of a file, if it is as large as its server said."""
    said = response.headers.get("content-length", "")
    came = response.num_bytes_downloaded if response.headers.get("content-encoding") else size
    if said.isdecimal() and int(said) != came:
        raise ServerError(f"The file isn't whole: {came:,} of {int(said):,} bytes came.", code="connection")
    return size


async def _awaited(act: Callable[[], Awaitable[Any]]) -> Any:
    return await act()


async def _in_thread(act: Callable[[], Any]) -> Any:
    """What `act` returns. A thread of a pool would keep the process from ending while a server hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, raised = None, None
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 — raised where it is waited for
            raised = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=work, name="pandas_llm provider", daemon=True).start()
    return await done
