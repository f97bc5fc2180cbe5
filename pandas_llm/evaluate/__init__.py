"""Agreement of answers with a gold standard: accuracy and its interval, F1, kappa, confusions, cost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pandas_llm.evaluate import gold as cells
from pandas_llm.evaluate.calibration import ece_of, reliability_of
from pandas_llm.evaluate.gold import Answer
from pandas_llm.evaluate.report import as_html, as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Z = 1.959963984540054  # the normal quantile that leaves 2.5 % on each side


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """How well an output agrees with a gold standard; printed, it is a report.

    Rows with gold and an answer are *judged*; accuracy, F1 and kappa are theirs. A row with gold
    and without an answer lowers `coverage` and nothing else. What isn't defined is NaN.
    """

    output: str
    """The column that was judged."""
    n: int
    """Rows judged."""
    unanswered: int
    """Rows with gold and without an answer."""
    left_out: Mapping[str, int]
    """Rows that don't count: `{"no gold": …, "example": …}`."""
    accuracy: float
    """Share of judged rows whose answer is the gold; of lists, the whole list."""
    interval: tuple[float, float]
    """95 % score interval of the accuracy (Wilson 1927)."""
    macro_f1: float
    """Unweighted mean F1 of the labels that occur among judged rows."""
    kappa: float
    """Agreement beyond chance (Cohen 1960); NaN where chance alone agrees always."""
    coverage: float
    """Share of rows with gold that have an answer."""
    cost_per_right_label: float
    """USD paid for the rows with gold, in whichever run, divided by the right answers; NaN where unknown."""
    per_label: pd.DataFrame
    """Index: label; columns `support` (judged rows of this gold), `precision`, `recall`, `f1`."""
    order: tuple[str, ...]
    """The labels of `confusion`, in its order."""
    pairs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(gold, answer) to rows: `confusion` without its zeros, most frequent first."""
    reliability: pd.DataFrame | None = None
    """Judged rows by confidence: index `bin` (ten of equal width), columns `rows`, and the mean `confidence`
    and `accuracy` of these; None without a column `"{output}_confidence"`."""

    @property
    def confusion(self) -> pd.DataFrame:
        """Judged rows by gold (index) and answer (columns), in label order; lists of labels as JSON."""
        place = {label: i for i, label in enumerate(self.order)}
        table = np.zeros((len(place), len(place)), dtype=np.int64)
        for (gold, answer), count in self.pairs.items():
            table[place[gold], place[answer]] = count
        names = list(self.order)
        return pd.DataFrame(table, index=pd.Index(names, name="gold"), columns=pd.Index(names, name="answer"))

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al. 2017): the mean |accuracy - confidence|; NaN without one."""
        return ece_of(self.reliability)

    def plot(self) -> Figure:
        """The confusion matrix and, where answers have a confidence, the reliability curve.

        Returns
        -------
        matplotlib.figure.Figure
            Any notebook shows it; in a script, `.savefig(path)` writes it.

            - Rows by gold and answer, coloured by their share of the gold label's. Of more than 100 labels,
              the most frequent ones.
            - Accuracy by confidence, in ten bins of equal width, with the number of rows in each. On the
              diagonal a confidence of 0.8 is right in 80 % of the rows; below it, it says too much. `.ece`
              is the mean distance.

        Raises
        ------
        OptionsError
            matplotlib isn't installed: `pip install 'pandas-llm-accessor[plot]'`.

        Notes
        -----
        C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), "On calibration of modern neural networks", ICML.

        Examples
        --------
        >>> frame = pd.DataFrame({"hand": ["a", "b"], "label": ["a", "a"], "label_confidence": [0.9, 0.6]})
        >>> figure = evaluate(frame, "hand", "label").plot()
        >>> len(figure.axes) > 1
        True
        """
        from pandas_llm.evaluate.drawing import draw

        return draw(self)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def evaluate(
    frame: pd.DataFrame,
    gold: Any,
    output: Any,
    *,
    example_texts: frozenset[str] = frozenset(),
    texts: Sequence[str | None] | None = None,
    cost_column: Any = None,
) -> Evaluation:
    """The agreement of column `output` with `gold`.

    Both are compared as text, without white space around it: categories by value, `1`, `1.0` and `"1"`
    alike, `True` as `"True"`, dates in ISO 8601. Where cells are lists of labels, an answer is right
    when it is the same set; a gold text that is a JSON list, as a CSV file holds it, counts as that list.

    Parameters
    ----------
    frame
        Holds the answers.
    gold
        A column of `frame`; a list or an array with one entry a row; or a Series, matched by position
        where its index is that of `frame`, else by index label, for which both indexes must be unique
        and one must hold all labels of the other.
    output
        The column to judge.
    example_texts, texts
        Rows whose entry in `texts` is among `example_texts` are left out: the model was told their answer.
    cost_column
        USD per row: a column, or a list with one entry a row; None: `"{output}_cost"`, if there. In a column
        of ours, rows answered from the store were billed by an earlier run and bear 0.

    Returns
    -------
    Evaluation

    Raises
    ------
    OptionsError
        There is no such column, or `gold` can't be matched to the rows.

    Notes
    -----
    Interval: E. B. Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", JASA 22. Kappa: J. Cohen (1960), "A coefficient of agreement for nominal scales",
    Educational and Psychological Measurement 20.

    Examples
    --------
    >>> frame = pd.DataFrame({"hand": ["a", "b", "b", None], "label": ["a", "b", "a", "b"]})
    >>> result = evaluate(frame, "hand", "label")
    >>> round(result.accuracy, 3), result.n, result.left_out["no gold"]
    (0.667, 3, 1)
    """
    column = cells.column_of(frame, output)
    truths, given = cells.gold_values(frame, gold), column.tolist()
    many = any(isinstance(value, cells.LISTS) for value in (*given, *truths))
    read = cells.as_set if many else cells.as_text
    golds, answers = [read(value) for value in truths], [read(value) for value in given]
    told = [text in example_texts for text in texts] if texts is not None else [False] * len(golds)
    usable = [gold is not None and not is_example for gold, is_example in zip(golds, told, strict=True)]
    rows = [(g, a) for g, a, use in zip(golds, answers, usable, strict=True) if use and g is not None]
    pairs: Counter[tuple[Answer, Answer]] = Counter((g, a) for g, a in rows if a is not None)
    right, n = sum(count for (g, a), count in pairs.items() if g == a), pairs.total()
    labels = _label_order(column, {answer for row in rows for answer in row if answer is not None})
    per_label = _per_label(labels, pairs)
    shown, order = _shown(labels, pairs, many=many)
    return Evaluation(
        output=cells.name_of(output),
        n=n,
        unanswered=len(rows) - n,
        left_out={"no gold": golds.count(None), "example": len(golds) - golds.count(None) - len(rows)},
        accuracy=_ratio(right, n),
        interval=wilson(right, n),
        macro_f1=float(per_label["f1"].mean()),  # labels that don't occur are NaN, which mean() passes over
        kappa=_kappa(pairs),
        coverage=_ratio(n, len(rows)),
        cost_per_right_label=_ratio(_cost(frame, output, cost_column, usable), right),
        per_label=per_label,
        order=order,
        pairs=shown,
        reliability=None if many else reliability_of(frame, output, _right(golds, answers, usable)),
    )


def _right(
    golds: Sequence[Answer | None], answers: Sequence[Answer | None], usable: Sequence[bool]
) -> list[bool | None]:
    """By row whether its answer is right; None where it isn't judged."""
    rows = zip(golds, answers, usable, strict=True)
    return [gold == answer if use and answer is not None else None for gold, answer, use in rows]


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); NaN for none of none."""
    if n == 0:
        return math.nan, math.nan
    share, z2 = right / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _kappa(pairs: Counter[tuple[Answer, Answer]]) -> float:
    n = pairs.total()
    golds: Counter[Answer] = Counter()
    answers: Counter[Answer] = Counter()
    for (gold, answer), count in pairs.items():
        golds[gold] += count
        answers[answer] += count
    agree = n * sum(count for (gold, answer), count in pairs.items() if gold == answer)
    chance = sum(count * answers[label] for label, count in golds.items())
    return _ratio(agree - chance, n * n - chance)  # in whole rows: 1 - 1 is 0, not 1e-17


def _per_label(labels: Sequence[str], pairs: Counter[tuple[Answer, Answer]]) -> pd.DataFrame:
    support: Counter[str] = Counter()
    claimed: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for (gold, answer), count in pairs.items():
        for label in _members(gold):
            support[label] += count
            hits[label] += count * (label in _members(answer))
        for label in _members(answer):
            claimed[label] += count
    columns = {
        "support": [support[label] for label in labels],
        "precision": [_ratio(hits[label], claimed[label]) for label in labels],
        "recall": [_ratio(hits[label], support[label]) for label in labels],
        "f1": [_ratio(2 * hits[label], support[label] + claimed[label]) for label in labels],
    }
    dtypes = {"support": "int64", "precision": "float64", "recall": "float64", "f1": "float64"}
    return pd.DataFrame(columns, index=pd.Index(list(labels), name="label")).astype(dtypes)


def _label_order(column: pd.Series[Any], seen: set[Answer]) -> tuple[str, ...]:
    """The output's categories as they stand, then whatever else was seen, sorted."""
    dtype = column.dtype
    known = [cells.as_text(c) for c in dtype.categories] if isinstance(dtype, pd.CategoricalDtype) else []
    ordered = dict.fromkeys(label for label in known if label is not None)
    others = {label for answer in seen for label in _members(answer)} - ordered.keys()
    return (*ordered, *sorted(others, key=_sort_key))


def _sort_key(label: str) -> tuple[bool, float, str]:
    try:
        number = float(label)
    except ValueError:
        return True, 0.0, label
    return math.isnan(number), 0.0 if math.isnan(number) else number, label


def _shown(
    labels: tuple[str, ...], pairs: Counter[tuple[Answer, Answer]], *, many: bool
) -> tuple[dict[tuple[str, str], int], tuple[str, ...]]:
    """The pairs as text, most frequent first, and the labels of their table in order."""
    if not many:
        texts: dict[Answer, str] = {label: label for label in labels}
    else:
        place = {label: i for i, label in enumerate(labels)}
        sets = {
            answer: sorted(place[label] for label in _members(answer)) for pair in pairs for answer in pair
        }
        texts = {
            answer: json.dumps([labels[i] for i in places], ensure_ascii=False)
            for answer, places in sorted(sets.items(), key=lambda item: (len(item[1]), item[1]))
        }
    rank = {text: i for i, text in enumerate(texts.values())}
    named = {(texts[gold], texts[answer]): count for (gold, answer), count in pairs.items()}
    # Rows in another order must give the same report, so equal counts stand in label order.
    ordered = sorted(named, key=lambda pair: (-named[pair], rank[pair[0]], rank[pair[1]]))
    return {pair: named[pair] for pair in ordered}, tuple(texts.values())


def _members(answer: Answer) -> frozenset[str]:
    return frozenset((answer,)) if isinstance(answer, str) else answer


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _cost(frame: pd.DataFrame, output: Any, cost_column: Any, usable: Sequence[bool]) -> float:
    if cost_column is None:
        cost_column = f"{output[0] if isinstance(output, tuple) else output}_cost"
        if len(cells.places_of(frame, cost_column)) != 1:
            return math.nan
    costs = pd.Series(cost_column) if isinstance(cost_column, list) else cells.column_of(frame, cost_column)
    billed = costs[list(usable)]
    return float(billed.astype("float64").sum(skipna=False))
