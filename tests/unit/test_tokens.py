"""Tokens: estimates that say how sure they are, exact counts where a tokeniser's file is at hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.tokens import (
    admission_tokens,
    estimate,
    expected_output,
    max_output,
    range_of,
    tokens_in,
)
from pandas_llm.io.encoding import FILES, EncodingFile, counter, encoder_for, on_disk


def by_words(text: str) -> int:
    return len(text.split())


@given(st.text())
def test_an_estimate_lies_between_a_quarter_of_the_characters_and_the_bytes(text: str):
    size = len(text.encode())
    assert len(text) / 4 <= tokens_in(text) <= size


def test_other_scripts_take_more_tokens_a_character():
    assert tokens_in("a" * 400) == 100
    assert tokens_in("ж" * 300) == 175
    assert tokens_in("字" * 300) == 275


def test_a_lone_surrogate_is_counted_and_not_raised_on():
    assert tokens_in("\ud800") == 1


def test_a_tokeniser_counts_exactly():
    assert tokens_in("one two three", by_words) == 3
    assert estimate(["one two", "three"], by_words) == (3, 3)


def test_an_estimate_says_so_by_its_range():
    assert estimate(["a" * 400, "b" * 400]) == (140, 300)
    assert range_of(100, exact=False) == (70, 150)
    assert range_of(100, exact=True) == (100, 100)


LABELS = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["bug", "a question of the customer"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def test_a_label_takes_between_its_shortest_and_its_longest():
    low, high = expected_output(LABELS, {})
    assert 3 <= low < high <= 16


def test_the_cap_in_params_is_the_high_end():
    assert expected_output(LABELS, {"max_completion_tokens": 500})[1] == 500
    assert expected_output(None, {"max_tokens": 5}) == (5, 5)
    assert max_output({"max_tokens": 5, "max_completion_tokens": 7}) == 7
    assert max_output({"max_tokens": None}) is None


def test_an_explanation_before_the_label_raises_both_ends():
    explained = {**LABELS, "properties": {"explanation": {"type": "string"}, **LABELS["properties"]}}
    assert expected_output(explained, {})[1] > expected_output(LABELS, {})[1] + 50


def test_thinking_is_billed_too():
    assert expected_output(LABELS, {"reasoning_effort": "high"})[1] > 8_000
    assert expected_output(LABELS, {"reasoning_effort": "none"}) == expected_output(LABELS, {})


def test_every_kind_of_schema_has_a_range():
    schema = {
        "type": "object",
        "properties": {
            "total": {"type": ["number", "null"]},
            "paid": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
            "code": {"type": "string", "maxLength": 4},
            "kind": {"const": "invoice"},
        },
        "$defs": {"Item": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    low, high = expected_output(schema, {})
    assert 0 < low < high


def test_a_schema_that_refers_to_itself_ends():
    node = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Node"}}}
    assert expected_output({"$ref": "#/$defs/Node", "$defs": {"Node": node}}, {})[1] < 1_000


def test_free_text_has_a_wide_range():
    low, high = expected_output(None, {})
    assert high > 10 * low


def test_a_limit_counts_the_whole_cap_however_short_the_answer():
    assert admission_tokens(200, {}, 10) == 210
    assert admission_tokens(200, {"max_completion_tokens": 4_000}, 10) == 4_000
    assert admission_tokens(200, {"max_completion_tokens": 50}, 10) == 210


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def put(folder: Path, file: EncodingFile, content: bytes) -> Path:
    path = folder / hashlib.sha1(file.url.encode()).hexdigest()
    path.write_bytes(content)
    return path


def test_without_its_file_a_tokeniser_is_not_used(folder: Path):
    assert encoder_for("gpt-4o-mini") is None
    assert list(folder.iterdir()) == []


def test_a_file_that_is_not_the_right_one_is_left_alone(folder: Path):
    path = put(folder, FILES["o200k_base"], b"IQ== 0\n")
    assert encoder_for("gpt-6-luna") is None
    assert path.read_bytes() == b"IQ== 0\n"


def test_the_right_file_is_found_under_tiktokens_name_for_it(folder: Path):
    content = b"IQ== 0\n"
    file = EncodingFile("https://example.org/tiny.tiktoken", hashlib.sha256(content).hexdigest())
    assert not on_disk(file)
    put(folder, file, content)
    assert on_disk(file)


def test_the_names_of_the_files_are_those_tiktoken_uses():
    names = {name: hashlib.sha1(file.url.encode()).hexdigest() for name, file in FILES.items()}
    assert names["o200k_base"] == "fb374d419588a4632f3f557e76b4b70aebbca790"
    assert names["cl100k_base"] == "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def test_an_older_variable_names_the_folder_too_and_an_empty_one_switches_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = b"IQ== 0\n"
    file = EncodingFile("https://example.org/tiny.tiktoken", hashlib.sha256(content).hexdigest())
    put(tmp_path, file, content)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path))
    assert on_disk(file)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert not on_disk(file)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "claude-3-haiku", "mistral-small", "local"])
def test_other_makers_models_have_no_tokeniser_here(model: str, folder: Path):
    assert encoder_for(model) is None


def test_special_tokens_in_a_text_are_text():
    import tiktoken

    tiny = tiktoken.Encoding(
        "tiny",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    assert counter(tiny)("<|endoftext|>") == 13
    assert counter(tiny)("ж") == 2
