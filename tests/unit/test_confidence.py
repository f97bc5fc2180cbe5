"""Confidence: p(answer) over all labels, read from the tokens of the reply."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.confidence import confidence


def token(
    text: str | bytes, p: float = 1.0, others: dict[str | bytes, float] | None = None
) -> dict[str, Any]:
    """A token as a chat completion reports it: with its bytes, and with the likeliest in its place."""

    def one(piece: str | bytes, q: float) -> dict[str, Any]:
        raw = piece if isinstance(piece, bytes) else piece.encode()
        return {
            "token": raw.decode(errors="replace"),
            "bytes": list(raw),
            "logprob": math.log(q) if q else -9999.0,
        }

    return one(text, p) | {"top_logprobs": [one(t, q) for t, q in {text: p, **(others or {})}.items()]}


def sure(tokens: list[dict[str, Any]], labels, answer) -> float | None:
    content = b"".join(bytes(t["bytes"]) for t in tokens).decode()
    return confidence(content, tokens, labels, answer)


HEAD = [token('{"'), token("label"), token('":'), token(' "')]
TAIL = [token('"}')]
LABELS = ("bug", "question", "praise")


def test_the_answer_stands_against_the_other_labels():
    assert sure([*HEAD, token("bug", 0.8, {"question": 0.1}), *TAIL], LABELS, "bug") == pytest.approx(8 / 9)


def test_what_is_no_label_does_not_count():
    tokens = [*HEAD, token("bug", 0.6, {"question": 0.2, "banana": 0.2}), *TAIL]
    assert sure(tokens, LABELS, "bug") == pytest.approx(0.75)


def test_what_is_not_listed_counts_nothing():
    assert sure([*HEAD, token("bug", 0.3), *TAIL], LABELS, "bug") == 1.0


def test_an_answer_that_was_not_the_likeliest_says_so():
    tokens = [*HEAD, token("bug", 0.2, {"question": 0.8}), *TAIL]
    assert sure(tokens, LABELS, "bug") == pytest.approx(0.2)


def test_the_structure_around_the_label_does_not_count():
    head = [
        token('{"', 0.5, {"{": 0.5}),
        token("label", 0.5, {"other": 0.5}),
        token('": "', 0.5, {'":"': 0.5}),
    ]
    tail = [token('"', 0.5, {'",': 0.5}), token("}", 0.5, {"\n": 0.5})]
    tokens = [*head, token("bug", 0.8, {"question": 0.1}), *tail]
    assert sure(tokens, LABELS, "bug") == pytest.approx(8 / 9)


def test_several_pieces_of_one_other_label_add_up():
    tokens = [*HEAD, token("bug", 0.6, {"question": 0.2, "que": 0.1, "q": 0.1}), *TAIL]
    assert sure(tokens, LABELS, "bug") == pytest.approx(0.6)


def test_several_pieces_of_the_answer_add_up():
    tokens = [*HEAD, token("bug", 0.6, {"question": 0.2, "bu": 0.1, "b": 0.1}), *TAIL]
    assert sure(tokens, LABELS, "bug") == pytest.approx(0.8)


def test_a_piece_shared_by_other_labels_counts_once():
    labels = ("bug", "positive", "possible")
    tokens = [*HEAD, token("bug", 0.6, {"pos": 0.3}), *TAIL]
    assert sure(tokens, labels, "bug") == pytest.approx(2 / 3)


def test_labels_with_a_shared_beginning_differ_where_they_part():
    labels = ("positive", "possible", "negative")
    tokens = [
        *HEAD,
        token("pos", 0.9, {"neg": 0.1}),
        token("itive", 0.7, {"sible": 0.2, "ted": 0.1}),
        *TAIL,
    ]
    mine = 0.9 * 0.7
    assert sure(tokens, labels, "positive") == pytest.approx(mine / (mine + 0.1 + 0.9 * 0.2))


def test_a_beginning_that_all_labels_share_does_not_count():
    labels = ("class A", "class B")
    tokens = [*HEAD, token("class", 0.4, {"Class": 0.6}), token(" A", 0.8, {" B": 0.2}), *TAIL]
    assert sure(tokens, labels, "class A") == pytest.approx(0.8)


def test_all_tokens_of_the_answer_count_from_where_labels_differ():
    tokens = [*HEAD, token("qu", 0.8, {"bug": 0.2}), token("estion", 0.5, {"iz": 0.5}), *TAIL]
    assert sure(tokens, LABELS, "question") == pytest.approx(0.4 / 0.6)


def test_a_label_that_is_the_beginning_of_another_is_told_by_what_follows():
    labels = ("bug", "bug report", "praise")
    short = [*HEAD, token("bug", 0.9, {"praise": 0.1}), token('"}', 0.6, {" report": 0.4})]
    assert sure(short, labels, "bug") == pytest.approx(0.54 / (0.54 + 0.1 + 0.36))
    long = [*HEAD, token("bug", 0.9, {"praise": 0.1}), token(" report", 0.4, {'"}': 0.6}), *TAIL]
    assert sure(long, labels, "bug report") == pytest.approx(0.36 / (0.54 + 0.1 + 0.36))


@pytest.mark.parametrize(
    "tokens",
    [
        [token('{"label":"'), token("bug", 0.8, {"question": 0.1}), token('"}')],
        [token('{"label":'), token('"bug', 0.8, {'"question': 0.1}), token('"}')],
        [token('{"label": "'), token('bug"}', 0.8, {'question"}': 0.1})],
        [token('{"label":'), token(' "bug"}', 0.8, {' "question"}': 0.1})],
        [token('{"label":'), token(' "bug"}', 0.8, {'"question"}': 0.1})],
        [token('{"label": "bug"}', 0.8, {'{"label": "question"}': 0.1})],
        [token('{\n  "label":'), token(' "'), token("bug", 0.8, {"question": 0.1}), token('"\n}\n')],
    ],
)
def test_tokens_may_begin_before_the_label_and_end_after_it(tokens: list[dict[str, Any]]):
    assert sure(tokens, LABELS, "bug") == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    "explanation",
    [
        "It fails.",
        'They wrote "label": "question" themselves',
        "question",
        'a \\ and "}',
        "ünï 字 \U0001f600",
        "",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_explanation_before_the_label_changes_nothing(explanation: str, ascii_only: bool):
    head = json.dumps({"explanation": explanation}, ensure_ascii=ascii_only)[:-1] + ', "label": "'
    pieces = [token(head[:7], 0.5), token(head[7:], 0.5, {"question": 0.5})]
    tokens = [*pieces, token("bug", 0.8, {"question": 0.1}), *TAIL]
    assert sure(tokens, LABELS, "bug") == pytest.approx(8 / 9)


def test_a_label_may_stand_alone():
    assert sure([token("bug", 0.8, {"question": 0.1})], LABELS, "bug") == pytest.approx(8 / 9)
    assert sure([token(" bug", 0.8, {" question": 0.1}), token("\n")], LABELS, "bug") == pytest.approx(8 / 9)
    quoted = [token('"'), token("bug", 0.8, {"question": 0.1}), token('"')]
    assert sure(quoted, LABELS, "bug") == pytest.approx(8 / 9)


def test_numbers_are_labels_too():
    head = [token('{"label":'), token(" ")]
    tokens = [*head, token("1", 0.8, {"3": 0.1}), token("}", 0.75, {"2": 0.25})]
    assert sure(tokens, (1, 3), 1) == pytest.approx(8 / 9)
    assert sure(tokens, (1, 12, 3), 1) == pytest.approx(0.6 / (0.6 + 0.1 + 0.2))
    assert sure([token('{"label": '), token("-1", 0.5, {"1": 0.5}), token("}")], (-1, 1), -1) == 0.5


def test_numbers_may_be_written_as_text():
    tokens = [*HEAD, token("1", 0.8, {"2": 0.2}), *TAIL]
    assert sure(tokens, (1, 2), 1) == pytest.approx(0.8)


def test_labels_are_compared_as_json_writes_them():
    labels = ('say "hi"', "say \\o/", "señor")
    tokens = [*HEAD, token("say ", 0.9, {"señor": 0.1}), token('\\"', 0.5, {"\\\\": 0.5}), token('hi\\""}')]
    assert sure(tokens, labels, 'say "hi"') == pytest.approx(0.45)
    escaped = [*HEAD, token("se\\u00f1or", 0.6, {"señor": 0.2, "say": 0.2}), *TAIL]
    assert sure(escaped, labels, "señor") == pytest.approx(0.8)
    backslash = [*HEAD, token("say \\\\o/", 0.6, {"señor": 0.4}), *TAIL]
    assert sure(backslash, labels, "say \\o/") == pytest.approx(0.6)


def test_a_character_may_be_cut_in_two_by_tokens():
    first, second = "字".encode()[:1], "字".encode()[1:]
    other = "孔".encode()[1:]
    tokens = [*HEAD, token(first), token(second, 0.75, {other: 0.25}), *TAIL]
    assert sure(tokens, ("字", "孔"), "字") == pytest.approx(0.75)


def test_tokens_without_bytes_are_read_by_their_text():
    tokens = [
        {key: value for key, value in t.items() if key != "bytes"}
        for t in [*HEAD, token("bug", 0.8, {"question": 0.1}), *TAIL]
    ]
    for t in tokens:
        t["top_logprobs"] = [
            {"token": o["token"], "logprob": o["logprob"], "bytes": None} for o in t["top_logprobs"]
        ]
    assert confidence('{"label": "bug"}', tokens, LABELS, "bug") == pytest.approx(8 / 9)


def test_without_log_probabilities_there_is_no_confidence():
    assert confidence('{"label": "bug"}', [], LABELS, "bug") is None
    bare = [{**t, "top_logprobs": []} for t in [*HEAD, token("bug"), *TAIL]]
    assert sure(bare, LABELS, "bug") is None
    unknown = [{**t, "logprob": None} for t in [*HEAD, token("bug"), *TAIL]]
    assert sure(unknown, LABELS, "bug") is None


def test_log_probabilities_of_another_text_are_not_used():
    tokens = [*HEAD, token("bug", 0.8, {"question": 0.1}), *TAIL]
    assert confidence('{"label": "question"}', tokens, LABELS, "question") is None
    assert confidence('{"label": "bug"}', tokens[:-1], LABELS, "bug") is None
    assert confidence('{"label": "bug"}', tokens, LABELS, "praise") is None
    assert confidence('{"label": "bug"}', tokens, ("a", "b"), "bug") is None


@given(st.text(max_size=40))
def test_no_reply_raises(content: str):
    found = confidence(content, [token(content)] if content else [], ("a", "b", '"'), "a")
    assert found is None or 0.0 <= found <= 1.0


def test_a_label_without_any_probability_is_a_zero():
    assert sure([*HEAD, token("bug", 0.0, {"question": 1.0}), *TAIL], LABELS, "bug") == 0.0


# A small language model over single letters: every distribution is known, so every sum can be made by hand.
LETTERS = "abc"


@st.composite
def letter_models(draw: st.DrawFn) -> tuple[tuple[str, ...], str, dict[str, dict[str, float]]]:
    """Labels, one of them as the answer, and what follows each beginning with what probability."""
    labels = draw(st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=2, max_size=6, unique=True))
    beginnings = {label[:n] for label in labels for n in range(len(label) + 1)}
    model = {}
    for beginning in sorted(beginnings):
        weights = [draw(st.integers(1, 20)) for _ in range(len(LETTERS) + 1)]
        options = [*LETTERS, '"']
        model[beginning] = {o: w / sum(weights) for o, w in zip(options, weights, strict=True)}
    return tuple(labels), draw(st.sampled_from(labels)), model


def tokens_of(answer: str, model: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    tokens = [token('{"label": "')]
    for n in range(len(answer) + 1):
        spread, chosen = model[answer[:n]], (answer + '"')[n]
        tokens.append(token(chosen, spread[chosen], {o: p for o, p in spread.items() if o != chosen}))
    return [*tokens, token("}")]


@given(letter_models())
def test_it_is_the_sum_over_all_ways_that_leave_the_answers_path(case):
    labels, answer, model = case
    written = answer + '"'
    path, others, possible = 1.0, 0.0, len(labels)
    for n, chosen in enumerate(written):
        possible = sum((label + '"').startswith(written[:n]) for label in labels)
        if chosen == '"' and possible == 1:
            break  # the closing quote decides nothing more
        for other, p in model[written[:n]].items():
            leads = any((label + '"').startswith(written[:n] + other) for label in labels)
            others += path * p * (other != chosen and leads)
        path *= model[written[:n]][chosen]
    assert sure(tokens_of(answer, model), labels, answer) == pytest.approx(path / (path + others))


@given(letter_models(), st.integers(0, 10))
def test_where_tokens_are_cut_around_the_label_changes_nothing(case, cut: int):
    labels, answer, model = case
    opening, first, *rest = tokens_of(answer, model)
    head = '{"label": "'
    inside = head[cut:]
    spread = {inside + bytes(o["bytes"]).decode(): math.exp(o["logprob"]) for o in first["top_logprobs"]}
    chosen = inside + bytes(first["bytes"]).decode()
    joined = token(chosen, spread.pop(chosen), spread)
    tokens = [*([token(head[:cut])] if cut else []), joined, *rest]
    expected = sure([opening, first, *rest], labels, answer)
    assert sure(tokens, labels, answer) == pytest.approx(expected)
