"""Options that are values of their own: how a run is cut into batches, how near-equal texts are found."""

from __future__ import annotations

import difflib
import math
import numbers
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, TypeVar

from pandas_llm.core.errors import OptionsError

T = TypeVar("T")


def _naming_fields(cls: type[T]) -> type[T]:
    """Let a class answer a field nobody knows with the nearest one."""
    made = cls.__init__
    names = [each.name for each in fields(cls)]  # type: ignore[arg-type]

    @wraps(made)
    def checked(self: T, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(names)}."
                raise OptionsError(f"{cls.__name__} has no {name!r}. {hint}")
        made(self, *args, **given)

    cls.__init__ = checked  # type: ignore[assignment]
    return cls


@_naming_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How a run is cut into batches and how they are watched; for `mode="batch"`."""

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    min_requests: int = 21
    pilot: int = 3
    poll: tuple[float, float] = (5, 60)
    delete_files: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        for name, least, most in _BATCH_RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
                raise OptionsError(f"Batches: {name} is a whole number from {least:,} on; got {value!r}.")
            if int(value) > most:
                raise OptionsError(f"Batches: {name} is at most {most:,}, which no provider goes beyond.")
        try:
            shortest, longest = map(float, self.poll)
        except (TypeError, ValueError):
            shortest = longest = math.nan
        if not 0 < shortest <= longest < math.inf:
            raise OptionsError(
                f"Batches: poll is (shortest, longest) seconds between two looks; got {self.poll!r}."
            )
        for name in ("delete_files", "force"):
            if not isinstance(getattr(self, name), bool):
                raise OptionsError(f"Batches: {name} is True or False; got {getattr(self, name)!r}.")


_BATCH_RANGES = (
    ("max_requests", 1, 50_000),
    ("max_bytes", 1, 200_000_000),
    ("min_requests", 1, math.inf),
    ("pilot", 0, math.inf),
)


@_naming_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """How near-equal texts share one answer, and how often that may be wrong; for `dedupe="semantic"`.

    Texts are compared by vectors. A pair that may be alike has to pass guards: nothing may differ but
    capitals, spaces, end marks, greetings, a few polite words, or a slip in one long word. Then some of the
    texts that would take an answer are asked all the same, and what they say decides from which similarity
    on the others take it; their source is `"similar"`. If the audit doesn't certify the error that was
    asked for, each text gets its own answer. The bound is a betting confidence sequence, so that the audit
    may stop at any moment [1]_, with similarity as the score of which a threshold is sought [2]_. Compared
    texts and their vectors are kept in the store, as nothing else of a text is.

    Parameters
    ----------
    threshold : float or "auto"
        The least similarity (cosine) of two texts that share an answer. A number is taken as it is, and the
        audit only reports.
    max_error : float
        Of the rows that take an answer, at most this share would have got another one of their own…
    confidence : float
        … with this probability.
    audit : int
        How many texts may be asked for the audit, at most; fewer wherever that decides it. Their answers are
        theirs to keep.
    embed : str, callable, optional
        What makes the vectors: a model's id, `"local"`, or a function from a list of texts to an array of one
        row a text. Default `"text-embedding-3-small"`, or `"local"` where that model is configured.
    agreement : callable, optional
        Whether two answers agree, a function of both. By default they must be equal. For `extract` it gets
        two lists, of the fields' values in their order, unless there is one field. `generate` needs it.

    References
    ----------
    .. [1] Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting. JRSS-B 86, 2024.
    .. [2] Zeighami, Shankar, Parameswaran: Cut costs, not accuracy. SIGMOD 2026 (arXiv 2509.02896).

    Examples
    --------
    >>> from pandas_llm import Semantic
    >>> careful = Semantic(max_error=0.01, embed="local")
    >>> careful.threshold
    'auto'
    """

    threshold: float | Literal["auto"] = "auto"
    max_error: float = 0.05
    confidence: float = 0.95
    audit: int = 200
    embed: Any = None
    agreement: Any = None

    def __post_init__(self) -> None:
        if self.threshold != "auto":
            _share("threshold", self.threshold, 'or "auto"')
        _share("max_error", self.max_error)
        _share("confidence", self.confidence)
        if self.confidence >= 1:
            raise OptionsError("Semantic: confidence is below 1: only asking every text is certain.")
        audit: Any = self.audit
        if isinstance(audit, bool) or not isinstance(audit, numbers.Integral) or int(audit) < 0:
            raise OptionsError(f"Semantic: audit is a whole number from 0 on; got {self.audit!r}.")
        if not audit and self.threshold == "auto":
            raise OptionsError(
                'Semantic: with audit=0 nobody could tell which threshold to take for "auto", and nothing '
                "would be shared. Say threshold=0.95 to share without an audit."
            )
        if not (self.embed is None or callable(self.embed) or (isinstance(self.embed, str) and self.embed)):
            raise OptionsError(
                'Semantic: embed is the id of a model, "local", or a function from a list of texts to an '
                f"array; got {self.embed!r}."
            )
        if self.agreement is not None and not callable(self.agreement):
            raise OptionsError(
                "Semantic: agreement is a function of two answers, True where they agree; got "
                f"{self.agreement!r}."
            )


def _share(name: str, value: Any, other: str = "") -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise OptionsError(
            f"Semantic: {name} is above 0 and at most 1{other and ' ' + other}; got {value!r}."
        )
