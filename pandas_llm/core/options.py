"""Every option with its default, once; what a wrong or a foreign word is answered with."""

from __future__ import annotations

import difflib
import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pandas_llm.core.compound import Batches, Semantic
from pandas_llm.core.errors import OptionsError

if TYPE_CHECKING:
    from pathlib import Path

Details = Literal["none", "errors", "usage", "all"]


class _ModelOption(TypedDict, total=False):
    model: str


class EmbedOptions(TypedDict, total=False):
    """The keywords that every verb takes but `model`, which can be a function where vectors are asked for."""

    params: Mapping[str, Any]
    mode: Literal["concurrent", "batch", "auto"]
    wait: bool
    deadline: Any
    batches: Batches
    service_tier: str | None
    max_concurrency: int
    rpm: float | None
    tpm: float | None
    max_retries: int
    timeout: float | None
    max_cost: float | None
    confirm_above: float | None
    prices: Mapping[str, tuple[float, ...]]
    cache: bool | str | Path
    retry_failed: bool
    dedupe: Literal["exact", "semantic"] | Semantic | bool
    on_null: Literal["skip", "raise", "send"]
    on_conflict: Literal["raise", "keep", "overwrite"]
    on_error: Literal["column", "raise"]
    max_error_rate: float
    details: Details
    progress: bool
    client: Any
    loop: Literal["own", "notebook"]


class RunOptions(_ModelOption, EmbedOptions, total=False):
    """The keywords that every verb takes; what each one means is in `Options`."""


def _option(default: Any, meaning: str, *, shown: bool = True) -> Any:
    """A field with its default and, beside it, the words that help() says about it."""
    return field(default=default, repr=shown, metadata={"meaning": meaning})


def _made(factory: Any, meaning: str) -> Any:
    return field(default_factory=factory, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one call, resolved and valid."""

    model: str = _option("gpt-6-luna", 'Any id the endpoint knows; `"local"` is the embedded model.')
    params: Mapping[str, Any] = _made(
        dict, "Sent verbatim: `temperature`, `seed`, `max_completion_tokens`, `reasoning_effort`, …"
    )
    mode: str = _option(
        "concurrent",
        '`"batch"`: the Batch API, cheaper, within a day; `"auto"`: the cheapest way that makes `deadline`.',
    )
    wait: bool = _option(
        True, 'For `mode="batch"`: False submits and returns at once; the same line again collects.'
    )
    deadline: Any = _option(
        None, 'For `mode="auto"`: when answers are needed: `"6h"`, a timedelta, a datetime, or a column.'
    )
    batches: Batches = _made(Batches, "For batches: sizes and polling.")
    service_tier: str | None = _option(None, '`"flex"` where the model has it.')
    max_concurrency: int = _option(64, "Requests in flight, at most; adaptive below it.")
    rpm: float | None = _option(
        None, "Requests a minute to this endpoint and model, shared by the process; None: learnt."
    )
    tpm: float | None = _option(None, "Tokens a minute, likewise.")
    max_retries: int = _option(6, "Per request; waits for a rate limit don't count.")
    timeout: float | None = _option(None, "Seconds for the whole answer; None: 600, for flex 900.")
    max_cost: float | None = _option(None, "USD for this call; what it doesn't cover stays pending.")
    confirm_above: float | None = _option(10.0, "USD: a dearer call that names no `max_cost` isn't started.")
    prices: Mapping[str, tuple[float, ...]] = _made(
        dict, "`{model: (input, output)}` or `(input, cached, output)`, USD per million tokens."
    )
    cache: bool | str | Path = _option(True, 'True, a path, `"only"`, `"refresh"`, or False.')
    retry_failed: bool = _option(False, "True buys again what was billed and couldn't be used.")
    dedupe: str | Semantic | bool = _option(
        "exact",
        '`"exact"`: equal texts are asked once; `"semantic"`: near-equal ones too, with a measured '
        "error that `Semantic(…)` sets; False: the n-th row of equal text is sample n.",
    )
    on_null: str = _option("skip", 'Rows without text: `"skip"`, `"raise"`, or `"send"` the empty text.')
    on_conflict: str = _option(
        "raise", 'An output that holds values no run wrote: `"raise"`, `"keep"` them, or `"overwrite"`.'
    )
    on_error: str = _option("column", 'Failed rows: a column, or `"raise"` at the end.')
    max_error_rate: float = _option(
        0.5, "Stops when more than this share of the last 200 requests failed for good."
    )
    details: Details = _option("usage", 'Side columns: `"none"`, `"errors"`, `"usage"`, `"all"`.')
    progress: bool = _option(True, "Whether a run is shown.")
    client: Any = _option(None, "A ready client of the `openai` package.", shown=False)
    loop: str = _option(
        "own", '`"notebook"`: the notebook\'s own event loop, for clients and callables bound to it.'
    )
    api_key: str | None = _option(None, "Never shown, never stored.", shown=False)
    base_url: str | None = _option(None, "The endpoint; None: OpenAI's.")
    store_path: str | Path | None = _option(None, "Where the store is, whatever `cache` says of its use.")

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionsError(_bad_choice(name, getattr(self, name), allowed))
        for name, low, high in _RANGES:
            _check_number(name, getattr(self, name), low, high)
        for name in ("max_concurrency", "max_retries"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), numbers.Integral):
                raise OptionsError(f"{name} is a whole number; got {getattr(self, name)!r}.")
        for name in ("wait", "retry_failed", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise OptionsError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if not isinstance(self.model, str) or not self.model:
            raise OptionsError(f"model is the id of a model, a string; got {self.model!r}.")
        for name in ("api_key", "base_url"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise OptionsError(f"{name} is a string; got a {type(getattr(self, name)).__name__}.")
        if not isinstance(self.batches, Batches):
            raise OptionsError(f"batches is a pandas_llm.Batches(…); got {self.batches!r}.")
        _check_cache(self.cache)
        _check_params(self.params)
        _check_prices(self.prices)
        _check_texts(self)

    @property
    def semantic(self) -> Semantic | None:
        """How near-equal texts share an answer; None where only equal ones do."""
        if isinstance(self.dedupe, Semantic):
            return self.dedupe
        return Semantic() if self.dedupe == "semantic" else None

    @property
    def seconds(self) -> float:
        """The timeout that applies."""
        return self.seconds_at(self.service_tier)

    def seconds_at(self, tier: str | None) -> float:
        """The timeout that applies to a service tier."""
        return self.timeout or (900.0 if tier == "flex" else 600.0)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": ("concurrent", "batch", "auto"),
    "on_null": ("skip", "raise", "send"),
    "on_conflict": ("raise", "keep", "overwrite"),
    "on_error": ("column", "raise"),
    "details": ("none", "errors", "usage", "all"),
    "loop": ("own", "notebook"),
    "service_tier": (None, "auto", "default", "flex", "scale", "priority", "fast", "ultrafast"),
}
_RANGES = (
    ("max_concurrency", 1, math.inf),
    ("max_retries", 0, math.inf),
    ("rpm", 0, math.inf),
    ("tpm", 0, math.inf),
    ("timeout", 0, math.inf),
    ("max_cost", 0, math.inf),
    ("confirm_above", 0, math.inf),
    ("max_error_rate", 0, 1),
)
_OURS = (
    *("model", "messages", "response_format", "n", "tools", "logprobs", "top_logprobs", "service_tier"),
    *("input", "encoding_format"),
)
_INSTEAD = {
    "model": "model=",
    "service_tier": "service_tier=",
    "messages": "text and instructions=",
    "response_format": "df.llm.extract(text, schema)",
    "n": "dedupe=False, which gives each row of equal text a sample of its own",
    "logprobs": "confidence=True of df.llm.classify",
    "top_logprobs": "confidence=True of df.llm.classify",
}
_CACHE_WORDS = ("only", "refresh")
_FOREIGN = {
    "inplace": "a verb returns a new frame: write df = df.llm.…",
    "temperature": 'write params={"temperature": …}',
    "seed": 'write params={"seed": …}',
    "top_p": 'write params={"top_p": …}',
    "reasoning_effort": 'write params={"reasoning_effort": …}',
    "max_tokens": 'write params={"max_completion_tokens": …}',
    "max_completion_tokens": 'write params={"max_completion_tokens": …}',
    "categories": "write labels=[…]",
    "classes": "write labels=[…]",
    "rails": "write labels=[…]",
    "choices": "write labels=[…]",
    "prompt": "what varies is the first argument, a column or a template; what is fixed is instructions=",
    "system": "write instructions=…",
    "system_prompt": "write instructions=…",
    "response_format": "use df.llm.extract(text, schema)",
    "output_column": "write output=…",
    "column": "the text is the first argument, without a name",
    "text": "the text is the first argument, without a name; of a Series it is the Series itself",
    "n_jobs": "write max_concurrency=…",
    "max_workers": "write max_concurrency=…",
    "concurrency": "write max_concurrency=…",
    "verbose": "write progress=True or False",
    "show_progress": "write progress=True or False",
    "dry_run": "use df.llm.estimate.…, which sends nothing",
    "batch": 'write mode="batch"',
    "batch_size": "rows aren't packed; max_concurrency= sets how many are in flight",
    "budget": "write max_cost=…",
    "retries": "write max_retries=…",
    "api_key": "write pandas_llm.configure(api_key=…) or set OPENAI_API_KEY",
    "base_url": "write pandas_llm.configure(base_url=…) or set OPENAI_BASE_URL",
}
OPTION_NAMES = tuple(RunOptions.__annotations__)
_FIELDS = {option.name: option for option in fields(Options)}
CONFIGURABLE = (*OPTION_NAMES, "api_key", "base_url")


def check_names(given: Iterable[str], known: tuple[str, ...] = OPTION_NAMES) -> None:
    """Refuse a keyword nobody knows, with the nearest name or what to write for a word from elsewhere."""
    for name in given:
        if name in known:
            continue
        if name in _FOREIGN:
            raise OptionsError(f"There is no option {name!r} here: {_FOREIGN[name]}.")
        near = difflib.get_close_matches(name, {*known, *_FOREIGN})
        # `modle` is `model`, though `mode` is nearer.
        near.sort(key=lambda other: sorted(other) != sorted(name))
        raise OptionsError(f"Unknown option {name!r}. {_hint(near, known)}")


def _hint(near: Sequence[str], known: Sequence[str]) -> str:
    if not near:
        return f"The options are {', '.join(known)}."
    if near[0] in known:
        return f"Did you mean {near[0]!r}?"
    return f"Did you mean {near[0]!r}? That is no option here; {near[0]}: {_FOREIGN[near[0]]}."


def default_of(name: str) -> Any:
    """The default of an option."""
    found = _FIELDS[name]
    return found.default_factory() if callable(found.default_factory) else found.default


def meaning_of(name: str) -> str:
    """What an option does, in a line."""
    return str(_FIELDS[name].metadata["meaning"])


def _bad_choice(name: str, got: Any, allowed: tuple[Any, ...]) -> str:
    near = difflib.get_close_matches(str(got), [str(a) for a in allowed], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name} is one of {', '.join(repr(a) for a in allowed)}; got {got!r}.{hint}"


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None and name not in ("max_concurrency", "max_retries", "max_error_rate"):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise OptionsError(f"{name} is a number; got {value!r}.")
    number = float(value)
    positive = name in ("rpm", "tpm", "timeout")
    if number < low or number > high or (positive and number <= 0):
        bound = "above 0" if positive else f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise OptionsError(f"{name} must be {bound}; got {value!r}.")


def _check_cache(cache: Any) -> None:
    ways = 'cache is True, False, "only", "refresh" or the path of a file'
    if isinstance(cache, bool):
        return
    if not (isinstance(cache, str) or hasattr(cache, "__fspath__")) or not str(cache):
        raise OptionsError(f"{ways}; got {cache!r}.")
    # A misspelt word would be taken for a file, and all that is known asked again.
    near = difflib.get_close_matches(str(cache), _CACHE_WORDS, n=1, cutoff=0.7)
    if near and str(cache).isalpha() and cache not in _CACHE_WORDS:
        raise OptionsError(
            f"{ways}; got {cache!r}. Did you mean {near[0]!r}? A file of that name is './{cache}'."
        )


def _check_params(params: Any) -> None:
    if not isinstance(params, Mapping):
        raise OptionsError(f'params is a mapping such as {{"temperature": 0}}; got {type(params).__name__}.')
    for name in params:
        if name in _OURS:
            hint = f": use {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise OptionsError(f"params can't hold {name!r}, which this library sets itself{hint}.")
    try:
        json.dumps(dict(params), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionsError(f"params must be JSON: {error}.") from None


def _check_prices(prices: Any) -> None:
    shape = "prices is {model: (input, output)} or (input, cached, output), USD per million tokens"
    if not isinstance(prices, Mapping):
        raise OptionsError(f"{shape}; got {type(prices).__name__}.")
    for model, price in prices.items():
        if not isinstance(price, (tuple, list)) or len(price) not in (2, 3):
            raise OptionsError(f"{shape}; {model!r} has {price!r}.")
        if any(isinstance(p, bool) or not isinstance(p, (int, float)) or not p >= 0 for p in price):
            raise OptionsError(f"{shape}, none below 0; {model!r} has {price!r}.")


def check_together(options: Options) -> None:
    """Refuse options of a call that are right each, and don't go together: of batches, of deadlines."""
    mode = options.mode
    if options.semantic is not None and options.cache is False:
        raise OptionsError(
            'dedupe="semantic" needs the store, where answers are shared: leave cache=False out.'
        )
    if options.deadline is not None and mode != "auto":
        raise OptionsError('deadline= goes with mode="auto", which picks the route that makes it.')
    if not options.wait and mode != "batch":
        raise OptionsError('wait=False goes with mode="batch": other calls have nothing to come back to.')
    if mode == "concurrent":
        return
    if options.cache is False:
        raise OptionsError(
            f"mode={mode!r} needs the store: it is how a batch is found again and nothing paid twice. Leave "
            "cache=False out."
        )
    if options.model == "local":
        raise OptionsError(f'model="local" answers here, at once and for free: leave mode={mode!r} out.')
    if options.params.get("stream"):
        raise OptionsError(f"mode={mode!r} and params with 'stream': batches don't stream. Leave it out.")
    if options.service_tier not in (None, "auto", "default"):
        raise OptionsError(
            f"service_tier={options.service_tier!r} goes with concurrent requests; mode={mode!r} has prices "
            "of its own."
        )


def _check_texts(options: Options) -> None:
    if not isinstance(options.dedupe, Semantic) and (
        options.dedupe is True or options.dedupe not in ("exact", "semantic", False)
    ):
        raise OptionsError(_bad_choice("dedupe", options.dedupe, ("exact", "semantic", False)))
    if options.model == "local" and options.client is not None:
        raise OptionsError(
            'model="local" is the embedded model, in this process: leave client= out, or name another model.'
        )
