"""What is sent beside the row, to the letter: a changed byte here buys every dataset again."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.errors import OptionsError, PromptError
from pandas_llm.core.prompts import (
    check_instructions,
    check_text,
    examples_block,
    examples_of,
    excerpt,
    fenced,
    format_note,
    is_missing,
    parse_examples,
    system_message,
)

TEXTS = st.text(st.characters(codec="utf-8"))


def test_a_text_stands_verbatim_between_two_equal_fence_lines():
    assert fenced(" a\nb ") == "```\n a\nb \n```"
    assert fenced("") == "```\n\n```"


def test_the_fence_grows_until_it_does_not_occur_in_the_text():
    assert fenced("x\n```\ny") == "````\nx\n```\ny\n````"
    assert fenced("`````") == "``````\n`````\n``````"


@given(st.text(st.sampled_from("`\na \r\u2028")))
def test_no_text_can_close_its_own_fence(text):
    message = fenced(text)
    fence, _, rest = message.partition("\n")
    assert rest == f"{text}\n{fence}"
    assert fence not in text


def test_an_excerpt_is_one_line_of_at_most_sixty_characters():
    assert excerpt("a\nb") == "'a\\nb'"
    assert excerpt("x" * 61) == repr("x" * 59 + "…")
    assert excerpt("\ud800") == "'\\ud800'"
    assert excerpt(3) == "3"
    assert len(excerpt(list(range(100)))) == 60


def test_none_nan_na_and_nat_are_missing_and_nothing_else_is():
    pd = pytest.importorskip("pandas")
    np = pytest.importorskip("numpy")
    missing = [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT]
    assert all(is_missing(value) for value in missing)
    assert not any(is_missing(value) for value in ["", "nan", 0, False, 1.5, [], np.int64(0)])


@pytest.mark.parametrize("instructions", ["Look at {title}.", "{ title }", '{"a": {title}}'])
def test_a_column_in_instructions_belongs_in_the_text(instructions):
    with pytest.raises(PromptError, match=r"'title' is a column.*belongs in text.*\{title\}"):
        check_instructions(instructions, ["title", "body"])


@pytest.mark.parametrize(
    "instructions",
    [None, "", "{}", '{"label": "title"}', "{other}", "{{title}}", "title", "{title.upper}", "{"],
)
def test_other_braces_in_instructions_are_fine(instructions):
    check_instructions(instructions, ["title", ("a", "b"), 3])


def test_columns_of_any_label_are_found_in_instructions_by_their_text():
    with pytest.raises(PromptError):
        check_instructions("{3}", [3])


def test_the_system_message_puts_the_users_free_text_last():
    message = system_message("Do it.", "Labels:\n- 1", examples=[("a", "b")], instructions="Be\nbrief. ")
    assert message == 'Do it.\n\nLabels:\n- 1\n\nExamples:\n"a" -> "b"\n\nInstructions:\nBe\nbrief. '


def test_what_is_not_given_leaves_no_trace_in_the_system_message():
    assert system_message("Do it.") == system_message("Do it.", examples=(), instructions="") == "Do it."


def test_instructions_that_no_server_takes_are_refused():
    with pytest.raises(OptionsError, match=r"instructions must be text; got a list"):
        system_message("", instructions=["be brief"])  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match=r"instructions holds half a character .* position 2"):
        system_message("", instructions="ab\ud83d")


def test_letters_of_all_scripts_are_sent_as_they_are():
    assert examples_block([("größer 漢字", "日本")]) == 'Examples:\n"größer 漢字" -> "日本"'


@given(st.lists(st.tuples(TEXTS, TEXTS | st.integers() | st.lists(TEXTS)), min_size=1), TEXTS)
def test_examples_are_read_back_whatever_they_hold_and_whatever_follows(examples, after):
    assert parse_examples(f"{examples_block(examples)}\n\nInstructions:\n{after}") == examples


def test_where_no_examples_stand_none_are_read():
    assert parse_examples('Instructions:\nExamples:\n"a" -> "b"') == []


def test_numbers_become_texts_as_cells_do():
    np = pytest.importorskip("numpy")
    found = examples_of([(3, "a"), (1.5, "a"), (True, "a"), (np.int64(7), "a"), ["x", "a"]], str)
    assert [text for text, _ in found] == ["3", "1.5", "True", "7", "x"]


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        ({"text": "label"}, r"write list\(examples.items\(\)\)"),
        ("text", "list of .input, output. pairs or a DataFrame; got str"),
        (["text"], "Example 1 is not an .input, output. pair: it is a str"),
        ([("a", "b"), ("a", "b", "c")], "Example 2 is not"),
        ([(None, "b")], "Example 1: its input is missing"),
        ([(math.nan, "b")], "Example 1: its input is missing"),
        ([({"a": 1}, "b")], "Example 1: its input is a dict"),
        ([("\ud800", "b")], "Example 1: its input holds half a character"),
    ],
)
def test_an_example_that_is_no_pair_of_texts_says_which_and_why(examples, says):
    with pytest.raises(OptionsError, match=says):
        examples_of(examples, str)


def test_an_output_that_is_refused_names_its_example():
    with pytest.raises(OptionsError, match="Example 1: its output must be text; got a int"):
        examples_of([("a", 3)], lambda output: check_text(output, "its output"))


def test_no_examples_are_no_examples():
    assert examples_of(None, str) == examples_of([], str) == ()


def test_the_note_for_endpoints_without_schemas_names_the_keys_and_gives_the_schema():
    schema = {"type": "object", "properties": {"explanation": {}, "größe": {}}, "required": []}
    note = format_note(schema)
    assert "JSON object and nothing else" in note
    assert 'exactly "explanation", "größe", in this order' in note
    assert json.loads(note.split("\n")[-1]) == schema
