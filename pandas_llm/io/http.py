"""How bytes travel: the only file that opens a connection, or knows which HTTP library does it.

Two roads behind one `send`: *direct* (aiohttp, 0.09 ms of CPU a request) for clients whose every setting
can be read off one request they build, and *through the SDK* (1.3 ms and more) for all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import io
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from pandas_llm.core.errors import AuthError, EndpointError, LLMError, OptionsError, ServerError
from pandas_llm.core.types import Endpoint, Reply
from pandas_llm.core.vectors import EMBEDDINGS

if TYPE_CHECKING:
    import aiohttp

OPENAI = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0
CAPTURE_SECONDS = 60.0
"""How long a captured URL and its headers serve: tokens of token providers change."""

NO_KEY = "none"
"""What the SDK, which must have a key, is given where there is none."""
_KINDS = ("OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI")
# What the transport says for itself. The SDK's words about itself (x-stainless-…) are left out too: they
# would be untrue, and eight headers are a tenth of what a request costs.
_NOT_OURS = ("host", "content-length", "connection", "accept-encoding")


def base_url_of(client: Any, base_url: str | None) -> str:
    """The endpoint's name in keys: with port and path, without a slash at the end."""
    url = str(client.base_url) if client is not None else base_url or OPENAI
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise OptionsError(f"base_url is a URL such as {OPENAI!r}; got {url!r}.")
    host = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", ""))


def check_client(client: Any) -> None:
    """Refuse what isn't a client of the `openai` package."""
    if client is None:
        return
    has_chat = hasattr(getattr(client, "chat", None), "completions") and hasattr(client, "base_url")
    if not has_chat:
        raise OptionsError(
            f"client is an OpenAI, AsyncOpenAI, AzureOpenAI or AsyncAzureOpenAI; got {type(client).__name__}."
        )


def require_key(client: Any, api_key: str | None, base_url: str | None) -> None:
    """Refuse to send without a key where only OpenAI could answer."""
    if client is None and not api_key and not base_url:
        raise AuthError(
            "No API key. Set OPENAI_API_KEY or call pandas_llm.configure(api_key=…); for another server "
            'pandas_llm.configure(base_url=…). model="local" needs none.'
        )


def open_endpoint(
    *, client: Any, api_key: str | None, base_url: str | None, model: str, places: int
) -> Endpoint:
    """The endpoint a run sends to, on the road that fits its client."""
    if client is None:
        import openai

        # Nothing is sent by it. With certificates it takes 20 ms, and a proxy it doesn't know ends it.
        unused = openai.DefaultHttpxClient(trust_env=False, verify=False)
        client = openai.OpenAI(api_key=api_key or NO_KEY, base_url=base_url or OPENAI, http_client=unused)
        return DirectEndpoint(client, base_url_of(client, None), model, keyless=not api_key)
    name = base_url_of(client, None)
    if _is_plain(client):
        return DirectEndpoint(client, name, model, keyless=False)
    return SdkEndpoint(client, name, places)


def _is_plain(client: Any) -> bool:
    """Whether one request the client builds says all about it: one of the four kinds, its own http_client."""
    kind = type(client)
    # Nothing public says whether the http_client is the user's, who may well have made it with the SDK's
    # DefaultHttpxClient; the one the SDK makes for itself is a class of its own.
    http_client = type(getattr(client, "_client", None)).__name__
    return (
        kind.__module__.split(".")[0] == "openai"
        and kind.__name__ in _KINDS
        and http_client in ("SyncHttpxClientWrapper", "AsyncHttpxClientWrapper")
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a path's requests go, as the client itself would send them."""

    url: Any
    headers: Mapping[str, str]
    secrets: tuple[bytes, ...]
    at: float


class DirectEndpoint:
    """The direct road: one aiohttp session of the loop it is used in."""

    def __init__(self, client: Any, base_url: str, model: str, *, keyless: bool) -> None:
        self.base_url = base_url
        self._client = client
        self._model = model
        self._keyless = keyless
        self._targets: dict[str, _Target] = {}
        self._capturing = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._proxy = _proxy_of(base_url)
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    async def send(self, path: str, body: bytes, seconds: float) -> Reply:
        """The response to a POST of `body`; the request is built anew once after a 401."""
        target = self._targets.get(path)
        if target is None or time.monotonic() - target.at > CAPTURE_SECONDS:
            target = await self._capture(path, target)
        reply = await self._post(target, body, seconds)
        if reply.status == 401:
            fresh = await self._capture(path, target)
            if fresh.headers != target.headers:  # a token ran out; the same key would be refused again
                reply = await self._post(fresh, body, seconds)
        return reply

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, target: _Target, body: bytes, seconds: float) -> Reply:
        import aiohttp

        if self._session is None:
            self._session = _new_session()
        timeout = self._timeouts.get(seconds)
        if timeout is None:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))
            self._timeouts[seconds] = timeout
        started = time.perf_counter()
        try:
            async with self._session.post(
                target.url,
                # Plain bytes of a megabyte and more make aiohttp warn that they block the loop.
                data=body if len(body) < 1 << 20 else io.BytesIO(body),
                headers=target.headers,
                timeout=timeout,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _trouble(error, self.base_url, seconds) from None
        if response.status >= 300:
            for secret in target.secrets:
                data = data.replace(secret, b"[key]")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, data, time.perf_counter() - started)

    async def _capture(self, path: str, stale: _Target | None) -> _Target:
        async with self._capturing:
            current = self._targets.get(path)
            if current is not None and current is not stale:
                return current
            self._targets[path] = target = await self._built(path)
            return target

    async def _built(self, path: str) -> _Target:
        """Let the client build one request into a transport that only remembers it.

        Its properties are no substitute: they lack deployments, token providers and callable keys.
        """
        import yarl

        httpx = _httpx_of_sdk()
        seen: list[Any] = []

        def remember(request: Any) -> Any:
            seen.append(request)
            return httpx.Response(200, json={})

        # Looking at its methods would import all of the SDK's chat here, on the loop: 50 ms and more.
        awaited = hasattr(self._client, "__aenter__")
        http_class = httpx.AsyncClient if awaited else httpx.Client
        http_client = http_class(transport=httpx.MockTransport(remember))
        copy = self._client.with_options(http_client=http_client, max_retries=0)
        build = functools.partial(copy.post, path, cast_to=httpx.Response, body={"model": self._model})
        try:
            # A token provider may go to the network: not on the loop.
            await (build() if awaited else asyncio.to_thread(build))
        except Exception as error:  # noqa: BLE001 — a provider raises what it likes, and the run has a frame
            raise _mute(error) from None
        request = seen[0]
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_OURS and not name.lower().startswith("x-stainless-")
        }
        if self._keyless and headers.get("authorization") == f"Bearer {NO_KEY}":
            del headers["authorization"]
        if any(not value.isprintable() for value in headers.values()):
            raise _broken_header()
        secrets = [headers.get("authorization", "").removeprefix("Bearer "), headers.get("api-key", "")]
        # A user and password in the URL are a header by now; aiohttp refuses both at once.
        url = yarl.URL(str(request.url), encoded=True).with_user(None)
        return _Target(url, headers, tuple(s.encode() for s in secrets if s), time.monotonic())


def _httpx_of_sdk() -> Any:
    """The HTTP library the SDK stands on: it changed once already, so it is asked for by nobody's name."""
    import openai

    client = next(c for c in openai.DefaultHttpxClient.__mro__ if c.__name__ == "Client")
    return importlib.import_module(client.__module__.split(".")[0])


def _new_session() -> aiohttp.ClientSession:
    import aiohttp

    # limit=0: the workers are the limit; a second one here would queue what was already paced.
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
    # trust_env=True would cost 0.28 ms a request, three times the request itself, and reads ~/.netrc.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


def _proxy_of(base_url: str) -> str | None:
    parts = urlsplit(base_url)
    # NO_PROXY may name a host, or a host and a port.
    if not parts.hostname or any(map(urllib.request.proxy_bypass, (parts.hostname, parts.netloc))):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _trouble(error: BaseException, base_url: str, seconds: float) -> EndpointError | ServerError:
    import aiohttp

    nobody = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ValueError)
    if isinstance(error, nobody):  # a ValueError is of the URL or the proxy: no try will change it
        return _unreachable(base_url, error)
    if isinstance(error, TimeoutError):
        return _timed_out(seconds)
    return _lost(error)


def _unreachable(base_url: str, error: BaseException) -> EndpointError:
    why = str(error) or type(error).__name__
    return EndpointError(f"Nothing answers at base_url {base_url}: {why}.", code="connect")


def _timed_out(seconds: float) -> ServerError:
    return ServerError(f"No answer within {seconds:g} s; it may be billed all the same.", code="timeout")


def _lost(error: BaseException) -> ServerError:
    why = str(error) or type(error).__name__
    return ServerError(f"The connection was lost: {why}", code="connection")


def _mute(error: BaseException) -> AuthError:
    # Not its text: an encoding error of a header shows the header.
    return AuthError(
        f"The client can't say its key: its api_key or token provider raised {type(error).__name__}."
    )


def _broken_header() -> AuthError:
    return AuthError("The API key, or another header, holds a line break: strip() it.")


def is_async(client: Any) -> bool:
    """Whether a client's calls are to be awaited."""
    return asyncio.iscoroutinefunction(client.chat.completions.create) or hasattr(client, "__aenter__")


async def through_sdk(
    client: Any,
    ask: Callable[[Any], Any],
    seconds: float,
    run: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Any:
    """What `ask` gets from a client, `run` by a loop that mustn't wait: one try, the SDK's retries are off.

    Raises
    ------
    openai.APIStatusError
        The server refused.
    EndpointError, ServerError, AuthError
        There is no response.
    """
    import openai

    # Their timeout is for each read; ours is for the whole answer.
    timeout = openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    patient = client.with_options(max_retries=0, timeout=timeout)
    try:
        async with asyncio.timeout(seconds):
            return await run(functools.partial(ask, patient))
    except TimeoutError:
        raise _timed_out(seconds) from None
    except (openai.APIStatusError, LLMError, OSError):
        raise
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        kind = type(cause).__name__
        if kind in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol"):
            raise _unreachable(base_url_of(client, None), cause) from None
        if kind == "LocalProtocolError":  # whose text shows the header
            raise _broken_header() from None
        raise (_timed_out(seconds) if isinstance(error, openai.APITimeoutError) else _lost(cause)) from None
    except Exception as error:  # noqa: BLE001 — a token provider raises what it likes
        if getattr(client, "is_closed", bool)():
            raise EndpointError("The client is closed: make a new one.", code="connect") from None
        raise _mute(error) from None


def lost_in_body(error: Exception, seconds: float) -> ServerError:
    """What an error means that the HTTP library raised in the middle of a response."""
    return _timed_out(seconds) if type(error).__name__.endswith("Timeout") else _lost(error)


def reply_of(response: Any, started: float) -> Reply:
    """A response of the SDK's HTTP library, without the key it was asked with."""
    data = response.content
    if response.status_code >= 300:
        sent = response.request.headers
        for secret in (sent.get("authorization", "").removeprefix("Bearer "), sent.get("api-key", "")):
            data = data.replace(secret.encode() or b"\0", b"[key]")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, data, time.perf_counter() - started)


class SdkEndpoint:
    """The road through the SDK, for a client with an http_client of its own or of a class we don't know."""

    def __init__(self, client: Any, base_url: str, places: int) -> None:
        self.base_url = base_url
        self._client = client
        self._threads = None if is_async(client) else ThreadPoolExecutor(places, "pandas_llm-sdk")

    async def send(self, path: str, body: bytes, seconds: float) -> Reply:
        """The response to a POST of `body`, by the SDK's own `create` with its retries off."""
        import openai

        fields = orjson.loads(body)
        names = ("model", "input" if path == EMBEDDINGS else "messages")
        given = {name: fields.pop(name) for name in names}

        def create(client: Any) -> Any:
            api = client.embeddings if path == EMBEDDINGS else client.chat.completions
            return api.with_raw_response.create(**given, extra_body=fields)

        started = time.perf_counter()
        try:
            response = (await through_sdk(self._client, create, seconds, self._created)).http_response
        except openai.APIStatusError as error:
            response = error.response
        return reply_of(response, started)

    async def _created(self, create: Callable[[], Any]) -> Any:
        if self._threads is None:
            return await create()
        return await asyncio.get_running_loop().run_in_executor(self._threads, create)

    async def close(self) -> None:
        """Let the threads go; the client stays the user's."""
        if self._threads is not None:
            with contextlib.suppress(RuntimeError):
                self._threads.shutdown(wait=False, cancel_futures=True)
