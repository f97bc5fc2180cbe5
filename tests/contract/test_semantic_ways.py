"""Ways to ask for dedupe="semantic", who makes its vectors, and what is refused before it costs anything."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from fakes.near_texts import (
    LABELS,
    asked_for_labels,
    asked_for_vectors,
    base_of,
    check_bill,
    check_right,
    label_of,
    ready,
    tickets,
)
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Semantic, configure, option_context
from pandas_llm.errors import AuthError, OptionsError

QUIET = {"progress": False}
NEAR = {"dedupe": "semantic", **QUIET}


@pytest.fixture(autouse=True)
def right_labels(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        ready(request.getfixturevalue("server"))


# Ways to ask -------------------------------------------------------------------------------------------


def test_a_series_and_a_coroutine_share_as_well(server: FakeOpenAI):
    frame = tickets(60)
    labels = frame["body"].llm.classify(LABELS, **NEAR)
    assert labels.tolist() == [label_of(text) for text in frame["body"]]
    paid = len(asked_for_labels(server))
    assert paid < 200
    out = asyncio.run(frame.llm.aio.classify("body", LABELS, instructions="Be quick.", **NEAR))
    assert out["body_label"].tolist() == labels.tolist()
    assert Counter(out["body_label_source"])["similar"] > 100
    assert len(asked_for_labels(server)) == 2 * paid


@pytest.mark.parametrize("how", ["configure", "option_context", "environment"])
def test_it_may_be_switched_on_for_all_calls(server: FakeOpenAI, monkeypatch, how: str):
    frame = tickets(60)
    if how == "configure":
        configure(dedupe="semantic")
        out = frame.llm.classify("body", LABELS, **QUIET)
    elif how == "option_context":
        with option_context(dedupe=Semantic(max_error=0.06)):
            out = frame.llm.classify("body", LABELS, **QUIET)
    else:
        monkeypatch.setenv("PANDAS_LLM_DEDUPE", "semantic")
        out = frame.llm.classify("body", LABELS, **QUIET)
    assert Counter(out["body_label_source"])["similar"] > 100


@pytest.mark.parametrize("embed", ["local", "a function"])
def test_vectors_may_be_made_here(server: FakeOpenAI, embed: str):
    def lengths(texts: list[str]) -> np.ndarray:
        """A vector for each beginning of a sentence, five hundred long and never of length 1."""
        made = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in base_of(text).split():
                made[row, sum(word.encode()) % 64] += 500.0
        return made

    frame = tickets(15)
    settings = Semantic(embed="local" if embed == "local" else lengths, max_error=0.3)
    out = frame.llm.classify("body", LABELS, dedupe=settings, **QUIET)
    check_right(out)
    assert Counter(out["body_label_source"])["similar"] > 15
    assert not asked_for_vectors(server)
    assert out["body_label_similarity"].max() <= 1.0 + 1e-5
    check_bill(server, out)
    more = pd.concat([frame, tickets(2, first=60)], ignore_index=True)
    more.llm.classify("body", LABELS, dedupe=settings, **QUIET)
    assert pandas_llm.last_run().reuse.known >= 15


def test_the_local_model_needs_no_server_at_all():
    frame = tickets(15)
    settings = Semantic(max_error=0.3)
    out = frame.llm.classify("body", LABELS, model="local", dedupe=settings, **QUIET)
    direct = frame.llm.classify("body", LABELS, model="local", cache=False, **QUIET)
    shared = out["body_label_source"] == "similar"
    assert (out["body_label"] == direct["body_label"])[~shared].all()
    assert (out["body_label"] != direct["body_label"])[shared].sum() <= 0.3 * shared.sum()
    assert pandas_llm.runs()["cost"].sum() == 0


# Refused before anything is sent -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"treshold": 0.9}, "Did you mean 'threshold'"),
        ({"threshold": 1.5}, "threshold is above 0 and at most 1"),
        ({"threshold": float("nan")}, "threshold is above 0"),
        ({"threshold": "high"}, 'or "auto"'),
        ({"max_error": 0}, "max_error is above 0"),
        ({"confidence": 1}, "confidence is below 1"),
        ({"audit": -1}, "audit is a whole number"),
        ({"audit": True}, "audit is a whole number"),
        ({"audit": 0}, "threshold=0.95"),
        ({"embed": 3}, "embed is the id of a model"),
        ({"agreement": "same"}, "agreement is a function"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_when_they_are_made(settings: dict[str, object], said: str):
    with pytest.raises(OptionsError, match=said):
        Semantic(**settings)


def test_what_cannot_be_is_refused_before_a_request_is_sent(server: FakeOpenAI, monkeypatch):
    frame = tickets(3)
    wrong = [
        ({"cache": False}, OptionsError, "needs the store"),
        ({"dedupe": Semantic(embed=lambda texts: texts)}, OptionsError, "has a name"),
        ({"dedupe": Semantic(embed="my-embedder"), "max_cost": 1.0}, OptionsError, "prices="),
        ({"dedupe": True}, OptionsError, "dedupe"),
    ]
    for options, error, said in wrong:
        with pytest.raises(error, match=said):
            frame.llm.classify("body", LABELS, **{**NEAR, **options})
    with pytest.raises(OptionsError, match="leave it out"):
        frame.llm.embed("body", **NEAR)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(AuthError):
        frame.llm.classify(
            "body", LABELS, model="local", dedupe=Semantic(embed="text-embedding-3-small"), **QUIET
        )
    assert not server.requests
