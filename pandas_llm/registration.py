"""How the verbs are reached: `df.llm` and second names on pandas objects, `llm(df)` for type checkers."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, overload

import pandas as pd

from pandas_llm.accessor import DataFrameLLM, SeriesLLM
from pandas_llm.core.errors import LLMWarning, OptionsError


@overload
def llm(data: pd.DataFrame) -> DataFrameLLM: ...
@overload
def llm(data: pd.Series[Any]) -> SeriesLLM: ...
def llm(data: pd.DataFrame | pd.Series[Any]) -> DataFrameLLM | SeriesLLM:
    """The same object as `df.llm`, typed: a type checker sees `df.llm` as `Any`.

    Examples
    --------
    >>> import pandas as pd, pandas_llm
    >>> pandas_llm.llm(pd.Series(["a text"])).estimate.generate("Translate.").rows
    1
    """
    if isinstance(data, pd.DataFrame):
        return DataFrameLLM(data)
    if isinstance(data, pd.Series):
        return SeriesLLM(data)
    raise TypeError(f"llm takes a DataFrame or a Series; got {type(data).__name__}.")


def _registered(owner: type, name: str) -> Any:
    """What stands under a name; pandas' own methods are never replaced."""
    there = inspect.getattr_static(owner, name, None)
    if there is None:
        return None
    theirs = getattr(there, "_accessor", there)
    theirs = getattr(theirs, "fget", theirs)
    if not hasattr(theirs, "__qualname__"):
        theirs = type(theirs)
    if theirs.__module__.split(".")[0] == "pandas":
        raise OptionsError(f"{owner.__name__}.{name} is pandas' own: register the verbs under another name.")
    return theirs


def register(name: str = "llm") -> None:
    """Make the verbs available as `df.<name>` and `s.<name>` too.

    Parameters
    ----------
    name : str, default "llm"
        The name; another package's accessor of that name is replaced, with a warning that names it.

    Raises
    ------
    OptionsError
        It is no name, or one of pandas' own.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.register("ask")
    """
    if not name.isidentifier():
        raise OptionsError(f"register takes a name, as one writes it after a dot; got {name!r}.")
    found = [(owner, _registered(owner, name)) for owner in (pd.DataFrame, pd.Series)]
    for owner, theirs in found:
        if theirs is not None and theirs.__module__ != DataFrameLLM.__module__:
            who = f"{theirs.__module__}.{theirs.__qualname__}"
            warnings.warn(
                f"{owner.__name__}.{name} was {who}; it is pandas_llm's now. "
                f'pandas_llm.register("ask") gives these verbs a name of their own.',
                LLMWarning,
                stacklevel=2,
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas' own, which doesn't say who was there
        pd.api.extensions.register_dataframe_accessor(name)(DataFrameLLM)
        pd.api.extensions.register_series_accessor(name)(SeriesLLM)
    for owner, verbs in ((pd.DataFrame, DataFrameLLM), (pd.Series, SeriesLLM)):
        setattr(owner, name, _Accessor(verbs))


class _Accessor:
    """Makes the verbs anew at each access, as pandas 3 does.

    Pandas 2 keeps them on the frame, which they refer to: such a frame would live until the next collection.
    """

    def __init__(self, accessor: type[DataFrameLLM | SeriesLLM]) -> None:
        self._accessor = accessor

    def __get__(self, data: Any, owner: type) -> Any:
        return self._accessor if data is None else self._accessor(data)
