"""What a user sees before calling: signatures, help, cards, a second name; and what an import costs."""

import asyncio
import gc
import inspect
import json
import pickle
import statistics
import subprocess
import sys
import textwrap
import warnings
import weakref

import pandas as pd
import pytest
from fakes.stopwatch import within

import pandas_llm
from pandas_llm import Batches, DataFrameLLM, SeriesLLM
from pandas_llm.errors import OptionsError

LABELS = ["bug", "question"]
FRAME = pd.DataFrame({"body": ["a bug", "a question"]})
SERIES = FRAME["body"]
DEFAULTS = {
    "model": "gpt-6-luna",
    "params": {},
    "mode": "concurrent",
    "wait": True,
    "deadline": None,
    "batches": Batches(
        max_requests=50_000,
        max_bytes=200_000_000,
        min_requests=21,
        pilot=3,
        poll=(5, 60),
        delete_files=False,
        force=False,
    ),
    "service_tier": None,
    "max_concurrency": 64,
    "rpm": None,
    "tpm": None,
    "max_retries": 6,
    "timeout": None,
    "max_cost": None,
    "confirm_above": 10,
    "prices": {},
    "cache": True,
    "retry_failed": False,
    "dedupe": "exact",
    "on_null": "skip",
    "on_conflict": "raise",
    "on_error": "column",
    "max_error_rate": 0.5,
    "details": "usage",
    "progress": True,
    "client": None,
    "loop": "own",
}
OWN = {
    "classify": {
        "labels": inspect.Parameter.empty,
        "multi_label": False,
        "instructions": None,
        "examples": None,
        "explain": False,
        "confidence": False,
        "output": None,
    },
    "extract": {
        "schema": inspect.Parameter.empty,
        "many": False,
        "instructions": None,
        "examples": None,
        "output": None,
    },
    "generate": {"instructions": None, "examples": None, "output": None},
    "embed": {"output": None, "model": None},
    "dedupe": {"threshold": 0.8, "guards": True, "output": None, "model": None},
    "similar": {"query": inspect.Parameter.empty, "k": 10, "model": None},
}
WITHOUT = {"dedupe": {"dedupe"}, "similar": {"dedupe", "details", "on_conflict"}}
"""Options that mean nothing to a verb."""
DOORS = {
    "frame": lambda: FRAME.llm,
    "frame aio": lambda: FRAME.llm.aio,
    "frame estimate": lambda: FRAME.llm.estimate,
    "series": lambda: SERIES.llm,
    "series aio": lambda: SERIES.llm.aio,
    "series estimate": lambda: SERIES.llm.estimate,
}


def in_a_new_process(code, *flags):
    """What a fresh interpreter prints."""
    command = [sys.executable, *flags, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("verb", OWN)
@pytest.mark.parametrize("door", DOORS)
def test_the_signature_lists_every_option_with_its_default(door, verb):
    parameters = inspect.signature(getattr(DOORS[door](), verb)).parameters
    text = {} if door.startswith("series") else {"text": inspect.Parameter.empty}
    silent = door.startswith("series") or verb == "dedupe"
    shared = DEFAULTS | ({"details": "none"} if silent else {})
    without = {*OWN[verb], *WITHOUT.get(verb, ())}
    shared = {name: default for name, default in shared.items() if name not in without}
    assert {name: p.default for name, p in parameters.items()} == text | OWN[verb] | shared
    assert list(parameters)[-len(shared) :] == list(shared)
    for name in shared:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert isinstance(parameters[name].annotation, str)
    if text:
        assert parameters["text"].kind is inspect.Parameter.POSITIONAL_ONLY


@pytest.mark.parametrize("verb", OWN)
@pytest.mark.parametrize("door", DOORS)
def test_help_says_what_each_option_does(door, verb):
    function = getattr(DOORS[door](), verb)
    text = inspect.getdoc(function)
    assert text.splitlines()[0].endswith((".", "else."))
    for name, default in DEFAULTS.items():
        if name not in ("details", *OWN[verb], *WITHOUT.get(verb, ())):
            assert f"{name} : " in text
            assert f"default {default!r}" in text
    assert "See below" not in text


def test_help_says_what_a_mode_gets_you():
    text = inspect.getdoc(FRAME.llm.classify)
    for words in ("the Batch API", "the cheapest way that makes `deadline`", "the same line again collects"):
        assert words in text


def test_the_fields_of_batches_are_its_signature():
    parameters = inspect.signature(Batches).parameters
    shown = {name: p.default for name, p in parameters.items()}
    assert shown == {name: getattr(Batches(), name) for name in shown}
    assert list(shown)[:4] == ["max_requests", "max_bytes", "min_requests", "pilot"]
    assert pickle.loads(pickle.dumps(Batches(pilot=1))) == Batches(pilot=1)


def test_help_of_a_series_speaks_of_a_series():
    for verb in OWN:
        text = inspect.getdoc(getattr(SERIES.llm, verb))
        assert "text : " not in text
        returned = {"dedupe": "The new columns", "similar": "The texts nearest to the query"}
        assert returned.get(verb, "One Series, named like the output") in text
        assert "A new frame" not in text
        assert "text : column name" in inspect.getdoc(getattr(FRAME.llm, verb))


def test_a_query_may_be_given_by_place_and_how_many_only_by_name():
    kinds = {name: p.kind.name for name, p in inspect.signature(FRAME.llm.similar).parameters.items()}
    assert (kinds["text"], kinds["query"]) == ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
    assert kinds["k"] == "KEYWORD_ONLY"
    assert next(iter(inspect.signature(SERIES.llm.similar).parameters)) == "query"


@pytest.mark.parametrize("verb", OWN)
def test_a_missing_argument_is_pythons_own_error(verb):
    with pytest.raises(TypeError):
        getattr(FRAME.llm, verb)()


def test_the_card_names_the_verbs():
    card = repr(FRAME.llm)
    for word in (
        "2 rows",
        "classify",
        "extract",
        "generate",
        "embed",
        "dedupe",
        "similar",
        "estimate",
        "aio",
        "show",
        "evaluate",
        "export",
    ):
        assert word in card
    card = repr(SERIES.llm)
    for word in (
        "2 texts",
        "classify",
        "extract",
        "generate",
        "embed",
        "dedupe",
        "similar",
        "estimate",
        "aio",
    ):
        assert word in card


def test_llm_gives_the_typed_door():
    assert type(pandas_llm.llm(FRAME)) is type(FRAME.llm) is DataFrameLLM
    assert type(pandas_llm.llm(SERIES)) is type(SERIES.llm) is SeriesLLM
    with pytest.raises(TypeError, match="DataFrame or a Series"):
        pandas_llm.llm([1])


def test_the_typed_door_does_the_same(server):
    out = pandas_llm.llm(FRAME).classify("body", LABELS)
    pd.testing.assert_series_equal(out["body_label"], FRAME.llm.classify("body", LABELS)["body_label"])


def test_every_public_name_is_there():
    for name in pandas_llm.__all__:
        assert getattr(pandas_llm, name) is not None
    assert {
        *[
            "configure",
            "option_context",
            "runs",
            "last_run",
            "cancel",
            "cache_info",
            "clear_cache",
            "register",
        ],
        *["llm", "DataFrameLLM", "SeriesLLM", "Batches", "Semantic", "errors", "read_batch_output"],
    } <= set(pandas_llm.__all__)


def test_aio_gives_a_coroutine_and_checks_its_arguments_at_the_call(server):
    work = FRAME.llm.aio.classify("body", LABELS)
    assert asyncio.iscoroutine(work)
    assert server.requests == []
    assert asyncio.run(work)["body_label"].tolist() == ["bug", "question"]
    with pytest.raises(OptionsError, match="Did you mean 'body'"):
        FRAME.llm.aio.classify("bdy", LABELS)


def test_aio_of_a_series_checks_its_arguments_at_the_call_too(server):
    work = SERIES.llm.aio.classify(LABELS)
    assert asyncio.iscoroutine(work)
    assert asyncio.run(work).tolist() == ["bug", "question"]
    with pytest.raises(OptionsError, match="one label"):
        SERIES.llm.aio.classify(["bug"])


def test_several_calls_of_aio_run_together(server):
    async def both():
        return await asyncio.gather(
            FRAME.llm.aio.classify("body", LABELS), FRAME.llm.aio.generate("body", "Say it.")
        )

    one, other = asyncio.run(both())
    assert one["body_label"].tolist() == ["bug", "question"]
    assert other["body_output"].tolist() == ["echo: a bug", "echo: a question"]


def test_a_verb_can_be_called_where_a_loop_runs(server):
    async def cell():
        return FRAME.llm.classify("body", LABELS)

    assert asyncio.run(cell())["body_label"].tolist() == ["bug", "question"]


def test_the_accessor_does_not_keep_its_frame_alive():
    frame, series = pd.DataFrame({"a": ["x"]}), pd.Series(["x"])
    kept = weakref.ref(frame), weakref.ref(series)
    gc.disable()
    try:
        assert "classify" in repr(frame.llm) + repr(series.llm)
        del frame, series
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


# A second name, a foreign one --------------------------------------------------------------------------


def test_register_adds_a_second_name_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pandas_llm.register("ask_here")
        pandas_llm.register("ask_here")
    try:
        assert type(FRAME.ask_here) is DataFrameLLM
        assert type(SERIES.ask_here) is SeriesLLM
    finally:
        del pd.DataFrame.ask_here, pd.Series.ask_here


@pytest.mark.parametrize("name", ["shape", "head", "columns", "str", "plot", "a b", ""])
def test_register_never_takes_a_name_of_pandas(name):
    before = pd.DataFrame.shape, pd.Series.str
    with pytest.raises(OptionsError):
        pandas_llm.register(name)
    assert (pd.DataFrame.shape, pd.Series.str) == before


def test_a_foreign_accessor_found_at_import_is_warned_about_by_name():
    said = in_a_new_process(
        """
        import warnings
        import pandas as pd

        @pd.api.extensions.register_dataframe_accessor("llm")
        class TheirLLM:
            def __init__(self, frame): ...

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import pandas_llm
        for warning in caught:
            print(warning.category.__name__, warning.message)
        print(type(pd.DataFrame({"a": []}).llm).__name__)
        """
    )
    warned = [line for line in said.splitlines() if line.startswith("LLMWarning")]
    assert len(warned) == 1
    assert "__main__.TheirLLM" in warned[0]
    assert 'register("ask")' in warned[0]
    assert said.strip().endswith("DataFrameLLM")


# What an import does -----------------------------------------------------------------------------------


def test_an_import_opens_no_file_and_no_socket():
    events = json.loads(
        in_a_new_process(
            """
            import json, sys
            import pandas
            seen = []
            sys.addaudithook(lambda event, args: seen.append((event, str(args[0]))))
            import pandas_llm
            opened = [
                path for event, path in seen
                if event == "open" and not path.endswith((".py", ".pyc", ".so", ".toml"))
            ]
            wired = [e for e, _ in seen if e.startswith(("socket.", "sqlite3.", "subprocess.", "os.mkdir"))]
            print(json.dumps([opened, wired]))
            """
        )
    )
    assert events == [[], []]


def test_an_import_loads_nothing_heavy():
    loaded = in_a_new_process(
        """
        import sys
        import pandas
        before = set(sys.modules)
        import pandas_llm
        print(*{name.partition(".")[0] for name in set(sys.modules) - before})
        """
    ).split()
    heavy = {
        *["openai", "httpx", "aiohttp", "pydantic", "genai_prices", "tiktoken", "tokenizers", "safetensors"],
        *["ipywidgets", "IPython", "nest_asyncio", "matplotlib", "openpyxl", "datasets"],
    }
    assert heavy.isdisjoint(loaded)


def test_an_import_is_quick():
    code = """
    import time
    import pandas
    start = time.perf_counter()
    import pandas_llm
    print(time.perf_counter() - start)
    """
    seconds = statistics.median(float(in_a_new_process(code)) for _ in range(5))
    # It takes 0.02 s: the bound is what is promised, with room for a busy machine.
    within(seconds, 0.15)
