"""Figures of a run and of an evaluation: what they show, and that a notebook shows them, without pyplot."""

import importlib
import math
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import pandas_llm
from pandas_llm.core.course import Recorder
from pandas_llm.core.errors import OptionsError
from pandas_llm.display.summary import BLUE, GREEN
from pandas_llm.evaluate import evaluate
from pandas_llm.history import LastRun
from pandas_llm.history.drawing import quantile
from pandas_llm.reports.figure import literal
from pandas_llm.run.reuse import Report


def ran(*, api=0, batch=0, failed=0, seconds=10.0, price=0.01, **more) -> LastRun:
    """A run whose requests end evenly over its time; each reply took 0.4 s."""
    recorder, n = Recorder(), api + failed + batch
    for i, source in enumerate(["api"] * api + ["failed"] * failed + ["batch"] * batch):
        recorder.add(seconds * i / n, source, price / 2 if source == "batch" else price)
        if source == "api":
            recorder.replied(0.4)
    counted = {"api": api, "batch": batch, "failed": failed}
    facts = {
        "id": "r_41", "status": "done", "verb": "classify", "model": "gpt-6-luna", "snapshots": (), "rows": n,
        "sources": {name: many for name, many in counted.items() if many}, "errors": {}, "input_tokens": 300,
        "output_tokens": 30, "cost": price * (api + failed + batch / 2), "paid": n, "in_doubt": 0,
        "seconds": seconds, "course": recorder.course(),
    }  # fmt: skip
    return LastRun(**{**facts, **more})


def panels(run):
    """Progress, latency, cost, errors; the fifth is the speed, which shares the first one's place."""
    return run.plot().axes


def words(axes):
    """Everything that is said in a panel."""
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    said = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *ticks]
    return "\n".join(text.get_text() for text in said if text.get_text())


def bars(axes):
    """By tick, the width of its bar."""
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    return dict(zip(names, [patch.get_width() for patch in axes.patches], strict=True))


# A run ------------------------------------------------------------------------------------------------


def test_a_figure_has_four_panels_and_says_which_run():
    figure = ran(api=20).plot()
    assert isinstance(figure, Figure)
    assert [axes._left_title.get_text() for axes in figure.axes[:4]] == [
        *["20 requests ended in 10 s", "Latency of 20 replies", r"Cost by source: \$0.20", "Errors"]
    ]
    assert figure.get_suptitle() == "r_41 done · classify · gpt-6-luna · 20 rows"


def test_the_line_rises_to_all_requests_and_the_grey_adds_up_to_them():
    progress, *_, speed = panels(ran(api=200))
    (line,) = progress.lines
    assert line.get_xydata()[0].tolist() == [0, 0]
    assert line.get_ydata()[-1] == 200
    assert np.all(np.diff(line.get_ydata()) >= 0)
    rates, edges, _ = speed.patches[0].get_data()
    assert np.sum(rates * np.diff(edges)) == pytest.approx(200)
    assert "per second" in words(speed)
    assert len(rates) <= 60


def test_a_slow_run_is_drawn_in_minutes_or_hours_and_its_speed_per_minute():
    progress, *_, speed = panels(ran(api=50, seconds=600.0))
    assert "minutes" in words(progress)
    assert progress.get_xlim()[1] == pytest.approx(10, rel=0.01)
    assert "per minute" in words(speed)
    rates, edges, _ = speed.patches[0].get_data()
    assert np.sum(rates * np.diff(edges)) == pytest.approx(50)
    assert "hours" in words(panels(ran(api=50, seconds=30_000.0))[0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_run_of_few_requests_is_drawn(n):
    progress, latency, *_ = panels(ran(api=n, seconds=0.4))
    assert progress.lines[0].get_ydata()[-1] == n
    assert "p50 " in words(latency)


def test_the_latency_marks_its_median_and_95th_percentile_on_a_logarithmic_axis():
    recorder = Recorder()
    for latency in [0.1] * 60 + [0.5] * 30 + [3.0] * 10:
        recorder.replied(latency)
        recorder.add(1.0, "api", 0.01)
    _, axes, *_ = panels(ran(api=100, course=recorder.course()))
    assert axes.get_xscale() == "log"
    p50, p95 = (line.get_xdata()[0] for line in axes.lines)
    assert (p50, p95) == (pytest.approx(0.1, rel=0.13), pytest.approx(3.0, rel=0.13))
    counted, edges, _ = axes.patches[0].get_data()
    assert counted.sum() == 100
    assert edges[0] <= 0.1
    assert edges[-1] > 3.0
    assert "p95 3" in words(axes)
    assert {"100 ms", "300 ms", "1 s", "3 s"} <= set(words(axes).splitlines())


def test_a_percentile_is_the_bin_of_the_nearest_rank():
    assert quantile({0: 1, 20: 1}, 0.5) == pytest.approx(10 ** (0.5 / 20))
    assert quantile({0: 1, 20: 1}, 0.51) == pytest.approx(10 ** (20.5 / 20))
    assert quantile({-3: 1}, 0.95) == quantile({-3: 1}, 0.05)


def test_batch_answers_have_no_latency_and_the_panel_says_so():
    _, latency, cost, *_ = panels(ran(batch=500))
    assert "500 answers came by batch, which has no latency." in words(latency)
    assert latency.patches[0:] == []
    assert bars(cost) == {"batch (500)": pytest.approx(2.5)}
    _, latency, *_ = panels(ran(api=3, batch=500))
    assert "Latency of 3 replies" in words(latency)
    assert "500 answers came by batch" in words(latency)


def test_cost_is_drawn_by_source_and_what_was_not_spent_is_hatched():
    run = ran(api=100, failed=10, price=0.01)
    run = replace(run, rows=160, sources={**run.sources, "cache": 30, "duplicate": 20})
    _, _, cost, *_ = panels(run)
    assert bars(cost) == pytest.approx(
        {"api (100)": 1.0, "failed (10)": 0.1, "cache (30)": 0.3, "duplicate (20)": 0.2}
    )
    hatches = [patch.get_hatch() for patch in cost.patches]
    assert hatches[:2] == [None, None]
    assert all(hatches[2:])
    assert to_hex(cost.patches[0].get_facecolor()) == BLUE
    assert to_hex(cost.patches[2].get_edgecolor()) == GREEN
    assert r"\$0.30 not spent (≈)" in words(cost)
    assert "Hatched: not spent" in words(cost)


def test_near_equal_rows_saved_what_the_run_says():
    run = ran(api=100)
    run = replace(run, sources={**run.sources, "similar": 40}, reuse=Report(), saved=0.37)
    assert bars(panels(run)[2])["similar (40)"] == 0.37
    cost = panels(replace(run, saved=-0.02))[2]
    assert bars(cost)["similar (40)"] == 0
    assert r"vectors took \$0.02 more than this saved" in words(cost)


def test_an_unknown_price_is_called_unknown():
    run = ran(api=10, price=math.nan)
    cost = panels(replace(run, sources={"api": 10, "cache": 5}))[2]
    assert "Cost by source: price unknown" in words(cost)
    assert "not spent (price unknown)" in words(cost)
    assert set(bars(cost).values()) == {0}
    assert "prices=" in words(cost)


def test_one_unknown_price_leaves_the_others_drawn():
    recorder = Recorder()
    recorder.add(1, "api", 0.5)
    recorder.add(2, "batch", math.nan)
    run = ran(api=1, batch=1, cost=math.nan, course=recorder.course())
    assert bars(panels(run)[2]) == {"api (1)": 0.5, "batch (1)": 0}


def test_the_local_model_costs_nothing_and_is_drawn():
    assert r"\$0" in words(panels(ran(api=5, price=0.0))[2])


def test_a_run_that_asked_nothing_says_so_in_each_panel():
    progress, latency, cost, errors = panels(ran(sources={"cache": 380, "skipped": 5}, rows=385))
    assert "No request ended in this run.\n385 rows: 380 cache, 5 skipped." in words(progress)
    assert "No reply of this run was timed." in words(latency)
    assert "No row was asked, so nothing was spent." in words(cost)
    assert "No errors." in words(errors)


def test_errors_are_bars_with_their_counts_the_most_frequent_first():
    errors = panels(ran(api=5, failed=9, errors={"ServerError": 2, "RefusalError": 7}))[3]
    assert bars(errors) == {"RefusalError": 7, "ServerError": 2}
    assert "9 rows failed" in words(errors)
    assert errors.get_ylim()[0] > errors.get_ylim()[1]


def test_many_kinds_of_errors_are_summed_up():
    kinds = {f"Kind{n}Error": 20 - n for n in range(12)}
    drawn = bars(panels(ran(api=1, errors=kinds))[3])
    assert len(drawn) == 7
    assert drawn["6 other kinds"] == sum(list(kinds.values())[6:])


def test_dollars_are_never_typeset_as_a_formula():
    run = ran(api=3, model="a_$b$", errors={"Odd$x$Error": 1})
    figure = run.plot()
    figure.draw_without_rendering()
    for text in figure.findobj(match=lambda artist: hasattr(artist, "_preprocess_math")):
        said, is_math = text._preprocess_math(text.get_text())
        assert not is_math, said
        assert not text.get_usetex()
    assert figure.get_suptitle() == literal("r_41 done · classify · a_$b$ · 3 rows")


# Where it is seen -------------------------------------------------------------------------------------


def test_a_figure_leaves_pyplot_and_every_setting_alone():
    # To read the backend is to choose one, which imports pyplot.
    script = (
        "import sys, matplotlib\n"
        "def settings(): return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = settings()\n"
        "import pandas as pd; from pandas_llm.evaluate import evaluate\n"
        "figure = evaluate(pd.DataFrame({'a': ['x'], 'gold': ['x']}), 'gold', 'a').plot()\n"
        "png, _ = figure._repr_png_()\n"
        "assert png.startswith(bytes([137]) + b'PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert settings() == before"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dark_style_of_the_session_leaves_words_dark_on_white():
    import matplotlib.style

    with matplotlib.style.context("dark_background"):
        figure = ran(api=20, failed=2, errors={"RefusalError": 2}).plot()
        png, how = figure._repr_png_()
    figure.canvas.draw()
    colours = {to_hex(text.get_color()) for axes in figure.axes for text in axes.get_yticklabels()}
    assert colours == {"#24292f"}
    assert all(to_hex(axes.get_facecolor()) == "#ffffff" for axes in figure.axes[:4])
    assert how == {"width": 1_000}
    assert int.from_bytes(png[16:20]) == 2_000


def test_a_figure_can_be_pickled_and_saved(tmp_path):
    figure = pickle.loads(pickle.dumps(ran(api=20).plot()))
    figure.savefig(tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("first", ["pass", "%matplotlib inline"])
def test_a_notebook_shows_a_figure_once_as_a_png(first, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    code = (
        "import pandas as pd, pandas_llm\nfrom pandas_llm.evaluate import evaluate\n"
        "evaluate(pd.DataFrame({'a': ['x'], 'gold': ['x']}), 'gold', 'a').plot()"
    )
    cells = [nbformat.v4.new_code_cell(source) for source in (first, code)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (output,) = notebook.cells[1].outputs
    assert output["data"]["image/png"].startswith("iVBOR")
    assert "text/html" not in output["data"]


def test_a_missing_matplotlib_is_named_with_the_line_that_gets_it(monkeypatch):
    names = ("pandas_llm.reports.figure", "pandas_llm.history.drawing", "pandas_llm.evaluate.drawing")
    for name in names:
        importlib.import_module(name)
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = evaluate(pd.DataFrame({"a": ["x"], "gold": ["x"]}), "gold", "a")
    for plot in (ran(api=1).plot, result.plot):
        with pytest.raises(OptionsError, match=r"pip install 'pandas-llm-accessor\[plot\]'"):
            plot()


def test_the_last_run_and_an_evaluation_of_its_frame_are_drawn(server):
    frame = pd.DataFrame({"body": [f"a bug {i}" for i in range(20)] + ["a bug 0"], "gold": "bug"})
    out = frame.llm.classify("body", ["bug", "question"], confidence=True, progress=False)
    progress, _, cost, *_ = panels(pandas_llm.last_run())
    assert progress.lines[0].get_ydata()[-1] == len(server.requests) == 20
    assert bars(cost)["api (20)"] == pytest.approx(server.bill.cost)
    assert bars(cost)["duplicate (1)"] == pytest.approx(server.bill.cost / 20)
    result = out.llm.evaluate("gold")
    assert result.reliability["rows"].sum() == 21
    assert "Reliability" in words(result.plot().axes[1])
    columns = pd.MultiIndex.from_tuples([(name, "") for name in frame.columns])
    wide = frame.set_axis(columns, axis=1).llm.classify(("body", ""), ["bug", "question"], confidence=True)
    assert wide.llm.evaluate(("gold", "")).reliability["rows"].sum() == 21


# An evaluation ----------------------------------------------------------------------------------------


def judged(answers, gold, confidence=None, labels=None):
    frame = pd.DataFrame({"label": pd.Categorical(answers, categories=labels), "gold": gold})
    if confidence is not None:
        frame["label_confidence"] = confidence
    return evaluate(frame, "gold", "label")


def test_the_matrix_has_gold_in_rows_and_answers_in_columns_with_counts_in_its_cells():
    result = judged(["a", "a", "b", "b"], ["a", "a", "a", "b"])
    axes, bar = result.plot().axes[0], result.plot().axes[0].child_axes
    assert axes.images[0].get_array().tolist() == [[2 / 3, 1 / 3], [0, 1]]
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_text().isdigit()}
    assert cells == {(0, 0): "2", (1, 0): "1", (0, 1): "0", (1, 1): "1"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "gold")
    assert len(bar) == 1


def test_numbers_are_light_on_dark_cells_and_dark_on_light_ones():
    axes = judged(["a"] * 9 + ["b"] * 2, ["a"] * 10 + ["b"]).plot().axes[0]
    colours = {
        text.get_position(): to_hex(text.get_color()) for text in axes.texts if text.get_text().isdigit()
    }
    assert colours[0, 0] == colours[1, 1] == "#ffffff"
    assert colours[1, 0] == "#24292f"


def test_many_labels_leave_out_the_numbers_and_keep_every_name():
    labels = [f"label {n:02}" for n in range(77)]
    axes = judged(labels, labels).plot().axes[0]
    assert [text for text in axes.texts if text.get_text().isdigit()] == []
    assert [tick.get_text() for tick in axes.get_yticklabels()] == labels
    heights = {tick.get_fontsize() for tick in axes.get_yticklabels()}
    assert heights == {5.5}
    # A row of the matrix is higher than its letters, so that no two names overlap.
    row = axes.figure.get_size_inches()[1] * 72 / 77
    assert row > 5.5


def test_more_labels_than_can_be_read_are_cut_to_the_most_frequent():
    labels = [f"l{n}" for n in range(150)]
    result = judged([*labels, *labels[50:]], [*labels, *labels[50:]])
    axes = result.plot().axes[0]
    assert {tick.get_text() for tick in axes.get_yticklabels()} == set(labels[50:])
    assert "the 100 most frequent of 150 labels" in words(axes)


def test_long_labels_are_cut_in_their_middle_and_dollars_stay_dollars():
    long = ["balance not updated after a bank transfer", "balance not updated after a cheque $5 or $6"]
    axes = judged(long, long).plot().axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["balance not upda… transfer", r"balance not upda… \$5 or \$6"]


def test_nothing_to_judge_is_said():
    assert "No row has both gold and an answer." in words(judged([None], ["a"]).plot().axes[0])


def test_reliability_is_accuracy_by_confidence_in_ten_bins():
    confidence = [0.05, 0.0, 0.1, 0.7, 0.95, 1.0, 0.95, 0.95]
    answers = ["a", "b", "a", "a", "a", "a", "a", "b"]
    table = judged(answers, ["a"] * 8, confidence).reliability
    assert table.index.name == "bin"
    assert list(table.columns) == ["rows", "confidence", "accuracy"]
    assert table["rows"].tolist() == [3, 0, 0, 0, 0, 0, 1, 0, 0, 4]
    assert table["accuracy"].dropna().tolist() == pytest.approx([2 / 3, 1, 3 / 4])
    assert table["confidence"].dropna().tolist() == pytest.approx([0.05, 0.7, 0.9625])
    assert table["accuracy"].isna().sum() == 7
    # An edge belongs to the bin below it.
    assert table.index[6].right == 0.7


def test_the_calibration_error_is_guos():
    result = judged(["a"] * 4, ["a", "a", "a", "b"], [0.95, 0.95, 0.55, 0.55])
    # Half of the rows are 0.05 off, half of them 0.05.
    assert result.ece == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert "calibration error     0.050 (mean distance of confidence and accuracy, 4 rows)" in repr(result)
    assert "0.050 (mean distance" in result._repr_html_()


def test_rows_without_a_confidence_or_gold_are_no_part_of_the_curve():
    confidence = [0.9, None, 0.9, math.nan, 7.0]
    result = judged(["a", "a", "a", "a", "a"], ["a", "a", None, "a", "a"], confidence)
    assert result.reliability["rows"].sum() == 1


@pytest.mark.parametrize("confidence", [None, [None, None], ["high", "low"]])
def test_without_a_confidence_there_is_the_matrix_alone_and_how_to_get_one(confidence):
    result = judged(["a", "b"], ["a", "a"], confidence)
    assert result.reliability is None
    assert math.isnan(result.ece)
    assert len(result.plot().axes) == 1
    assert "confidence=True" in words(result.plot().axes[0])
    assert "calibration" not in repr(result)
    assert "calibration" not in result._repr_html_()


def test_lists_of_labels_have_no_curve():
    frame = pd.DataFrame({"tags": [["a"], ["b"]], "tags_confidence": [0.5, 0.6]})
    assert evaluate(frame, [["a"], ["a"]], "tags").reliability is None


def test_the_curve_is_drawn_with_its_diagonal_and_the_rows_of_each_bin():
    result = judged(["a"] * 4, ["a", "a", "a", "b"], [0.95, 0.95, 0.55, 0.55])
    axes = result.plot().axes[1]
    diagonal, curve = axes.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert curve.get_xydata().tolist() == [pytest.approx([0.55, 0.5]), pytest.approx([0.95, 1.0])]
    assert [(round(bar.get_x(), 2), bar.get_height()) for bar in axes.patches] == [(0.5, 0.5), (0.9, 1.0)]
    assert [text.get_text() for text in axes.texts if text.get_text().isdigit()] == ["2", "2"]
    assert "Reliability: ECE 0.050" in words(axes)


def test_the_confidence_of_a_column_of_several_levels_is_found():
    columns = pd.MultiIndex.from_tuples([("label", ""), ("label_confidence", ""), ("hand", "first")])
    frame = pd.DataFrame([["bug", 0.5, "bug"], ["bug", 0.9, "praise"]], columns=columns)
    assert evaluate(frame, ("hand", "first"), ("label", "")).reliability["rows"].sum() == 2


def test_confidence_of_any_dtype_is_read():
    for dtype in ("float64", "Float64", "object"):
        confidence = pd.Series([0.9, None], dtype=dtype)
        assert judged(["a", "a"], ["a", "a"], confidence).reliability["rows"].sum() == 1
