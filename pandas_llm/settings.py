"""Where options come from: call > option_context > configure > environment > default, resolved once."""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import LLMWarning, OptionsError
from pandas_llm.core.options import CONFIGURABLE, Options, check_names, check_together, default_of


@dataclass(frozen=True, slots=True)
class _Layer:
    """Options set together, and the money they share."""

    name: str
    values: Mapping[str, Any]
    budget: Budget | None


_configured: dict[str, Any] = {}
_configured_budget: Budget | None = None
_lock = threading.Lock()
_contexts: ContextVar[tuple[_Layer, ...]] = ContextVar("pandas_llm_options", default=())
_environment_budgets: dict[float, Budget] = {}


class Configuration(dict[str, Any]):
    """Every option: its value and where it came from. A key is never shown.

    Printed after a change it tells the options that were changed alone.
    """

    def __init__(self, values: Mapping[str, Any], changed: Iterable[str] = ()) -> None:
        super().__init__(values)
        self._changed = tuple(changed)

    def __repr__(self) -> str:
        names = self._changed or tuple(self)
        width = max(map(len, names))
        found = ((name, *self[name]) for name in names)
        lines = [f"{name:<{width}}  {shown!s:<24}  {origin}" for name, shown, origin in found]
        if self._changed:
            lines.append(f"pandas_llm.configure() lists all {len(self)} options.")
        return "\n".join(lines)


def configure(**options: Any) -> Configuration:
    """Every option with its value and where it came from, after setting those given for the whole process.

    Parameters
    ----------
    **options
        The keywords of every verb, and `api_key`, `base_url` (else `OPENAI_API_KEY`, `OPENAI_BASE_URL`).
        None takes an option back (`confirm_above=None` switches the question off). `max_cost` is for all
        calls under it together.

    Raises
    ------
    OptionsError
        An unknown option, with the nearest name; a value that can't be.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.configure(max_concurrency=32)["max_concurrency"]
    (32, 'configure')
    >>> _ = pandas_llm.configure(max_concurrency=None)
    """
    global _configured_budget  # noqa: PLW0603 — the process's own settings
    # None takes an option back, so it need not be a value the option can have.
    _check({name: value for name, value in options.items() if value is not None}, options)
    with _lock:
        for name, value in options.items():
            if value is None and name != "confirm_above":
                _configured.pop(name, None)
            else:
                _configured[name] = value
        if "max_cost" in options:
            _configured_budget = _budget(options)
    return Configuration(
        {name: (_shown(name, value), origin) for name, (value, origin) in _found({}).items()}, options
    )


@contextlib.contextmanager
def option_context(**options: Any) -> Iterator[None]:
    """Options for the calls inside a `with` block, in this thread or task.

    Parameters
    ----------
    **options
        As for `configure`. `max_cost` is for all calls of the block together.

    Raises
    ------
    OptionsError
        An unknown option, with the nearest name; a value that can't be.

    Examples
    --------
    >>> import pandas_llm
    >>> with pandas_llm.option_context(max_cost=2.0, details="errors"):
    ...     pass
    """
    _check(options, options)
    token = _contexts.set((*_contexts.get(), _Layer("option_context", dict(options), _budget(options))))
    try:
        yield
    finally:
        _contexts.reset(token)


def resolve(call: Mapping[str, Any], *, details: str = "usage") -> tuple[Options, Budget | None]:
    """The options of one call, and the money it may spend with others or alone.

    Raises
    ------
    OptionsError
        An unknown option, a value that can't be.
    """
    check_names(call)
    found = _found(call)
    if found["details"][1] == "default":
        found["details"] = (details, "default")
    values = {name: value for name, (value, _) in found.items()}
    for name, mode in _OF_MODE.items():
        # A setting is for the calls that it is about; who writes it into another one has mistaken something.
        if values["mode"] != mode and found[name][1] != "call":
            values[name] = default_of(name)
    options = Options(**values, store_path=_store_path(call))
    check_together(options)
    if options.max_cost is None:
        return options, None
    return options, _budget_of(options.max_cost, found["max_cost"][1])


def _budget_of(max_cost: float, origin: str) -> Budget | None:
    if origin == "option_context":
        return next(layer.budget for layer in reversed(_contexts.get()) if "max_cost" in layer.values)
    if origin == "configure":
        return _configured_budget
    if origin.startswith("$"):
        with _lock:
            return _environment_budgets.setdefault(max_cost, Budget(max_cost))
    return Budget(max_cost)


def _budget(options: Mapping[str, Any]) -> Budget | None:
    return Budget(options["max_cost"]) if options.get("max_cost") is not None else None


def _check(values: Mapping[str, Any], names: Iterable[str]) -> None:
    check_names(names, CONFIGURABLE)
    Options(**values)


def _store_path(call: Mapping[str, Any]) -> Any:
    """The nearest path given as `cache`: `"only"` in a call reads the store that was configured."""
    settings = [values.get("cache") for _, values in _layers(call)]
    for cache in (*settings, os.environ.get("PANDAS_LLM_CACHE")):
        if isinstance(cache, (str, os.PathLike)) and cache not in ("only", "refresh", ""):
            if isinstance(cache, str) and cache.lower() in _BOOLS:
                continue
            return cache
    return None


def _layers(call: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    with _lock:
        configured = dict(_configured)
    contexts = ((layer.name, layer.values) for layer in reversed(_contexts.get()))
    return [("call", call), *contexts, ("configure", configured)]


def _found(call: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Every option's value and the layer it came from."""
    _check_environment()
    layers = _layers(call)
    found: dict[str, tuple[Any, str]] = {}
    for name in CONFIGURABLE:
        for origin, values in layers:
            if name in values:
                found[name] = (values[name], origin)
                break
        else:
            found[name] = _from_environment(name)
    return found


def _check_environment() -> None:
    """Warn of variables that say nothing to us, once each: a misspelt budget would be none."""
    for variable in os.environ:
        name = variable.removeprefix("PANDAS_LLM_").lower()
        known = name in _SCALARS or name in _ELSEWHERE or variable in _warned_of
        if known or not variable.startswith("PANDAS_LLM_") or not os.environ[variable]:
            continue
        _warned_of.add(variable)
        if name in ("api_key", "base_url"):
            hint = f"say $OPENAI_{name.upper()}"
        elif name in CONFIGURABLE:
            hint = f"a variable holds a single value; say pandas_llm.configure({name}=…)"
        else:
            near = difflib.get_close_matches(name, _SCALARS, n=1)
            hint = f"did you mean $PANDAS_LLM_{near[0].upper()}?" if near else "no option has this name"
        warnings.warn(f"${variable} says nothing here: {hint}", LLMWarning, stacklevel=2)


_warned_of: set[str] = set()
_ELSEWHERE = ("local_model",)
"""Where the embedded model lies."""


def _from_environment(name: str) -> tuple[Any, str]:
    default = default_of(name)
    if name in ("api_key", "base_url"):
        variable = f"OPENAI_{name.upper()}"
        value = os.environ.get(variable)
        return (value, f"${variable}") if value else (None, "default")
    variable = f"PANDAS_LLM_{name.upper()}"
    text = os.environ.get(variable)
    if not text or name not in _SCALARS:
        return default, "default"
    value = _read(variable, text, _SCALARS[name])
    try:
        Options(**{name: value})
    except OptionsError as error:
        raise OptionsError(f"${variable}: {error}") from None
    return value, f"${variable}"


_OF_MODE = {"wait": "batch", "deadline": "auto"}
# What a variable of the environment can say: the scalars.
_SCALARS: dict[str, str] = {
    "model": "text",
    "mode": "text",
    "wait": "bool",
    "deadline": "text",
    "service_tier": "text",
    "max_concurrency": "int",
    "rpm": "float",
    "tpm": "float",
    "max_retries": "int",
    "timeout": "float",
    "max_cost": "float",
    "confirm_above": "float",
    "cache": "cache",
    "retry_failed": "bool",
    "dedupe": "dedupe",
    "on_null": "text",
    "on_conflict": "text",
    "on_error": "text",
    "max_error_rate": "float",
    "details": "text",
    "progress": "bool",
    "loop": "text",
}
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}
_BOOLS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _read(variable: str, text: str, kind: str) -> Any:
    try:
        match kind:
            case "bool":
                return _BOOLS[text.lower()]
            case "cache" | "dedupe":
                return _BOOLS.get(text.lower(), text)
            case "int":
                return int(text)
            case "float":
                return None if text.lower() == "none" else float(text)
    except (ValueError, KeyError):
        raise OptionsError(f"${variable} should be {_KINDS[kind]}; it is {text[:40]!r}.") from None
    return text


def _shown(name: str, value: Any) -> Any:
    if name == "api_key" and value:
        return "set"
    if name == "base_url" and value and "@" in value:
        # A password may stand before the host.
        scheme, _, rest = value.partition("://")
        return f"{scheme}://…@{rest.rpartition('@')[2]}"
    return value
