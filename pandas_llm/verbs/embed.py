"""A vector for each text, near those of texts that mean the same."""

from __future__ import annotations

from typing import Any

from pandas_llm.core.errors import OptionsError, SchemaMismatchError
from pandas_llm.core.options import Options
from pandas_llm.core.prompts import excerpt
from pandas_llm.core.types import Field, Task, Values
from pandas_llm.core.vectors import floats

DEFAULT_MODEL = "text-embedding-3-small"


def model_id(model: object, configured: str) -> Any:
    """The model that is asked where a call says `model`, and where it says none and one is configured."""
    if callable(model):
        return "callable"  # whose name is the function's
    if model is not None:
        return model
    # What else is configured is a language model.
    return "local" if configured == "local" else DEFAULT_MODEL


def task(*, output: str, **_: None) -> Task:
    """What `embed` asks; it has neither instructions nor examples."""
    return Task(
        verb="embed",
        output=output,
        system="",
        schema=None,
        fields=(Field(output, "vector"),),
        read=_read,
    )


def check(options: Options, *, in_process: bool) -> None:
    """Refuse options that requests for vectors don't have.

    Raises
    ------
    OptionsError
        Before anything is sent.
    """
    dimensions = options.params.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise OptionsError(f"dimensions is a whole number above 0; got {excerpt(dimensions)}.")
    if options.service_tier not in (None, "auto", "default"):
        raise OptionsError(
            f"service_tier={options.service_tier!r}: requests for vectors have no tiers; "
            'mode="batch" is how they cost less.'
        )
    if not in_process:
        return
    if options.params:
        raise OptionsError(
            f"params can't hold {next(iter(options.params))!r} here: a model in this process takes texts "
            "alone, and its vectors are as long as they are."
        )
    if options.mode != "concurrent":
        raise OptionsError(
            f"A model in this process answers at once and for free: leave mode={options.mode!r} out."
        )
    if options.client is not None:
        raise OptionsError("A model in this process asks no server: leave client= out, or name its model.")


def _read(content: str, /) -> Values:
    try:
        floats(content)
    except ValueError as error:
        raise SchemaMismatchError(f"The reply is no vector: {error}") from None
    return [content]
