"""A verb's keywords: what Shift-Tab shows of them, and what a wrong one is answered with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from pandas_llm.core.options import OPTION_NAMES, RunOptions, check_names, default_of, meaning_of

V = TypeVar("V")
P = ParamSpec("P")
R = TypeVar("R")

_TEXT = re.compile(r"text : .*\n(    .*\n)+")
_RETURNS = re.compile(r"(?<=Returns\n-------\n)(.+\n)+")

OF_SERIES = """Series or DataFrame
    One Series, named like the output, with this one's index; a DataFrame of the new columns where the call
    asks for more than one. Rows without an answer are counted in one `IncompleteWarning`.
"""
OF_COLUMNS = """DataFrame
    The new columns, with this one's index. Rows without a vector are counted in one `IncompleteWarning`.
"""
OF_TEXTS = """DataFrame
    The texts nearest to the query, best first, with their labels, and a column `similarity`.
"""


def named(verb: Callable[Concatenate[V, P], R]) -> Callable[Concatenate[V, P], R]:
    """A verb that answers a keyword nobody knows before Python misses the argument it stands for."""
    own = verb.__code__.co_varnames[: verb.__code__.co_argcount + verb.__code__.co_kwonlyargcount]

    @wraps(verb)
    def checked(self: V, /, *args: P.args, **kwargs: P.kwargs) -> R:
        check_names((name for name in kwargs if name not in own or name == "text"), (*OPTION_NAMES, *own[2:]))
        return verb(self, *args, **kwargs)

    return checked


def complete(
    verb: Any, of: Any, *, details: str = "usage", returns: str | None = None, without: Collection[str] = ()
) -> None:
    """Give a verb the signature and the docstring that Shift-Tab shows: every option with its default.

    Parameters
    ----------
    verb
        The function that gets them.
    of
        Whose own keywords and words they are; they end in `**options`.
    details
        The default of this option.
    returns
        What comes back of a Series, which is the text itself.
    without
        Options that mean nothing to it.
    """
    text = returns is None
    left_out = {*inspect.signature(of).parameters, *without}
    own = [
        parameter
        for parameter in inspect.signature(of).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and (text or parameter.name != "text")
    ]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=details if name == "details" else default_of(name),
            annotation=_annotation(name),
        )
        for name in RunOptions.__annotations__
        if name not in left_out
    ]
    doc = inspect.getdoc(of) or ""
    if returns is not None:
        doc = _TEXT.sub("", _RETURNS.sub(lambda _: returns, doc))
    lines = (f"{p.name} : {p.annotation}, default {p.default!r}\n    {meaning_of(p.name)}" for p in shared)
    verb.__doc__ = doc.replace("**options\n    See below.", "\n".join(lines))
    verb.__signature__ = inspect.Signature([*own, *shared])


def _annotation(name: str) -> str:
    annotation = RunOptions.__annotations__[name]
    return str(getattr(annotation, "__forward_arg__", annotation))
