"""Label, extract and rewrite text columns of a DataFrame with an LLM: no row lost, nothing paid twice.

Importing this registers `DataFrame.llm` and `Series.llm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pandas_llm import errors
from pandas_llm._version import VERSION
from pandas_llm.accessor import DataFrameLLM, SeriesLLM
from pandas_llm.core.compound import Batches, Semantic
from pandas_llm.functions import cache_info, cancel, clear_cache, last_run, read_batch_output, runs
from pandas_llm.registration import llm, register
from pandas_llm.settings import configure, option_context

if TYPE_CHECKING:
    from pandas_llm.evaluate import Evaluation
    from pandas_llm.history import Estimate, LastRun

__all__ = [
    "Batches",
    "DataFrameLLM",
    "Estimate",
    "Evaluation",
    "LastRun",
    "Semantic",
    "SeriesLLM",
    "__version__",
    "cache_info",
    "cancel",
    "clear_cache",
    "configure",
    "errors",
    "last_run",
    "llm",
    "option_context",
    "read_batch_output",
    "register",
    "runs",
]

__version__ = VERSION
_RESULTS = {"Estimate": "history", "Evaluation": "evaluate", "LastRun": "history"}


def __getattr__(name: str) -> Any:
    # These classes bring all that works with them, 100 ms of it.
    if name in _RESULTS:
        from importlib import import_module

        return getattr(import_module(f"pandas_llm.{_RESULTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


register()
