"""Agreement with a gold standard: what counts, what it equals, how it reads."""

import math
import pickle
import re
from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import pytest

from pandas_llm.core.errors import OptionsError
from pandas_llm.evaluate import Evaluation, evaluate, wilson

LABELS = ["bug", "question", "praise"]


def answered(answers, gold, **more):
    return pd.DataFrame({"label": pd.Categorical(answers, categories=LABELS), "gold": gold, **more})


@pytest.fixture
def judged() -> Evaluation:
    # gold:   b b b b q q q p p p     8 of 10 right
    # answer: b b b q q q q p p b
    answers = ["bug"] * 3 + ["question"] * 4 + ["praise"] * 2 + ["bug"]
    gold = ["bug"] * 4 + ["question"] * 3 + ["praise"] * 3
    return evaluate(answered(answers, gold), "gold", "label")


def test_accuracy_is_the_share_of_right_answers(judged):
    assert (judged.accuracy, judged.n) == (0.8, 10)


def test_the_interval_is_wilsons(judged):
    # (0.8 + z²/20 ± z·sqrt(0.016 + z²/400)) / (1 + z²/10) with z = 1.959964
    assert judged.interval == pytest.approx((0.490162, 0.943318), abs=1e-6)


@pytest.mark.parametrize(("right", "n", "expected"), [(0, 10, (0.0, 0.277533)), (10, 10, (0.722467, 1.0))])
def test_the_interval_stays_within_0_and_1(right, n, expected):
    assert wilson(right, n) == pytest.approx(expected, abs=1e-6)


def test_kappa_is_cohens(judged):
    # chance: (4·4 + 3·4 + 3·2) / 100 = 0.34
    assert judged.kappa == pytest.approx((0.8 - 0.34) / (1 - 0.34))


def test_per_label_holds_support_precision_recall_and_f1(judged):
    table = judged.per_label
    assert table.index.tolist() == LABELS
    assert table["support"].tolist() == [4, 3, 3]
    assert table["precision"].tolist() == pytest.approx([3 / 4, 3 / 4, 1])
    assert table["recall"].tolist() == pytest.approx([3 / 4, 1, 2 / 3])
    assert table["f1"].tolist() == pytest.approx([6 / 8, 6 / 7, 4 / 5])
    assert judged.macro_f1 == pytest.approx((6 / 8 + 6 / 7 + 4 / 5) / 3)


def test_confusion_has_gold_in_rows_and_answers_in_columns_in_label_order(judged):
    table = judged.confusion
    assert table.index.tolist() == table.columns.tolist() == LABELS
    assert (table.index.name, table.columns.name) == ("gold", "answer")
    assert table.to_numpy().tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 2]]


def test_a_label_that_never_occurs_has_no_f1_and_doesnt_weigh_in_the_mean():
    result = evaluate(answered(["bug", "question"], ["bug", "bug"]), "gold", "label")
    f1 = result.per_label["f1"]
    assert f1["bug"] == pytest.approx(2 / 3)
    assert f1["question"] == 0
    assert math.isnan(f1["praise"])
    assert result.macro_f1 == pytest.approx(1 / 3)
    assert math.isnan(result.per_label.loc["question", "recall"])
    assert math.isnan(result.per_label.loc["praise", "precision"])


def test_labels_only_in_gold_come_after_the_categories_sorted():
    result = evaluate(answered(["bug", "bug", "praise"], ["zebra", "apple", "praise"]), "gold", "label")
    assert result.order == ("bug", "question", "praise", "apple", "zebra")
    assert result.confusion.loc["zebra", "bug"] == 1


def test_number_labels_are_sorted_by_value():
    frame = pd.DataFrame({"stars": [10, 9, 1], "gold": [10, 9, 1]})
    assert evaluate(frame, "gold", "stars").order == ("1", "9", "10")


class Stars(Enum):
    ONE = 1
    TWO = 2


@pytest.mark.parametrize(
    "gold",
    [
        pd.Series([1, 2, None]),
        pd.Series([1, 2, pd.NA], dtype="Int64"),
        pd.Series(["1", " 2 ", ""]),
        pd.Series(pd.Categorical([1, 2, None])),
        pd.Series([Decimal("1.0"), Decimal(2), None], dtype=object),
        [Stars.ONE, Stars.TWO, None],
        [np.int64(1), np.float32(2), math.nan],
        (1, 2, None),
        np.array([1.0, 2.0, np.nan]),
        pd.Index([1, 2, None]),
    ],
)
def test_gold_of_any_dtype_is_compared_as_text(gold):
    frame = pd.DataFrame({"stars": pd.Categorical([1, 2, 2], categories=[1, 2])})
    result = evaluate(frame, gold, "stars")
    assert (result.accuracy, result.n, result.left_out["no gold"]) == (1.0, 2, 1)


def test_booleans_and_dates_are_compared_as_text():
    flags = pd.DataFrame({"urgent": pd.array([True, False], dtype="boolean"), "gold": ["True", "False"]})
    assert evaluate(flags, "gold", "urgent").accuracy == 1
    days = pd.DataFrame({"day": pd.to_datetime(["2024-02-29", "2024-03-01"]), "gold": ["2024-02-29", "x"]})
    assert evaluate(days, "gold", "day").accuracy == 0.5


def test_labels_that_differ_in_case_are_different():
    assert evaluate(answered(["bug"], ["Bug"]), "gold", "label").accuracy == 0


def test_rows_without_gold_or_among_the_examples_are_left_out_and_counted():
    frame = answered(["bug", "bug", "praise", "praise"], ["bug", None, "bug", None])
    texts = ["a", "b", "c", None]
    result = evaluate(frame, "gold", "label", texts=texts, example_texts=frozenset({"c"}))
    assert (result.accuracy, result.n) == (1.0, 1)
    assert dict(result.left_out) == {"no gold": 2, "example": 1}


def test_a_row_without_an_answer_counts_against_coverage_only():
    result = evaluate(answered(["bug", None, "bug", None], ["bug", "bug", "praise", None]), "gold", "label")
    assert (result.accuracy, result.n, result.unanswered) == (0.5, 2, 1)
    assert result.coverage == pytest.approx(2 / 3)


def test_a_label_whose_rows_all_lack_an_answer_is_still_listed():
    frame = pd.DataFrame({"label": ["bug", None], "gold": ["bug", "threat"]})
    result = evaluate(frame, "gold", "label")
    assert result.per_label.loc["threat", "support"] == 0
    assert result.macro_f1 == 1


def test_cost_per_right_label_divides_the_whole_bill_by_the_right_answers():
    frame = answered(
        ["bug", "praise", None, "bug"], ["bug", "bug", "bug", None], label_cost=[1.0, 2.0, 3.0, 9.0]
    )
    assert evaluate(frame, "gold", "label").cost_per_right_label == 6.0


def test_an_unknown_cost_is_nan():
    frame = answered(["bug", "bug"], ["bug", "bug"], label_cost=[1.0, math.nan])
    assert math.isnan(evaluate(frame, "gold", "label").cost_per_right_label)
    assert math.isnan(evaluate(frame.drop(columns="label_cost"), "gold", "label").cost_per_right_label)
    assert evaluate(frame.assign(paid=2.0), "gold", "label", cost_column="paid").cost_per_right_label == 2.0


@pytest.mark.parametrize("frame", [answered([], []), answered([None], ["bug"]), answered(["bug"], [None])])
def test_nothing_to_judge_gives_nan(frame):
    result = evaluate(frame, "gold", "label")
    assert result.n == 0
    undefined = (
        result.accuracy,
        *result.interval,
        result.macro_f1,
        result.kappa,
        result.cost_per_right_label,
    )
    assert all(map(math.isnan, undefined))
    assert "n = 0" in repr(result)
    assert "n = 0" in result._repr_html_()


def test_one_label_everywhere_has_no_kappa():
    result = evaluate(answered(["bug"] * 3, ["bug"] * 3), "gold", "label")
    assert (result.accuracy, result.macro_f1) == (1, 1)
    assert math.isnan(result.kappa)


# --- Lists of labels ----------------------------------------------------------------------------------


def several(answers, gold):
    return evaluate(pd.DataFrame({"tags": pd.Series(answers, dtype=object)}), gold, "tags")


def test_lists_are_right_when_they_are_the_same_set():
    result = several([["a", "b"], ["a"], [], None, ["c"]], [["b", "a"], ["a", "b"], [], ["a"], None])
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.n, result.unanswered, result.left_out["no gold"]) == (3, 1, 1)
    # a: gold 2, claimed 2, both 2; b: gold 2, claimed 1, both 1
    assert result.per_label["f1"].to_dict() == pytest.approx({"a": 1.0, "b": 2 / 3})
    assert result.macro_f1 == pytest.approx(5 / 6)


def test_lists_are_shown_as_json_in_the_confusions():
    result = several([["a"], ["b", "a"]], [["a", "b"], ["a", "b"]])
    assert result.confusion.loc['["a", "b"]'].to_dict() == {'["a"]': 1, '["a", "b"]': 1}


@pytest.mark.parametrize("gold", [["a"], ['["a"]'], [("a",)], [np.array(["a"])], [{"a"}]])
def test_gold_for_lists_may_be_one_label_a_json_text_or_any_list(gold):
    assert several([["a"]], pd.Series(gold, dtype=object)).accuracy == 1


def test_a_label_that_begins_with_a_bracket_is_a_label():
    assert several([["[sic"]], ["[sic"]).accuracy == 1


# --- Where gold comes from ----------------------------------------------------------------------------


def test_a_series_of_the_same_index_is_matched_by_position_even_if_it_repeats():
    frame = answered(["bug", "praise"], ["", ""]).set_axis([7, 7])
    assert evaluate(frame, pd.Series(["bug", "praise"], index=[7, 7]), "label").accuracy == 1


def test_a_series_in_another_order_is_matched_by_label():
    frame = answered(["bug", "praise", "question"], "").set_axis(["x", "y", "z"])
    gold = pd.Series(["question", "bug", "praise"], index=["z", "x", "y"])
    assert evaluate(frame, gold, "label").accuracy == 1


def test_gold_for_a_part_of_the_rows_and_rows_that_are_a_part_of_gold():
    frame = answered(["bug", "praise", "question"], "").set_axis(["x", "y", "z"])
    part = evaluate(frame, pd.Series(["praise"], index=["y"]), "label")
    assert (part.accuracy, part.n, part.left_out["no gold"]) == (1, 1, 2)
    whole = pd.Series(["question", "bug", "praise"], index=["z", "x", "y"])
    assert evaluate(frame.iloc[1:], whole, "label").n == 2


def test_a_series_with_a_repeated_index_in_another_order_is_refused():
    frame = answered(["bug", "praise"], "").set_axis(["x", "x"])
    with pytest.raises(OptionsError, match="frame's index repeats 'x'"):
        evaluate(frame, pd.Series(["bug", "praise"]), "label")
    with pytest.raises(OptionsError, match="gold's index repeats '5'"):
        evaluate(frame.set_axis([5, 6]), pd.Series(["bug", "praise"], index=[5, 5]), "label")


def test_a_series_with_a_foreign_index_is_refused():
    frame = answered(["bug", "praise"], "").set_axis([1, 2])
    with pytest.raises(OptionsError, match="shares 1 of its 2 index labels"):
        evaluate(frame, pd.Series(["bug", "praise"]), "label")


def test_a_list_of_another_length_is_refused():
    with pytest.raises(OptionsError, match="gold has 1 entries and the frame 2 rows"):
        evaluate(answered(["bug", "bug"], ""), ["bug"], "label")


@pytest.mark.parametrize("gold", [{"bug"}, {"a": "bug"}, pd.DataFrame({"a": ["bug"]})])
def test_what_has_no_order_of_rows_is_refused(gold):
    with pytest.raises(OptionsError, match=f"got a {type(gold).__name__}"):
        evaluate(answered(["bug"], ""), gold, "label")


def test_a_missing_column_is_answered_with_the_nearest_name():
    with pytest.raises(OptionsError, match=r"no column 'glod'\. Did you mean 'gold'\?"):
        evaluate(answered(["bug"], ["bug"]), "glod", "label")
    with pytest.raises(OptionsError, match=r"no column 'xyz'\. The columns are label, gold"):
        evaluate(answered(["bug"], ["bug"]), "xyz", "label")


def test_a_repeated_column_is_refused():
    frame = answered(["bug"], ["bug"]).set_axis(["gold", "gold"], axis=1)
    with pytest.raises(OptionsError, match="2 columns are named 'gold'"):
        evaluate(frame, "gold", "gold")


def test_columns_of_several_levels_are_found_by_tuple_or_by_their_first_name():
    columns = pd.MultiIndex.from_tuples([("label", ""), ("label_cost", ""), ("hand", "first")])
    frame = pd.DataFrame([["bug", 0.5, "bug"], ["bug", 0.5, "praise"]], columns=columns)
    result = evaluate(frame, ("hand", "first"), "label")
    assert (result.accuracy, result.cost_per_right_label) == (0.5, 1.0)
    assert evaluate(frame, ("hand", "first"), ("label", "")).output == "label"


# --- How it reads -------------------------------------------------------------------------------------


def test_the_text_report_is_aligned():
    frame = answered(
        ["bug", "bug", "praise", None], ["bug", "question", "praise", "bug"], label_cost=[0.00002] * 4
    )
    assert repr(evaluate(frame, "gold", "label")).splitlines() == [
        "label against gold: accuracy 0.667 (95 % 0.208 to 0.939), n = 3",
        "",
        "  macro F1              0.556",
        "  Cohen's kappa         0.500",
        "  coverage              0.750 (1 of 4 without an answer)",
        "  cost per right label  $0.000040",
        "  left out              none",
        "",
        "By label",
        "label     support  precision  recall     f1",
        "bug             1      0.500   1.000  0.667",
        "question        1          –   0.000  0.000",
        "praise          1      1.000   1.000  1.000",
        "",
        "Confusion: gold in rows, answers in columns",
        "gold \\ answer  bug  question  praise",
        "bug              1         0       0",
        "question         1         0       0",
        "praise           0         0       1",
    ]


def test_many_labels_show_the_worst_and_the_most_frequent_confusions():
    gold = [f"l{i:02}" for i in range(30)]
    answers = ["l00", "l00", "l00", *gold[3:]]
    text = repr(evaluate(pd.DataFrame({"a": answers * 2}), gold * 2, "a"))
    assert "The 10 labels of lowest F1, of 30" in text
    assert "Most frequent confusions, of 2" in text
    assert re.search(r"^l01 +l00 +2$", text, re.MULTILINE)
    assert "gold \\ answer" not in text


def test_a_table_too_wide_for_a_terminal_becomes_a_list():
    labels = [letter * 30 for letter in "abcd"]
    result = evaluate(pd.DataFrame({"a": labels}), [*labels[1:], labels[0]], "a")
    assert all(len(line) <= 100 for line in repr(result).splitlines())
    assert "gold <span>\\</span> answer" in result._repr_html_()


def test_the_report_doesnt_depend_on_the_order_of_rows():
    frame = answered(["bug", "praise", "question", "bug"], ["praise", "bug", "bug", "x"])
    assert repr(evaluate(frame, "gold", "label")) == repr(evaluate(frame[::-1], "gold", "label"))


def test_html_escapes_labels_and_keeps_dollars_out_of_formulas():
    result = evaluate(pd.DataFrame({"a": ["<b>$5"], "a_cost": [0.5]}), ["<b>$5"], "a")
    page = result._repr_html_()
    assert "&lt;b&gt;<span>$</span>5" in page
    assert "<span>$</span>0.50" in page
    assert "$" not in page.replace("<span>$</span>", "")
    assert "<style" not in page
    assert "<script" not in page


def test_long_and_many_line_labels_take_one_short_line():
    result = evaluate(pd.DataFrame({"a": ["x\n" * 100]}), ["y"], "a")
    assert max(map(len, repr(result).splitlines())) <= 100


def test_wide_characters_are_aligned():
    frame = pd.DataFrame({"a": ["故障", "ok"]})
    lines = repr(evaluate(frame, ["故障", "ok"], "a")).splitlines()
    start = lines.index("By label")
    assert lines[start + 2 : start + 4] == [
        "ok           1      1.000   1.000  1.000",
        "故障         1      1.000   1.000  1.000",
    ]


def test_an_evaluation_is_a_value_that_pickles(judged):
    with pytest.raises(AttributeError):
        judged.n = 3
    assert repr(pickle.loads(pickle.dumps(judged))) == repr(judged)
