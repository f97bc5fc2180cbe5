"""Where options come from: call, option_context, configure, environment, default; resolved once."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pandas as pd
import pytest
from openai import AsyncOpenAI, OpenAI

import pandas_llm
from pandas_llm import Batches
from pandas_llm.core.options import CONFIGURABLE
from pandas_llm.errors import BudgetWarning, LLMWarning, OptionsError

LABELS = ["bug", "question"]
FRAME = pd.DataFrame({"body": ["a bug", "a question"]})


def model_of(server):
    """The model of the last request."""
    return server.requests[-1].body["model"]


def ask(**options):
    """A question nobody asked before, so that something is sent."""
    ask.number = getattr(ask, "number", 0) + 1
    return FRAME.llm.classify("body", LABELS, instructions=f"Try {ask.number}.", **options)


def test_the_default_model_is_named(server):
    ask()
    assert model_of(server) == "gpt-6-luna"


def test_each_layer_wins_over_those_below_it(server, monkeypatch):
    monkeypatch.setenv("PANDAS_LLM_MODEL", "gpt-of-environment")
    prices = {f"gpt-of-{layer}": (1.0, 1.0) for layer in ("environment", "configure", "context", "call")}
    pandas_llm.configure(prices=prices)
    ask()
    assert model_of(server) == "gpt-of-environment"
    pandas_llm.configure(model="gpt-of-configure")
    ask()
    assert model_of(server) == "gpt-of-configure"
    with pandas_llm.option_context(model="gpt-of-context"):
        ask()
        assert model_of(server) == "gpt-of-context"
        ask(model="gpt-of-call")
        assert model_of(server) == "gpt-of-call"
    ask()
    assert model_of(server) == "gpt-of-configure"
    pandas_llm.configure(model=None)
    ask()
    assert model_of(server) == "gpt-of-environment"


def test_configure_alone_lists_every_option_with_its_value_and_origin(monkeypatch):
    monkeypatch.setenv("PANDAS_LLM_RPM", "120")
    pandas_llm.configure(max_concurrency=8)
    with pandas_llm.option_context(details="all"):
        listed = pandas_llm.configure()
    assert set(listed) == set(CONFIGURABLE)
    assert listed["max_concurrency"] == (8, "configure")
    assert listed["rpm"] == (120.0, "$PANDAS_LLM_RPM")
    assert listed["details"] == ("all", "option_context")
    assert listed["max_retries"] == (6, "default")
    shown = repr(listed)
    for name in CONFIGURABLE:
        assert name in shown


def test_configure_with_arguments_shows_these_and_gives_all():
    listed = pandas_llm.configure(max_concurrency=8, details="all")
    assert repr(listed).split("\n")[0].split() == ["max_concurrency", "8", "configure"]
    assert len(repr(listed).split("\n")) == 3
    assert "pandas_llm.configure() lists all" in repr(listed)
    assert set(listed) == set(CONFIGURABLE)


@pytest.mark.parametrize("how", ["configure", "environment"])
def test_a_key_is_never_listed(monkeypatch, how):
    if how == "configure":
        pandas_llm.configure(api_key="sk-very-secret", base_url="https://me:secret@host/v1")
    else:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
        monkeypatch.setenv("OPENAI_BASE_URL", "https://me:secret@host/v1")
    listed = pandas_llm.configure()
    assert listed["api_key"][0] == "set"
    assert "secret" not in repr(listed)
    assert "secret" not in str(dict(listed))
    assert "host/v1" in listed["base_url"][0]


def test_a_client_is_listed_without_its_key():
    client = OpenAI(api_key="sk-very-secret", base_url="http://host/v1")
    assert "secret" not in repr(pandas_llm.configure(client=client))


def test_configured_key_and_base_url_are_used(server, monkeypatch):
    base_url = server.base_url
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    pandas_llm.configure(api_key="sk-mine", base_url=base_url)
    ask()
    assert server.requests[-1].headers["authorization"] == "Bearer sk-mine"


def test_a_base_url_without_a_key_sends_no_authorization_header(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    ask()
    assert {seen.authorized for seen in server.requests} == {False}


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
def test_a_ready_client_is_used(server, monkeypatch, kind):
    base_url = server.base_url
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    client = kind(api_key="sk-of-client", base_url=base_url, default_headers={"x-team": "north"})
    ask(client=client)
    assert server.requests[-1].headers["authorization"] == "Bearer sk-of-client"
    assert server.requests[-1].headers["x-team"] == "north"


# The environment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MODEL", "gpt-x", "gpt-x"),
        ("MAX_CONCURRENCY", "5", 5),
        ("TPM", "1e6", 1_000_000.0),
        ("TIMEOUT", "12.5", 12.5),
        ("CONFIRM_ABOVE", "none", None),
        ("CONFIRM_ABOVE", "2", 2.0),
        ("PROGRESS", "false", False),
        ("PROGRESS", "1", True),
        ("RETRY_FAILED", "yes", True),
        ("CACHE", "only", "only"),
        ("CACHE", "0", False),
        ("CACHE", "/tmp/some.db", "/tmp/some.db"),
        ("DEDUPE", "false", False),
        ("DETAILS", "errors", "errors"),
        ("ON_NULL", "send", "send"),
        ("SERVICE_TIER", "flex", "flex"),
        ("MODE", "batch", "batch"),
        ("WAIT", "no", False),
        ("DEADLINE", "6h", "6h"),
    ],
)
def test_the_environment_sets_scalars(monkeypatch, name, text, value):
    monkeypatch.setenv(f"PANDAS_LLM_{name}", text)
    assert pandas_llm.configure()[name.lower()] == (value, f"$PANDAS_LLM_{name}")


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("MAX_CONCURRENCY", "many", "whole number"),
        ("MAX_CONCURRENCY", "0", "at least 1"),
        ("PROGRESS", "perhaps", "true or false"),
        ("DETAILS", "al", "Did you mean 'all'?"),
        ("MODE", "bacth", "Did you mean 'batch'?"),
    ],
)
def test_a_variable_that_cannot_be_is_named(monkeypatch, server, name, text, word):
    with monkeypatch.context() as patch:
        patch.setenv(f"PANDAS_LLM_{name}", text)
        with pytest.raises(OptionsError) as caught:
            ask()
    assert f"$PANDAS_LLM_{name}" in str(caught.value)
    assert word in str(caught.value)
    assert server.requests == []


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("PANDAS_LLM_MODEL", "")
    assert pandas_llm.configure()["model"] == ("gpt-6-luna", "default")


def test_the_environment_of_the_call_counts_not_that_of_the_import(server, monkeypatch):
    monkeypatch.setenv("PANDAS_LLM_DETAILS", "none")
    assert list(ask().columns) == ["body", "body_label"]


def test_what_is_set_for_one_mode_is_passed_over_in_another(server):
    frame = pd.DataFrame({"body": [f"a bug {i}" for i in range(25)]})
    pandas_llm.configure(mode="batch", wait=False, batches=Batches(poll=(0.01, 0.02), pilot=0))
    server.hold_batches = True
    assert set(frame.llm.classify("body", LABELS)["body_label_source"]) == {"pending"}
    with pandas_llm.option_context(deadline="20min"):
        for mode, instructions in (("concurrent", "One."), ("auto", "Two.")):
            out = frame.llm.classify("body", LABELS, mode=mode, instructions=instructions)
            assert set(out["body_label_source"]) == {"api"}
        assert server.requests[-1].body["service_tier"] == "flex"
        with pytest.raises(OptionsError, match="wait=False goes with"):
            frame.llm.classify("body", LABELS, mode="concurrent", wait=False)
    assert len(server.batches) == 1


# option_context ----------------------------------------------------------------------------------------


def test_contexts_nest_and_end(server):
    with pandas_llm.option_context(details="errors", on_null="send"):
        with pandas_llm.option_context(details="none"):
            listed = pandas_llm.configure()
            assert listed["details"] == ("none", "option_context")
            assert listed["on_null"] == ("send", "option_context")
        assert pandas_llm.configure()["details"][0] == "errors"
    assert pandas_llm.configure()["details"] == ("usage", "default")


def test_a_context_ends_with_an_exception_too():
    with pytest.raises(ZeroDivisionError), pandas_llm.option_context(details="none"):
        _ = 1 / 0
    assert pandas_llm.configure()["details"][1] == "default"


def test_a_context_is_its_threads_own():
    seen, inside, may_end = {}, threading.Event(), threading.Event()

    def other():
        with pandas_llm.option_context(details="all"):
            inside.set()
            may_end.wait(5)
            seen["other"] = pandas_llm.configure()["details"][0]

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(5)
    seen["here"] = pandas_llm.configure()["details"][0]
    may_end.set()
    thread.join()
    assert seen == {"other": "all", "here": "usage"}


def test_a_context_is_its_tasks_own():
    async def one(details):
        with pandas_llm.option_context(details=details):
            await asyncio.sleep(0)
            return pandas_llm.configure()["details"][0]

    async def both():
        return await asyncio.gather(one("all"), one("none"))

    assert asyncio.run(both()) == ["all", "none"]


def test_what_configure_sets_holds_in_every_thread(server):
    pandas_llm.configure(details="none")
    with ThreadPoolExecutor(2) as pool:
        columns = list(pool.map(lambda _: tuple(ask().columns), range(2)))
    assert columns == [("body", "body_label")] * 2


def test_options_of_aio_are_those_of_the_call_not_of_the_await(server):
    async def work():
        with pandas_llm.option_context(details="none"):
            asked = FRAME.llm.aio.classify("body", LABELS)
        return await asked

    assert list(asyncio.run(work()).columns) == ["body", "body_label"]


def test_a_wrong_context_or_configuration_changes_nothing():
    with pytest.raises(OptionsError, match="Did you mean 'details'"), pandas_llm.option_context(detail="all"):
        pass
    with pytest.raises(OptionsError, match="Did you mean 'all'"):
        pandas_llm.configure(max_retries=1, details="al")
    with pytest.raises(OptionsError, match="Did you mean 'details'"):
        pandas_llm.configure(max_retries=1, detials="all")
    assert pandas_llm.configure()["max_retries"] == (6, "default")
    with pytest.raises(OptionsError, match="string"):
        pandas_llm.configure(api_key=5)


# Money -------------------------------------------------------------------------------------------------


def calls_until_the_money_is_gone():
    """How many rows two calls answer."""
    frames = [pd.DataFrame({"body": [f"bug {start + i}" for i in range(30)]}) for start in (0, 30)]
    outs = [frame.llm.classify("body", LABELS, max_concurrency=2, progress=False) for frame in frames]
    return [int((out["body_label_source"] == "api").sum()) for out in outs]


@pytest.mark.parametrize("layer", ["context", "configure", "environment"])
def test_a_cap_outside_of_the_call_is_for_all_calls_under_it_together(server, monkeypatch, layer):
    cap = 0.00015
    if layer == "configure":
        pandas_llm.configure(max_cost=cap)
    if layer == "environment":
        # A number of this test's own: the environment's budget lives as long as the process.
        monkeypatch.setenv("PANDAS_LLM_MAX_COST", str(cap + 1e-9))
    context = pandas_llm.option_context(max_cost=cap) if layer == "context" else nullcontext()
    with context, pytest.warns(BudgetWarning):
        answered = calls_until_the_money_is_gone()
    assert 0 < sum(answered) < 30
    assert answered[1] == 0
    assert server.bill.cost <= cap + 1e-8


def test_a_cap_in_the_call_is_for_that_call_alone(server):
    for start in (0, 30):
        frame = pd.DataFrame({"body": [f"bug {start + i}" for i in range(30)]})
        with pytest.warns(BudgetWarning):
            out = frame.llm.classify("body", LABELS, max_cost=0.00015, max_concurrency=2)
        assert 0 < (out["body_label_source"] == "api").sum() < 30


# The store ---------------------------------------------------------------------------------------------


def test_only_and_refresh_mean_the_store_that_was_configured(server, tmp_path):
    pandas_llm.configure(cache=tmp_path / "mine.db")
    FRAME.llm.classify("body", LABELS)
    known = FRAME.llm.classify("body", LABELS, cache="only")
    assert known["body_label_source"].tolist() == ["cache", "cache"]
    asked = FRAME.llm.classify("body", LABELS, cache="refresh")
    assert asked["body_label_source"].tolist() == ["api", "api"]
    assert pandas_llm.cache_info()["path"] == str(tmp_path / "mine.db")


def test_without_a_cache_nothing_is_written_or_known(server, own_settings):
    for _ in range(2):
        out = FRAME.llm.classify("body", LABELS, cache=False)
        assert out["body_label_source"].tolist() == ["api", "api"]
    assert not own_settings.exists()


def test_every_rows_sample_of_equal_text_is_paid_once(server):
    frame = pd.DataFrame({"body": ["same", "same", "same"]})
    out = frame.llm.classify("body", LABELS, dedupe=False)
    assert out["body_label_source"].tolist() == ["api"] * 3
    again = frame.llm.classify("body", LABELS, dedupe=False)
    assert again["body_label_source"].tolist() == ["cache"] * 3
    assert len(server.requests) == 3
    assert frame.llm.classify("body", LABELS)["body_label_source"].tolist() == ["cache"] * 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MAXCOST", "did you mean $PANDAS_LLM_MAX_COST?"),
        ("PARAMS", "a variable holds a single value; say pandas_llm.configure(params=…)"),
        ("API_KEY", "say $OPENAI_API_KEY"),
        ("QQQ", "no option has this name"),
    ],
)
def test_a_variable_that_says_nothing_is_told_once(monkeypatch, name, hint):
    from pandas_llm import settings

    monkeypatch.setattr(settings, "_warned_of", set())
    monkeypatch.setenv(f"PANDAS_LLM_{name}", "5")
    with pytest.warns(LLMWarning, match=re.escape(f"$PANDAS_LLM_{name} says nothing here: {hint}")):
        pandas_llm.configure()
    pandas_llm.configure()
    monkeypatch.setenv(f"PANDAS_LLM_{name}", "")
    settings._warned_of.clear()
    pandas_llm.configure()
