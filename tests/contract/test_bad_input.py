"""Whatever can't be right is refused before anything is sent, in words that say what to write instead."""

import asyncio
import os
import pickle
import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from openai import OpenAI

from pandas_llm import Batches, errors
from pandas_llm.errors import (
    ApiError,
    AuthError,
    LLMError,
    NeedsModelError,
    OptionsError,
    PromptError,
    SchemaError,
)

LABELS = ["bug", "question"]
FRAME = pd.DataFrame({"title": ["one", "two"], "body": ["a bug", "a question"], "my column": ["x", "y"]})


def refused(server, call, error, *words):
    """What a call that must not send anything says."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert server.requests == []
    assert isinstance(caught.value, LLMError)
    assert caught.value.frame is None
    assert "sk-test" not in message
    assert len(message) < 700
    return message


# text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bdy", ["'bdy' is not a column", "Did you mean 'body'?", "'title', 'body', 'my column'"]),
        ("BODY", ["Did you mean 'body'?"]),
        ("nothing like it", ["The columns are 'title'"]),
        (3, ["3 is not a column"]),
        (None, ["None is not a column"]),
        (("title", "body"), ["['title', 'body']"]),
        (["title", "bdy"], ["'bdy'", "'body'"]),
        (["title", "title"], ["listed twice"]),
        ([], ["empty"]),
        ("{titel}: {body}", ["'{titel}'", "Did you mean 'title'?"]),
        ("{my colum}", ["Did you mean 'my column'?"]),
        ("{title.__class__}", ["not a column", "attribute"]),
        ("{title[0]}", ["not a column", "index"]),
        ("{title!r}", ["not a column"]),
        ("{title:>10}", ["not a column"]),
        ("{}", ["not a column"]),
        ("{title", ["lone '{'", "{{ and }}"]),
        ("title}", ["lone '}'"]),
        ("{{title}}", ["no field"]),
    ],
)
def test_a_text_that_is_no_column_list_or_template_is_refused(server, text, words):
    refused(server, lambda: FRAME.llm.classify(text, LABELS), PromptError, *words)


def test_a_series_or_a_frame_is_no_text(server):
    refused(server, lambda: FRAME.llm.classify(FRAME["body"], LABELS), OptionsError, "'body'", "series.llm")
    refused(server, lambda: FRAME.llm.classify(FRAME[["body"]], LABELS), OptionsError, "DataFrame")


def test_the_text_has_no_keyword(server):
    refused(server, lambda: FRAME.llm.classify(text="body", labels=LABELS), OptionsError, "first argument")
    refused(
        server, lambda: FRAME["body"].llm.classify(text="body", labels=LABELS), OptionsError, "Series itself"
    )


def test_a_series_takes_no_column_name(server):
    with pytest.raises(TypeError, match="leave the first argument out"):
        FRAME["body"].llm.classify("body", LABELS)
    assert server.requests == []


def test_a_frame_without_columns_says_so(server):
    refused(server, lambda: pd.DataFrame().llm.generate("x", "Say it."), PromptError, "no columns")


def test_missing_rows_are_named_where_they_are_not_wanted(server):
    frame = pd.DataFrame({"body": ["a", None, "b", "  ", ""]}, index=[10, 11, 12, 13, 14])
    refused(
        server,
        lambda: frame.llm.classify("body", LABELS, on_null="raise"),
        PromptError,
        "3 rows have no text in 'body' (rows 11, 13, 14)",
    )


# Keywords ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value", "instead"),
    [
        ("inplace", True, "df = df.llm"),
        ("temperature", 0, 'params={"temperature"'),
        ("max_tokens", 5, "max_completion_tokens"),
        ("categories", LABELS, "labels="),
        ("classes", LABELS, "labels="),
        ("rails", LABELS, "labels="),
        ("prompt", "Label it.", "instructions="),
        ("system", "You label.", "instructions="),
        ("response_format", {}, "extract"),
        ("n_jobs", 4, "max_concurrency="),
        ("max_workers", 4, "max_concurrency="),
        ("verbose", True, "progress="),
        ("dry_run", True, "estimate"),
        ("batch", True, 'mode="batch"'),
        ("budget", 5, "max_cost="),
        ("api_key", "sk-1", "configure(api_key="),
        ("max_concurency", 4, "'max_concurrency'"),
        ("modle", "x", "'model'"),
        ("on_nul", "skip", "'on_null'"),
        ("multilabel", True, "'multi_label'"),
        ("temprature", 0, 'temperature: write params={"temperature"'),
        ("max_token", 5, 'max_tokens: write params={"max_completion_tokens"'),
        ("instruction", "x", "'instructions'"),
        ("qwertz", 1, "The options are model, params"),
    ],
)
@pytest.mark.parametrize("door", ["frame", "series", "aio", "estimate"])
def test_a_word_nobody_knows_is_answered_with_what_to_write_here(server, door, word, value, instead):
    def call():
        if door == "series":
            return FRAME["body"].llm.classify(LABELS, **{word: value})
        verbs = {"frame": FRAME.llm, "aio": FRAME.llm.aio, "estimate": FRAME.llm.estimate}[door]
        return verbs.classify("body", LABELS, **{word: value})

    refused(server, call, OptionsError, repr(word), instead)


@pytest.mark.parametrize("word", ["categories", "classes", "rails", "lables"])
def test_the_word_is_answered_before_labels_are_missed(server, word):
    refused(server, lambda: FRAME.llm.classify("body", **{word: LABELS}), OptionsError, "labels")
    refused(server, lambda: FRAME["body"].llm.classify(**{word: LABELS}), OptionsError, "labels")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": {"model": "x"}}, ["'model'", "model="]),
        ({"params": {"messages": []}}, ["'messages'"]),
        ({"params": {"response_format": {}}}, ["'response_format'"]),
        ({"params": {"n": 2}}, ["'n'"]),
        ({"params": {"tools": []}}, ["'tools'"]),
        ({"params": {"logprobs": True}}, ["'logprobs'", "confidence=True"]),
        ({"params": {"top_logprobs": 5}}, ["'top_logprobs'"]),
        ({"params": {"service_tier": "flex"}}, ["service_tier="]),
        ({"params": ["temperature"]}, ["mapping"]),
        ({"params": {"x": object()}}, ["JSON"]),
        ({"params": {"x": float("nan")}}, ["JSON"]),
        ({"mode": "bacth"}, ["Did you mean 'batch'?"]),
        ({"max_concurrency": 0}, ["at least 1"]),
        ({"max_concurrency": 2.5}, ["whole number"]),
        ({"max_retries": -1}, ["at least 0"]),
        ({"timeout": 0}, ["above 0"]),
        ({"rpm": 0}, ["above 0"]),
        ({"max_cost": -1}, ["at least 0"]),
        ({"max_cost": "5"}, ["number"]),
        ({"max_error_rate": 3}, ["from 0 to 1"]),
        ({"prices": {"m": 1}}, ["(input, output)"]),
        ({"prices": {"m": (1, -1)}}, ["below 0"]),
        ({"on_null": "skp"}, ["Did you mean 'skip'?"]),
        ({"on_conflict": "replace"}, ["'raise', 'keep', 'overwrite'"]),
        ({"on_error": "rais"}, ["Did you mean 'raise'?"]),
        ({"details": "al"}, ["Did you mean 'all'?"]),
        ({"progress": "no"}, ["True or False"]),
        ({"dedupe": "exactly"}, ["Did you mean 'exact'?"]),
        ({"loop": "other"}, ["'notebook'"]),
        ({"service_tier": "flx"}, ["Did you mean 'flex'?"]),
        ({"client": object()}, ["OpenAI"]),
        ({"client": "sk-test"}, ["OpenAI"]),
        ({"model": ""}, ["model"]),
        ({"cache": "onyl"}, ["Did you mean 'only'?"]),
        ({"cache": 5}, ["the path of a file"]),
        ({"cache": "postgresql://host/db"}, ["not yet"]),
        ({"batches": {"pilot": 0}}, ["Batches"]),
        ({"model": "nobody-knows-it", "max_cost": 1.0}, ["prices={'nobody-knows-it': (input, output)}"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_is_refused(server, options, words):
    refused(server, lambda: FRAME.llm.classify("body", LABELS, **options), OptionsError, *words)


def test_the_embedded_model_takes_no_client(server):
    client = OpenAI(api_key="sk-test", base_url=server.base_url)
    refused(
        server,
        lambda: FRAME.llm.classify("body", LABELS, model="local", client=client),
        OptionsError,
        "client=",
    )


@pytest.mark.parametrize("options", [{"multi_label": True}, {"explain": True}])
def test_what_the_embedded_model_cannot_do_is_refused(server, options):
    refused(server, lambda: FRAME.llm.classify("body", LABELS, model="local", **options), NeedsModelError)


def test_the_embedded_model_only_labels(server):
    refused(server, lambda: FRAME.llm.generate("body", "Say it.", model="local"), NeedsModelError, "generate")
    refused(server, lambda: FRAME.llm.extract("body", ["a"], model="local"), NeedsModelError, "extract")


# labels and schema -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"bug", "question"}, ["set", 'write a list, such as ["bug", "question"]']),
        (frozenset(LABELS), ["set"]),
        (dict.fromkeys(LABELS).keys(), ["list(…)"]),
        (["bug", "bug"], ["the same", "'bug'"]),
        (["bug", " bug "], ["the same"]),
        (["bug", None], ["missing"]),
        (["bug", np.nan], ["missing"]),
        (pd.Series(["bug", pd.NA]), ["missing", "dropna"]),
        (["bug", 1], ["mixes text and whole numbers"]),
        ([1.5, 2.5], ["float"]),
        ([True, False], ["bool"]),
        (["bug", ""], ["empty text"]),
        (["bug"], ["one label"]),
        ([], ["no labels"]),
        ("bug, question", ['["bug", "question"]']),
        (5, ["list"]),
        (FRAME, ["list"]),
        ({"bug": 1, "question": 2}, ["description"]),
    ],
)
def test_labels_that_cannot_be_are_refused(server, labels, words):
    refused(server, lambda: FRAME.llm.classify("body", labels), OptionsError, *words)


def test_one_label_will_do_with_multi_label_and_none_will_not(server):
    refused(server, lambda: FRAME.llm.classify("body", [], multi_label=True), OptionsError, "no labels")
    assert "body_label" in FRAME.llm.classify("body", ["bug"], multi_label=True)


def test_there_is_no_confidence_in_several_labels(server):
    refused(
        server,
        lambda: FRAME.llm.classify("body", LABELS, multi_label=True, confidence=True),
        OptionsError,
        "multi_label",
    )


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, ["no fields"]),
        ([], ["no fields"]),
        ("city", ["['city']"]),
        (5, ["pydantic model", "{field: type}"]),
        (["a", "a"], ["twice"]),
        (["a", 3], ["{field: type}"]),
        ({"a": object}, ["'a'", "str, int, float"]),
        ({"a": set[str]}, ["'a'", "list[str]"]),
        ({"a": dict[str, str]}, ["'a'", "fields"]),
        ({"extract_cost": float}, ["extract_cost", "side column"]),
    ],
)
def test_schemas_that_cannot_be_are_refused(server, schema, words):
    refused(server, lambda: FRAME.llm.extract("body", schema), SchemaError, *words)


@pytest.mark.parametrize(
    ("instructions", "error", "words"),
    [
        ("Mind the {title}.", PromptError, ["{title}", "It belongs in text"]),
        (5, OptionsError, ["instructions", "text"]),
        (["a"], OptionsError, ["instructions"]),
    ],
)
def test_instructions_that_cannot_be_are_refused(server, instructions, error, words):
    for call in (
        lambda: FRAME.llm.classify("body", LABELS, instructions=instructions),
        lambda: FRAME.llm.extract("body", ["a"], instructions=instructions),
        lambda: FRAME.llm.generate("body", instructions),
    ):
        refused(server, call, error, *words)


def test_the_series_own_name_in_instructions_is_refused_and_0_is_not(server):
    body = FRAME["body"]
    refused(server, lambda: body.llm.generate("Sum up {body}."), PromptError, "{body}")
    assert body.llm.generate("Count from {0}.").notna().all()


def test_braces_that_name_no_column_are_sent_as_they_are(server):
    FRAME.llm.generate("body", 'Reply as {"answer": …} or {this}.')
    assert '{"answer": …} or {this}' in server.requests[0].body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([("a text", "nope")], ["Example 1", "'nope'", "'bug', 'question'"]),
        ([("a text", "bgu")], ["Did you mean 'bug'?"]),
        ([("a", "bug"), ("a", "bug", 1)], ["Example 2", "pair"]),
        ([(None, "bug")], ["Example 1", "missing"]),
        ({"a text": "bug"}, ["list(examples.items())"]),
        ("a text", ["list of (input, output)"]),
        (5, ["list of (input, output)"]),
        (pd.DataFrame({"body": ["x"]}), ["no column 'body_label'"]),
        (pd.DataFrame({"text": ["x"], "body_label": ["bug"]}), ["The examples", "'body'"]),
        (pd.DataFrame({"body": ["x"], "body_label": ["nope"]}), ["Example 1", "'nope'"]),
        (pd.DataFrame({"body": ["x"], "body_label": [None]}), ["Example 1"]),
        (pd.DataFrame({"body": ["x", None], "body_label": LABELS}), ["Example 2", "missing"]),
        (pd.DataFrame({"body": [b"x"], "body_label": ["bug"]}), ["Example 1", "bytes"]),
    ],
)
def test_examples_that_cannot_be_are_refused(server, examples, words):
    refused(server, lambda: FRAME.llm.classify("body", LABELS, examples=examples), OptionsError, *words)


def test_an_example_outside_the_schema_is_refused(server):
    for examples in ([("a", {"n": "x"})], [("a", {"m": 1})], pd.DataFrame({"body": ["a"], "n": ["x"]})):
        refused(
            server,
            lambda e=examples: FRAME.llm.extract("body", {"n": int}, examples=e),
            OptionsError,
            "Example 1",
        )


# Outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [5, "", ("a", "b"), ["a"]])
def test_an_output_is_a_name(server, output):
    refused(server, lambda: FRAME.llm.classify("body", LABELS, output=output), OptionsError, "output")


def test_a_colliding_output_is_refused(server):
    words = ["2 values of 'title' weren't written by a run (rows 0, 1)", '"keep"', '"overwrite"']
    refused(server, lambda: FRAME.llm.classify("body", LABELS, output="title"), OptionsError, *words)
    refused(server, lambda: FRAME.llm.extract("body", ["title"]), OptionsError, *words)
    refused(server, lambda: FRAME.llm.generate("body", "Say it.", output="body"), OptionsError, "'body'")
    refused(
        server, lambda: FRAME.llm.aio.generate("body", "Say it.", output="title"), OptionsError, "'title'"
    )


def test_a_colliding_side_column_is_refused(server):
    frame = FRAME.assign(kind_cost=1.0)
    refused(server, lambda: frame.llm.classify("body", LABELS, output="kind"), OptionsError, "'kind_cost'")


def test_an_output_whose_name_repeats_is_refused(server):
    frame = pd.DataFrame([["a", "b", "c"]], columns=["body", "kind", "kind"])
    refused(server, lambda: frame.llm.classify("body", LABELS, output="kind"), OptionsError, "2 columns")


# The key and the store ---------------------------------------------------------------------------------


def test_without_a_key_nothing_is_sent_and_both_ways_out_are_named(own_settings):
    for call in (
        lambda: FRAME.llm.classify("body", LABELS),
        lambda: FRAME["body"].llm.classify(LABELS),
    ):
        with pytest.raises(AuthError) as caught:
            call()
        for word in ("OPENAI_API_KEY", "configure(api_key=", 'model="local"'):
            assert word in str(caught.value)


def test_a_base_url_that_is_none_is_refused(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    refused(server, lambda: FRAME.llm.classify("body", LABELS), OptionsError, "'localhost:8000'")


def test_a_folder_is_no_store(server, tmp_path):
    message = refused(
        server, lambda: FRAME.llm.classify("body", LABELS, cache=tmp_path), OptionsError, "is a folder"
    )
    assert message.count("cache=") == 1


def test_another_programs_file_is_left_alone(server, tmp_path):
    text, database = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("My notes. " * 2000)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE mine(a)")
    connection.close()
    for path in (text, database):
        before = path.read_bytes()
        refused(
            server,
            lambda p=path: FRAME.llm.classify("body", LABELS, cache=p),
            OptionsError,
            "another program's file",
        )
        assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if "store" not in p.name) == ["notes.txt", "other.db"]


def test_a_path_below_a_file_is_no_store(server, tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "store.db"
    refused(server, lambda: FRAME.llm.classify("body", LABELS, cache=path), OptionsError, "can't be made")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_no_store(server, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    refused(
        server,
        lambda: FRAME.llm.classify("body", LABELS, cache=folder / "store.db"),
        OptionsError,
        "can't be written to",
    )


def test_a_dear_call_that_names_no_max_cost_is_not_started(server):
    frame = pd.DataFrame({"body": [f"a bug number {i}" for i in range(400)]})
    options = {"model": "my-model", "prices": {"my-model": (1_000.0, 4_000.0)}}
    message = refused(
        server,
        lambda: frame.llm.classify("body", LABELS, **options),
        OptionsError,
        "about $",
        "say max_cost=",
    )
    assert "confirm_above=None" in message


# Modes -------------------------------------------------------------------------------------------------

MANY = pd.DataFrame({"body": [f"a bug {i}" for i in range(30)], "due in": ["6h"] * 30})


def asking(**options):
    return lambda: MANY.llm.classify("body", LABELS, **options)


@pytest.mark.parametrize("mode", ["batch", "auto"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": False}, ["needs the store", "Leave cache=False out"]),
        ({"params": {"stream": True}}, ["'stream'", "batches don't stream", "Leave it out"]),
        ({"model": "local"}, ['model="local"', "at once and for free", "leave mode="]),
        ({"service_tier": "flex"}, ["service_tier='flex'", "prices of its own"]),
        ({"batches": {"pilot": 0}}, ["pandas_llm.Batches("]),
        ({"model": "nobody-knows-it", "max_cost": 1.0}, ["prices={'nobody-knows-it': (input, output)}"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_goes_with_no_batch_is_refused_before_any_upload(server, mode, options, words):
    refused(server, asking(mode=mode, **options), OptionsError, *words)


@pytest.mark.parametrize("door", ["frame", "series", "aio", "estimate"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "bacth"}, ["Did you mean 'batch'?"]),
        ({"deadline": "6h"}, ['deadline= goes with mode="auto"']),
        ({"mode": "batch", "deadline": timedelta(hours=1)}, ['deadline= goes with mode="auto"']),
        ({"wait": False}, ['wait=False goes with mode="batch"', "nothing to come back to"]),
        ({"mode": "auto", "wait": False}, ['wait=False goes with mode="batch"']),
        ({"mode": "batch", "wait": "no"}, ["wait is True or False; got 'no'"]),
        ({"mode": "auto", "deadline": "soon"}, ["deadline: 'soon'", "no column", '"20min", "6h"']),
        ({"mode": "auto", "deadline": 6}, ["deadline: 6 is neither a span of time nor a moment"]),
        ({"mode": "auto", "deadline": "2020-01-01"}, ["deadline: '2020-01-01' is in the past"]),
        ({"mode": "auto", "deadline": timedelta(hours=-1)}, ["is in the past"]),
        (
            {"mode": "auto", "deadline": datetime(2020, 1, 1, tzinfo=UTC)},
            ["2020-01-01 00:00:00+00:00 is in the past"],
        ),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
def test_a_mode_that_cannot_be_is_refused(server, door, options, words):
    def call():
        if door == "series":
            return MANY["body"].llm.classify(LABELS, **options)
        verbs = {"frame": MANY.llm, "aio": MANY.llm.aio, "estimate": MANY.llm.estimate}[door]
        out = verbs.classify("body", LABELS, **options)
        return asyncio.run(out) if door == "aio" else out

    refused(server, call, OptionsError, *words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_request": 5}, ["Batches has no 'max_request'", "Did you mean 'max_requests'?"]),
        ({"polls": (1, 2)}, ["Did you mean 'poll'?"]),
        ({"window": "24h"}, ["Batches has no 'window'", "It has max_requests, max_bytes"]),
        ({"max_requests": 0}, ["max_requests is a whole number from 1 on; got 0"]),
        ({"max_requests": 50_001}, ["max_requests is at most 50,000", "no provider"]),
        ({"max_requests": 1e3}, ["whole number", "1000.0"]),
        ({"max_bytes": 300_000_000}, ["max_bytes is at most 200,000,000"]),
        ({"min_requests": 0}, ["min_requests is a whole number from 1 on"]),
        ({"min_requests": True}, ["whole number", "True"]),
        ({"pilot": -1}, ["pilot is a whole number from 0 on; got -1"]),
        ({"pilot": "3"}, ["pilot is a whole number", "'3'"]),
        ({"poll": 5}, ["poll is (shortest, longest) seconds", "got 5"]),
        ({"poll": (0, 5)}, ["poll is (shortest, longest)", "(0, 5)"]),
        ({"poll": (60, 5)}, ["(60, 5)"]),
        ({"poll": (5, float("inf"))}, ["inf"]),
        ({"poll": ("a", "b")}, ["('a', 'b')"]),
        ({"delete_files": "yes"}, ["delete_files is True or False; got 'yes'"]),
        ({"force": 1}, ["force is True or False; got 1"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_batches_that_cannot_be_are_refused(server, fields, words):
    refused(server, lambda: Batches(**fields), OptionsError, "Batches", *words)


def test_a_deadline_column_is_read_to_its_last_row_before_anything_is_sent(server):
    due = ["6h"] * 30
    due[17] = "whenever you like"
    refused(
        server,
        lambda: MANY.assign(due=due).llm.classify("body", LABELS, mode="auto", deadline="due"),
        OptionsError,
        "deadline, column 'due', row 17: 'whenever you like' is neither a span of time nor a moment",
    )
    due[17] = "1999-12-31"
    refused(
        server,
        lambda: MANY.assign(due=due).llm.classify("body", LABELS, mode="auto", deadline="due"),
        OptionsError,
        "deadline, column 'due', row 17: '1999-12-31' is in the past",
        "A missing value is a row that has time",
    )


def test_a_misspelt_deadline_column_gets_the_nearest(server):
    refused(
        server,
        asking(mode="auto", deadline="due_in"),
        OptionsError,
        "'due_in' is neither a span of time nor a moment and no column",
        "Did you mean the column 'due in'?",
    )


def test_a_file_for_a_batch_needs_a_place_and_something_to_ask(server, tmp_path):
    estimate = MANY.llm.estimate.classify("body", LABELS)
    for path, word in (
        (tmp_path / "requests.json", "*.jsonl"),
        (tmp_path / "no" / "requests.jsonl", "There is no folder"),
    ):
        refused(server, lambda p=path: estimate.write_jsonl(p), OptionsError, word)
    local = MANY.llm.estimate.classify("body", LABELS, model="local")
    refused(server, lambda: local.write_jsonl(tmp_path / "r.jsonl"), OptionsError, "takes no batch files")
    nothing = MANY[:0].llm.estimate.classify("body", LABELS)
    refused(server, lambda: nothing.write_jsonl(tmp_path / "r.jsonl"), OptionsError, "nothing to ask")
    assert list(tmp_path.glob("*.json*")) == []


# The tree ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_pickles_with_all_it_knows(name):
    kind = getattr(errors, name)
    told = {"status": 429, "code": "slow_down", "request_id": "req_1"} if issubclass(kind, ApiError) else {}
    error = kind("what, where, what to do", **told)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == "what, where, what to do"
    assert {attribute: getattr(back, attribute) for attribute in told} == told


def test_errors_are_the_tree_that_is_promised():
    assert issubclass(OptionsError, ValueError)
    assert issubclass(errors.Interrupted, KeyboardInterrupt)
    assert not issubclass(errors.Interrupted, LLMError)
    parents = {
        OptionsError: ["PromptError", "SchemaError", "NeedsModelError"],
        ApiError: ["AuthError", "QuotaError", "ModelError", "EndpointError", "RateLimitError", "ServerError"],
        errors.BadRequestError: ["ContextLengthError", "ContentFilterError"],
        errors.OutputError: ["RefusalError", "LengthError", "SchemaMismatchError", "EmptyOutputError"],
        LLMError: ["ApiError", "OutputError", "BatchError", "StoreError", "RowErrors", "TooManyErrors"],
        errors.LLMWarning: ["IncompleteWarning", "BudgetWarning", "PriceWarning"],
        UserWarning: ["LLMWarning"],
    }
    for parent, names in parents.items():
        for name in names:
            assert issubclass(getattr(errors, name), parent)
