"""Files of the Batch API: what a call would ask, written; what a batch answered, read."""

import json
import stat
import tracemalloc

import pandas as pd
import pytest

import pandas_llm
from pandas_llm.core.compound import Batches
from pandas_llm.core.errors import LLMWarning, OptionsError

LABELS = ["bug", "question"]
COLUMNS = ["custom_id", "status", "content", "error", "model", "finish_reason", "input_tokens"]
COLUMNS += ["output_tokens", "cached_tokens", "reasoning_tokens", "request_id"]


# Written ------------------------------------------------------------------------------------------------


@pytest.fixture
def df():
    return pd.DataFrame({"body": ["a bug\u2028here", "a question", None, "a question"]})


def estimate(df, **options):
    return df.llm.estimate.classify("body", LABELS, **options)


def test_a_batch_file_holds_what_would_be_asked_once_each(df, tmp_path):
    path = estimate(df).write_jsonl(tmp_path / "in.jsonl")
    assert path == tmp_path / "in.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]
    assert len(lines) == estimate(df).requests == 2
    assert [line["custom_id"] for line in lines] == [estimate(df).show(row).key for row in (0, 1)]
    for row, line in enumerate(lines):
        assert list(line) == ["custom_id", "method", "url", "body"]
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"]["model"] == "gpt-6-luna"
        assert line["body"]["messages"] == list(estimate(df).show(row).messages)
        assert line["body"]["response_format"]["json_schema"]["strict"] is True
        assert "service_tier" not in line["body"]


def test_a_flex_call_s_batch_file_names_no_tier(df, tmp_path):
    path = estimate(df, service_tier="flex").write_jsonl(tmp_path / "in.jsonl")
    assert b"service_tier" not in path.read_bytes()


def test_a_batch_file_is_its_owner_s_alone(df, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    estimate(df).write_jsonl(path, overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".*")) == []


def test_a_batch_file_replaces_nothing_unasked(df, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("mine")
    with pytest.raises(OptionsError, match="exists: overwrite=True replaces it"):
        estimate(df).write_jsonl(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("in.json", {}, r"named \*\.jsonl; got 'in.json'"),
        ("away/in.jsonl", {}, "There is no folder"),
        ("in.jsonl", {"cache": "only"}, "nothing to ask"),
        ("in.jsonl", {"params": {"stream": True}}, "can't stream"),
    ],
)
def test_what_can_be_no_batch_file_is_refused_before_anything_is_written(df, tmp_path, name, options, said):
    with pytest.raises(OptionsError, match=said):
        estimate(df, **options).write_jsonl(tmp_path / name)
    assert list(tmp_path.glob("*.json*")) == []


def test_a_failure_while_writing_leaves_the_old_file_and_no_draft(df, tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    path.write_text("old")
    asked = estimate(df)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        asked.write_jsonl(path, overwrite=True)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".pandas_llm*")) == []


def test_a_file_that_is_more_than_a_batch_is_warned_of(tmp_path):
    frame = pd.DataFrame({"body": [f"text {n:02}" for n in range(25)]})
    with pytest.warns(LLMWarning, match=r"25 requests in 0 MB: the Batch API wants them in 3 files"):
        estimate(frame, batches=Batches(max_requests=10)).write_jsonl(tmp_path / "in.jsonl")
    line = len((tmp_path / "in.jsonl").read_bytes()) // 25
    with pytest.warns(LLMWarning, match="in 4 files"):
        estimate(frame, batches=Batches(max_bytes=7 * line)).write_jsonl(tmp_path / "more.jsonl")
    estimate(frame).write_jsonl(tmp_path / "one.jsonl")


# Read ---------------------------------------------------------------------------------------------------


def reply(content="bug", finish="stop", **message):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-6-luna",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"content": content, **message}}],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 8},
        },
    }


def answered(custom_id, body=None, status=200):
    response = {
        "status_code": status,
        "request_id": f"req_{custom_id}",
        "body": reply() if body is None else body,
    }
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def written(path, *lines):
    """A file of these lines, objects as JSON with their characters as they are."""
    said = (
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines
    )
    path.write_bytes(b"".join(line + b"\n" for line in said))
    return path


EXPIRED = {
    "custom_id": "late",
    "response": None,
    "error": {"code": "batch_expired", "message": "This request could not be executed in time."},
}
REFUSED = answered("bad", {"error": {"message": "Too long.", "code": "context_length_exceeded"}}, 400)
LOST = {"custom_id": "lost", "response": {"status_code": 0, "request_id": "", "body": {}}, "error": None}


@pytest.fixture
def files(tmp_path):
    return (
        written(tmp_path / "out.jsonl", answered("b"), answered("a", reply("line\u2028separator\u0085next"))),
        written(tmp_path / "err.jsonl", EXPIRED, REFUSED, LOST),
    )


def test_answers_are_a_frame_by_custom_id(files):
    out = pandas_llm.read_batch_output(files[0])
    assert out.columns.tolist() == COLUMNS
    assert out["custom_id"].tolist() == ["b", "a"]
    assert out["content"].tolist() == ["bug", "line\u2028separator\u0085next"]
    assert out["status"].tolist() == [200, 200]
    assert out["error"].isna().all()
    assert out["request_id"].tolist() == ["req_b", "req_a"]
    tokens = out.loc[0, ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"]]
    assert tokens.tolist() == [100, 20, 64, 8]


def test_answers_have_the_dtypes_of_other_columns(files, tmp_path):
    empty = pandas_llm.read_batch_output(written(tmp_path / "none.jsonl"))
    full = pandas_llm.read_batch_output(*files)
    text = pd.Series(["a"]).dtype
    for frame in (empty, full):
        counts = ["status", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"]
        assert {str(frame[name].dtype) for name in counts} == {"Int64"}
        assert {frame[name].dtype for name in COLUMNS if name not in counts} == {text}
    assert len(empty) == 0


def test_both_files_are_read_and_each_failure_says_what_it_was(files):
    out = pandas_llm.read_batch_output(*files).set_index("custom_id")
    assert out.index.tolist() == ["b", "a", "late", "bad", "lost"]
    assert out.loc["late", "error"].startswith("BatchError: ")
    assert out.loc["bad", "error"] == "ContextLengthError: HTTP 400: 'Too long.'"
    assert out.loc["lost", "error"].startswith("BatchError: ")
    assert out.loc[["late", "bad", "lost"], ["content", "input_tokens"]].isna().all(axis=None)
    assert (out.loc["bad", "status"], out.loc["lost", "status"]) == (400, 0)
    assert pd.isna(out.loc["late", "status"])


def test_several_files_are_read_together_and_none_may_be_missing(files, tmp_path):
    more = written(tmp_path / "more.jsonl", answered("c"))
    out = pandas_llm.read_batch_output([str(files[0]), more], [files[1]])
    assert len(out) == 6
    assert len(pandas_llm.read_batch_output(None, files[1])) == 3
    with pytest.raises(FileNotFoundError):
        pandas_llm.read_batch_output(tmp_path / "nowhere.jsonl")
    with pytest.raises(OptionsError, match="name the output file"):
        pandas_llm.read_batch_output(None)


def test_an_answer_wins_over_an_error_and_the_first_one_stays(tmp_path):
    out = written(
        tmp_path / "out.jsonl",
        answered("x", {"error": {"message": "busy"}}, 503),
        answered("x", reply("first")),
        answered("x", reply("second")),
        answered("y", reply("first")),
        answered("y", {"error": {"message": "busy"}}, 503),
    )
    read = pandas_llm.read_batch_output(out)
    assert read["custom_id"].tolist() == ["x", "y"]
    assert read["content"].tolist() == ["first", "first"]
    assert read["error"].isna().all()


def test_a_reply_that_is_no_answer_is_an_error_with_its_bill(tmp_path):
    out = written(
        tmp_path / "out.jsonl",
        answered("refused", reply(None, refusal="No.")),
        answered("empty", reply("")),
        answered("cut", reply("half of", "length")),
        answered("error", {"error": {"message": "overloaded", "code": "overloaded"}}),
    )
    read = pandas_llm.read_batch_output(out).set_index("custom_id")
    kinds = read["error"].str.partition(":")[0]
    assert kinds.tolist() == ["RefusalError", "EmptyOutputError", "LengthError", "ServerError"]
    assert read["content"].notna().tolist() == [False, False, True, False]
    assert read["output_tokens"].notna().tolist() == [True, True, True, False]
    assert read.loc["cut", "finish_reason"] == "length"


def test_tool_calls_and_other_endpoints_stand_there_as_json(tmp_path):
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    vectors = {
        "object": "list",
        "data": [{"embedding": [0.5, 1.0]}],
        "model": "m",
        "usage": {"prompt_tokens": 3},
    }
    out = written(
        tmp_path / "out.jsonl",
        answered("t", reply(None, "tool_calls", tool_calls=calls)),
        answered("e", vectors),
    )
    read = pandas_llm.read_batch_output(out)
    assert json.loads(read.loc[0, "content"]) == calls
    assert json.loads(read.loc[1, "content"]) == vectors
    assert (read.loc[1, "model"], read.loc[1, "input_tokens"]) == ("m", 3)
    assert read["error"].isna().all()


def test_output_of_vllm_is_read_too(tmp_path):
    good = {
        "id": "vllm-1",
        "custom_id": "request-1",
        "response": {
            "status_code": 200,
            "request_id": "vllm-batch-1",
            "body": {**reply(), "prompt_logprobs": None},
        },
        "error": None,
    }
    message = {
        "object": "error",
        "message": "The model does not exist.",
        "type": "NotFoundError",
        "code": 404,
    }
    bad = {
        "id": "vllm-2",
        "custom_id": "request-2",
        "response": {"status_code": 404, "request_id": "vllm-batch-2"},
        "error": message,
    }
    read = pandas_llm.read_batch_output(written(tmp_path / "out.jsonl", good, bad))
    assert read["content"].tolist()[0] == "bug"
    assert "does not exist" in read.loc[1, "error"]
    assert read["status"].tolist() == [200, 404]


def test_lines_that_cannot_be_read_are_rows_where_they_say_whose_they_are_and_are_counted_else(tmp_path):
    cut = json.dumps(answered("cut")).encode()[:-20]
    out = written(tmp_path / "out.jsonl", answered("a"), cut, b"oops", b"[1]", b"", b"  \r", b"\xef\xbb\xbf")
    with pytest.warns(LLMWarning, match=r"out\.jsonl': [23] lines can't be read and name no custom_id"):
        read = pandas_llm.read_batch_output(out)
    assert read["custom_id"].tolist() == ["a", "cut"]
    assert read.loc[1, "error"].startswith("BatchError")


def test_windows_line_ends_and_half_characters_are_read(tmp_path):
    half = json.dumps(answered("half", reply("\ud83d!"))).encode() + b"\r"
    read = pandas_llm.read_batch_output(written(tmp_path / "out.jsonl", half))
    assert read["content"].tolist() == ["\ufffd!"]


def test_a_large_file_is_not_held_as_objects(tmp_path):
    body = reply("yes")
    body["choices"][0]["message"]["padding"] = "x" * 2_000
    lines = [json.dumps(answered(f"{n:032x}", body)).encode() for n in range(3_000)]
    path = written(tmp_path / "out.jsonl", *lines)
    size = path.stat().st_size
    pandas_llm.read_batch_output(written(tmp_path / "one.jsonl", lines[0]))
    tracemalloc.start()
    read = pandas_llm.read_batch_output(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read) == 3_000
    assert peak < size / 2
