"""Clients: the four plain ones by the direct road, all others through the SDK, with the same outcome."""

from __future__ import annotations

import asyncio
import base64
import http.client
import http.server
import threading
import time
import warnings
from collections import Counter
from urllib.parse import urlsplit

import httpx2
import openai
import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm.errors import AuthError, EndpointError, OptionsError, PriceWarning, QuotaError

LABELS = ["bug", "question", "praise"]
KEY = "sk-client-0123456789"


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n, word="bug"):
    return [f"{word} {i}" for i in range(n)]


def sources(out):
    return Counter(out["t_label_source"])


class OwnOpenAI(openai.OpenAI):
    """A class nobody knows."""


class OwnAsyncOpenAI(openai.AsyncOpenAI):
    """Another one."""


def with_client(client, texts, **options):
    """What a client gets; an async one in a loop that also closes it, as its connections belong there."""
    if not isinstance(client, openai.AsyncOpenAI):
        with client:
            return classify(texts, client=client, **options)

    async def work():
        async with client:
            df = pd.DataFrame({"t": texts})
            return await df.llm.aio.classify("t", LABELS, progress=False, client=client, **options)

    return asyncio.run(work())


PLAIN = {"OpenAI": openai.OpenAI, "AsyncOpenAI": openai.AsyncOpenAI}
THROUGH_SDK = {
    "own http_client": lambda **given: openai.OpenAI(http_client=openai.DefaultHttpxClient(), **given),
    "own async http_client": lambda **given: openai.AsyncOpenAI(
        http_client=openai.DefaultAsyncHttpxClient(), **given
    ),
    "a class of its own": OwnOpenAI,
    "an async class of its own": OwnAsyncOpenAI,
}


def is_sdk(seen):
    # Which only the SDK counts; the direct road sends its other headers too.
    return "x-stainless-retry-count" in seen.headers


@pytest.mark.parametrize("name", [*PLAIN, *THROUGH_SDK])
def test_every_client_gets_the_same_answers_once(server: FakeOpenAI, name):
    make = {**PLAIN, **THROUGH_SDK}[name]
    server.api_key = KEY
    client = make(api_key=KEY, base_url=server.base_url, default_headers={"x-team": "blue"}, max_retries=5)
    server.fault("bug 3", faults.INTERNAL, times=1)
    server.fault("bug 5", faults.outside(), times=1)
    out = with_client(client, bugs(8), details="all")
    assert out["t_label"].tolist() == ["bug"] * 8
    assert sources(out) == {"api": 8}
    # The SDK's own retries are off, whatever the client says: 8 requests, one try and one repair more.
    assert len(server.requests) == 10
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert {is_sdk(seen) for seen in server.requests} == {name in THROUGH_SDK}
    for seen in server.requests:
        assert seen.headers["authorization"] == f"Bearer {KEY}"
        assert seen.headers["x-team"] == "blue"
        assert set(seen.body) == {"model", "messages", "response_format"}
    # The key of an answer has no credentials and no client in it.
    other = openai.OpenAI(api_key="another", base_url=server.base_url + "/")
    assert sources(with_client(other, bugs(8))) == {"cache": 8}


AZURE = {"AzureOpenAI": openai.AzureOpenAI, "AsyncAzureOpenAI": openai.AsyncAzureOpenAI}


@pytest.mark.parametrize("name", AZURE)
@pytest.mark.parametrize("own", [False, True], ids=["direct", "own http_client"])
def test_azure_finds_deployment_version_and_key_where_it_looks_for_them(server: FakeOpenAI, name, own):
    is_async = name.startswith("Async")
    http_client = openai.DefaultAsyncHttpxClient() if is_async else openai.DefaultHttpxClient()
    client = AZURE[name](
        azure_endpoint=server.root,
        api_key=KEY,
        api_version="2026-06-01",
        **({"http_client": http_client} if own else {}),
    )
    server.api_key = KEY
    out = with_client(client, bugs(5), model="my-deployment", prices={"my-deployment": (1, 1)})
    assert sources(out) == {"api": 5}
    for seen in server.requests:
        assert seen.path == "/openai/deployments/my-deployment/chat/completions"
        assert seen.headers["api-key"] == KEY
        assert not seen.authorized
    assert server.bill.completions == 5


def test_azure_with_a_deployment_of_its_own_uses_it(server: FakeOpenAI):
    client = openai.AzureOpenAI(
        azure_endpoint=server.root, azure_deployment="east", api_key=KEY, api_version="2026-06-01"
    )
    with_client(client, bugs(2))
    assert {seen.path for seen in server.requests} == {"/openai/deployments/east/chat/completions"}


def test_a_base_url_without_a_key_sends_no_authorization(server: FakeOpenAI, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert sources(classify(bugs(3))) == {"api": 3}
    assert [seen.authorized for seen in server.requests] == [False] * 3


def test_a_user_and_password_in_base_url_are_sent_and_shown_nowhere(server: FakeOpenAI, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    url = server.base_url.replace("://", "://ann:pa55word@")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    out = classify(bugs(2))
    assert sources(out) == {"api": 2}
    sent = base64.b64encode(b"ann:pa55word").decode()
    assert {seen.headers["authorization"] for seen in server.requests} == {f"Basic {sent}"}
    assert "pa55word" not in str(out.llm.provenance)
    server.fault(None, faults.error(404, None, "Nothing here."))
    with pytest.raises(EndpointError) as caught:
        classify(bugs(1, "praise"), model="gpt-6-sol")
    assert "pa55word" not in str(caught.value)


def test_no_key_no_client_and_no_endpoint_is_said_before_anything_is_sent(server: FakeOpenAI, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(AuthError, match=r'OPENAI_API_KEY.*base_url.*model="local"'):
        classify(bugs(1))


@pytest.mark.parametrize("broken", ["sk-0123\n", "sk-\u20260123"])
def test_a_key_that_is_no_header_is_said_at_once_without_the_key(server: FakeOpenAI, monkeypatch, broken):
    monkeypatch.setenv("OPENAI_API_KEY", broken)
    with pytest.raises(AuthError) as caught:
        classify(bugs(30))
    assert "0123" not in str(caught.value)
    assert sources(caught.value.frame) == {"pending": 30}
    assert server.requests == []


@pytest.mark.parametrize("name", [*PLAIN, *THROUGH_SDK])
def test_a_key_that_runs_out_is_asked_for_again(server: FakeOpenAI, name):
    asked = []

    def key():
        asked.append(f"key-{len(asked)}")
        if name in THROUGH_SDK:  # which asks for each request
            server.api_key = asked[-1]
        return asked[-1]

    async def async_key():
        return key()

    server.api_key = "key-0"
    server.latency = lambda text: setattr(server, "api_key", "key-1") or 0.0 if text == "bug 4" else 0.0
    make = {**PLAIN, **THROUGH_SDK}[name]
    client = make(api_key=async_key if "sync" in name else key, base_url=server.base_url)
    assert sources(with_client(client, bugs(10), max_concurrency=1)) == {"api": 10}
    assert len(asked) == (10 if name in THROUGH_SDK else 2)
    assert server.bill.texts == dict.fromkeys(bugs(10), 1)


def test_many_that_meet_an_old_token_at_once_ask_for_a_new_one_once(server: FakeOpenAI):
    asked = []

    def token():
        asked.append(1)
        return f"token-{len(asked)}"

    client = openai.OpenAI(api_key=token, base_url=server.base_url)
    server.api_key = "token-1"
    server.latency = lambda text: 0.05 if text == "bug 0" else 0.02
    started = threading.Event()

    def expire():
        started.wait(5)
        server.api_key = "token-2"

    thread = threading.Thread(target=expire)
    thread.start()
    server.answer = lambda text, body: started.set() or '{"label": "bug"}'
    out = with_client(client, bugs(60), max_concurrency=10)
    thread.join()
    assert sources(out) == {"api": 60}
    assert len(asked) == 2
    assert server.bill.completions == 60


def test_a_token_providers_tokens_go_to_azure(server: FakeOpenAI):
    client = openai.AzureOpenAI(
        azure_endpoint=server.root, azure_ad_token_provider=lambda: "token-1", api_version="2026-06-01"
    )
    server.api_key = "token-1"
    assert sources(with_client(client, bugs(3), model="d", prices={"d": (1, 1)})) == {"api": 3}
    assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer token-1"}


def test_a_provider_that_fails_stops_the_run_with_its_frame(server: FakeOpenAI):
    def token():
        raise RuntimeError("the vault says: s3cret")

    client = openai.OpenAI(api_key=token, base_url=server.base_url)
    with pytest.raises(AuthError, match="RuntimeError") as caught:
        with_client(client, bugs(3))
    assert "s3cret" not in str(caught.value)
    assert sources(caught.value.frame) == {"pending": 3}


@pytest.mark.parametrize("name", ["own http_client", "own async http_client"])
def test_trouble_on_the_road_through_the_sdk_means_the_same(server: FakeOpenAI, name):
    client = THROUGH_SDK[name](api_key=KEY, base_url=server.base_url)
    server.fault("reset", faults.RESET_AFTER, times=1)
    server.fault("late", faults.hang(), times=1)
    server.fault("cut", faults.TRUNCATED, times=1)
    server.fault("limit", faults.rate_limited(milliseconds="20"), times=1)
    server.fault("drip", faults.slow_body(4), times=1)
    server.fault("long", faults.CONTEXT_LENGTH)
    words = ["reset", "late", "cut", "limit", "drip", "long"]
    texts = ["bug", *(f"{word} bug" for word in words)]
    start = time.monotonic()
    out = with_client(client, texts, timeout=0.5, details="all")
    within(time.monotonic() - start, 4)
    assert out["t_label_source"].tolist() == ["api"] * 6 + ["failed"]
    assert out["t_label_attempts"].tolist() == [1, 2, 2, 2, 2, 2, 1]
    assert out["t_label_error"].iloc[-1].startswith("ContextLengthError")
    assert pandas_llm.last_run().in_doubt == 2


@pytest.fixture
def own_client(server):
    http_client = openai.DefaultHttpxClient()
    with openai.OpenAI(api_key=KEY, base_url=server.base_url, http_client=http_client) as client:
        yield client


def test_the_road_through_the_sdk_stops_as_the_direct_one_does(server: FakeOpenAI, own_client):
    server.fault("praise", faults.error(401, "invalid_api_key", f"Wrong key {KEY}."))
    with pytest.raises(AuthError) as caught:
        classify(bugs(1, "praise"), client=own_client)
    assert KEY not in str(caught.value)
    assert "Wrong key [key]." in str(caught.value)
    server.clear_faults()
    server.fault(lambda n, _: n >= 8, faults.INSUFFICIENT_QUOTA)
    with pytest.raises(QuotaError) as caught:
        classify(bugs(50), client=own_client, max_concurrency=2)
    assert sources(caught.value.frame) == {"api": 7, "pending": 43}


def test_nobody_there_is_said_through_the_sdk_too():
    http_client = openai.DefaultHttpxClient()
    nobody = openai.OpenAI(api_key=KEY, base_url="http://no-such-host.invalid/v1", http_client=http_client)
    with pytest.raises(EndpointError, match=r"base_url http://no-such-host.invalid/v1"):
        with_client(nobody, bugs(3))


def test_a_stream_travels_through_the_sdk_too(server: FakeOpenAI, own_client):
    out = classify(bugs(3), client=own_client, params={"stream": True, "temperature": 0})
    assert sources(out) == {"api": 3}
    assert out["t_label_input_tokens"].sum() == server.bill.input_tokens


def test_the_users_client_is_still_open_afterwards(server: FakeOpenAI, own_client):
    classify(bugs(2), client=own_client)
    assert not own_client.is_closed()
    assert own_client.models.list().data[0].id == "gpt-6-luna"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_users_transport_is_used(server: FakeOpenAI, is_async):
    seen = []

    def handle(request):
        seen.append(request)
        return httpx2.Response(200, json={"choices": [{"message": {"content": '{"label":"praise"}'}}]})

    transport = httpx2.MockTransport(handle)
    http_client = httpx2.AsyncClient(transport=transport) if is_async else httpx2.Client(transport=transport)
    kind = openai.AsyncOpenAI if is_async else openai.OpenAI
    client = kind(api_key=KEY, base_url="https://example.invalid/v1", http_client=http_client)
    with warnings.catch_warnings(action="ignore", category=PriceWarning):
        out = classify(bugs(3), client=client, cache=False)
    assert out["t_label"].tolist() == ["praise"] * 3
    assert len(seen) == 3
    assert server.requests == []


def test_a_plain_client_works_in_the_callers_own_loop(server: FakeOpenAI):
    async def both():
        df = pd.DataFrame({"t": bugs(10)})
        async with openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url) as client:
            work = df.llm.aio.classify("t", LABELS, progress=False, client=client)
            other = df.llm.aio.generate("t", "Again.", progress=False, client=client)
            return await asyncio.gather(work, other)

    labelled, said = asyncio.run(both(), debug=True)
    assert sources(labelled) == {"api": 10}
    assert said["t_output"].tolist() == [f"echo: {text}" for text in bugs(10)]
    assert server.bill.completions == 20


def test_what_isnt_a_client_is_refused_before_sending(server: FakeOpenAI):
    with pytest.raises(OptionsError, match="got str"):
        classify(bugs(1), client="sk-0123")
    with pytest.raises(OptionsError, match="got Client"):
        classify(bugs(1), client=httpx2.Client())
    assert server.requests == []


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes on what it is asked for, and remembers the request lines."""

    protocol_version = "HTTP/1.1"
    lines: list[str] = []  # noqa: RUF012 - one a test
    credentials: list[str | None] = []  # noqa: RUF012

    def do_POST(self):
        self.lines.append(self.requestline)
        self.credentials.append(self.headers.get("proxy-authorization"))
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        connection = http.client.HTTPConnection(url.hostname, url.port)
        connection.request("POST", url.path, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        self.send_response(reply.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    Proxy.lines, Proxy.credentials = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("written", ["http://{}", "{}", "http://ann:pa55word@{}"])
def test_a_proxy_of_the_environment_is_used(server: FakeOpenAI, proxy, no_proxies, monkeypatch, written):
    monkeypatch.setenv("http_proxy", written.format(proxy))
    assert sources(classify(bugs(3))) == {"api": 3}
    assert Proxy.lines == [f"POST {server.base_url}/chat/completions HTTP/1.1"] * 3
    sent = "Basic " + base64.b64encode(b"ann:pa55word").decode() if "@" in written else None
    assert set(Proxy.credentials) == {sent}


@pytest.mark.parametrize("spared", ["127.0.0.1", "127.0.0.1:{}"])
def test_no_proxy_spares_a_host_or_a_port(server: FakeOpenAI, proxy, no_proxies, monkeypatch, spared):
    monkeypatch.setenv("http_proxy", f"http://{proxy}")
    monkeypatch.setenv("no_proxy", spared.format(urlsplit(server.root).port))
    assert sources(classify(bugs(3))) == {"api": 3}
    assert Proxy.lines == []


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_proxy_that_cant_be_used_is_named_quickly(server: FakeOpenAI, no_proxies, monkeypatch, url):
    monkeypatch.setenv("all_proxy", url)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=f"base_url {server.base_url}"):
        classify(bugs(5))
    within(time.monotonic() - start, 5)
    assert server.requests == []
