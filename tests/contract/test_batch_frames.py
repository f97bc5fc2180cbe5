"""Any frame and any verb by batch: the same columns as by concurrent calls, each row its own answer."""

import asyncio
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches

LABELS = ["bug", "question", "praise"]
QUICK = {"mode": "batch", "batches": Batches(poll=(0.01, 0.05)), "progress": False}
TEXTS = [f"{LABELS[i % 3]} {i:04}" for i in range(24)]


def check_sums(server, out, name):
    """The sums are the bill, and no line was handed in or paid twice."""
    assert out[f"{name}_cost"].sum() == pytest.approx(server.bill.cost)
    assert pandas_llm.last_run().cost == pytest.approx(server.bill.cost)
    assert set(server.bill.batch_rows.values()) == {1}
    assert max(Counter(i for each in server.batches for i in each.custom_ids).values()) == 1


def test_repeated_texts_missing_cells_and_a_repeated_index_lose_no_row(server: FakeOpenAI):
    texts = [*TEXTS, None, *TEXTS[:6], "", np.nan, "  ", *TEXTS[20:], b"bytes"]
    frame = pd.DataFrame({"t": texts, "n": range(len(texts))}, index=np.arange(len(texts)) % 2)
    before = frame.copy(deep=True)
    out = frame.llm.classify("t", LABELS, **QUICK)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(out[["t", "n"]], before)
    assert [None if pd.isna(label) else label for label in out["t_label"]] == [
        text.split()[0] if isinstance(text, str) and text.strip() else None for text in texts
    ]
    counts = {"api": 3, "batch": 21, "duplicate": 10, "skipped": 4, "failed": 1}
    assert Counter(out["t_label_source"]) == counts
    assert server.bill.texts == dict.fromkeys(TEXTS, 1)
    check_sums(server, out, "t_label")


def test_the_frame_is_that_of_concurrent_calls_but_for_its_source_and_its_price(server: FakeOpenAI, tmp_path):
    texts = [*TEXTS, *TEXTS[:5], None, "bug \u2028 \x00 ``` 🙂 \n"]
    frame = pd.DataFrame({("t", 1): texts}, index=pd.MultiIndex.from_arrays([range(31), [1] * 31]))
    by_batch = frame.llm.classify(("t", 1), LABELS, details="all", output="label", **QUICK)
    by_calls = frame.llm.classify(
        ("t", 1), LABELS, details="all", output="label", progress=False, cache=tmp_path / "other.sqlite3"
    )
    assert by_batch.dtypes.equals(by_calls.dtypes)
    differ = {c for c in by_batch.columns if not by_batch[c].equals(by_calls[c])}
    told = ("source", "cost", "latency", "request_id")
    assert {c[0] if isinstance(c, tuple) else c for c in differ} == {f"label_{each}" for each in told}


def test_unusual_texts_travel_through_files_as_they_are(server: FakeOpenAI):
    odd = [
        *(
            "bug \u2028 one",
            "bug \x85 two",
            "bug \r\n three",
            'bug "quoted" \\ four',
            "bug \x00 five",
            "bug 🙂 six",
        ),
        *("bug ```\nseven\n```", '{"custom_id": "bug eight"}', "bug " + "x" * 100_000),
    ]
    frame = pd.DataFrame({"t": [*TEXTS, *odd]})
    server.answer = lambda text, _: f"{len(text)} {text[:40]!r}"
    out = frame.llm.generate("t", "Repeat it.", **QUICK)
    assert out["t_output"].tolist() == [f"{len(text)} {text[:40]!r}" for text in frame["t"]]
    check_sums(server, out, "t_output")


def test_fields_are_extracted_and_repaired(server: FakeOpenAI):
    frame = pd.DataFrame({"t": [f"number {i}" for i in range(24)]})
    server.answer = lambda text, _: f'{{"word": "{text[:6]}", "count": {text[7:]}}}'
    server.fault("number 10", faults.INVALID_JSON, times=1)
    server.fault("number 11", faults.CUT_OFF)
    out = frame.llm.extract("t", {"word": str, "count": int}, **QUICK)
    assert out["count"].tolist() == [pd.NA if i == 11 else i for i in range(24)]
    assert out["count"].dtype == "Int64"
    assert Counter(out["extract_source"]) == {"api": 3, "batch": 20, "failed": 1}
    assert server.bill.completions == 3 + 1
    check_sums(server, out, "extract")
    again = frame.llm.extract("t", {"word": str, "count": int}, **QUICK)
    assert Counter(again["extract_source"]) == {"cache": 23, "failed": 1}
    assert len(server.batches) == 1


def test_texts_are_generated_and_an_empty_one_is_the_rows_error(server: FakeOpenAI):
    frame = pd.DataFrame({"t": TEXTS})
    server.fault("0010", faults.EMPTY)
    out = frame.llm.generate("t", "Echo it.", **QUICK)
    assert out["t_output"].dropna().tolist() == [f"echo: {text}" for text in TEXTS if "0010" not in text]
    assert out.loc[10, "t_output_error"].startswith("EmptyOutputError")
    check_sums(server, out, "t_output")


def test_several_labels_explanations_and_confidences_come_by_batch(server: FakeOpenAI):
    frame = pd.DataFrame({"t": TEXTS})
    server.label_probabilities = {"bug": 0.8, "question": 0.1, "praise": 0.1}
    out = frame.llm.classify("t", LABELS, explain=True, confidence=True, **QUICK)
    assert out["t_label_explanation"].notna().all()
    assert out["t_label_confidence"].between(0, 1).all()
    many = frame.llm.classify("t", LABELS, multi_label=True, output="many", **QUICK)
    assert many["many"].tolist() == [[text.split()[0]] for text in TEXTS]


def test_samples_of_one_text_are_lines_of_their_own(server: FakeOpenAI):
    frame = pd.DataFrame({"t": ["bug"] * 24})
    out = frame.llm.classify("t", LABELS, dedupe=False, **QUICK)
    assert Counter(out["t_label_source"]) == {"api": 3, "batch": 21}
    assert server.bill.texts == {"bug": 24}
    check_sums(server, out, "t_label")
    assert Counter(frame.llm.classify("t", LABELS, dedupe=False, **QUICK)["t_label_source"]) == {"cache": 24}


def test_a_series_and_a_coroutine_go_by_batch_too(server: FakeOpenAI):
    series = pd.Series(TEXTS, name="t").llm.classify(LABELS, **QUICK)
    assert series.tolist() == [text.split()[0] for text in TEXTS]
    other = pd.DataFrame({"t": [f"praise {i}" for i in range(24)]})
    out = asyncio.run(other.llm.aio.classify("t", LABELS, **QUICK))
    assert out["t_label"].tolist() == ["praise"] * 24
    assert len(server.batches) == 2


def test_corrections_by_hand_are_kept(server: FakeOpenAI):
    frame = pd.DataFrame({"t": TEXTS})
    out = frame.llm.classify("t", LABELS, **QUICK)
    out.loc[5, "t_label"] = "bug"
    again = out.llm.classify("t", LABELS, on_conflict="keep", **QUICK)
    assert Counter(again["t_label_source"]) == {"cache": 23, "given": 1}
    assert again.loc[5, "t_label"] == "bug"


def test_every_client_reaches_the_batch_api(server: FakeOpenAI):
    import openai

    clients = [openai.OpenAI(base_url=server.base_url, api_key="sk-1")]
    clients.append(openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-1"))
    for number, client in enumerate(clients):
        frame = pd.DataFrame({"t": [f"bug {number} {i}" for i in range(24)]})

        async def ask(frame=frame, client=client):
            try:
                return await frame.llm.aio.classify("t", LABELS, client=client, **QUICK)
            finally:
                closed = client.close()
                if closed is not None:
                    await closed

        out = asyncio.run(ask())
        assert Counter(out["t_label_source"]) == {"api": 3, "batch": 21}
    assert [len(each.custom_ids) for each in server.batches] == [21, 21]
