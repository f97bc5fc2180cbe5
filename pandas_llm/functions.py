"""The functions beside the verbs: what the store holds, which runs there were, how to stop one."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pandas_llm.core.errors import OptionsError

# What works is imported when it is called: importing the package takes 20 ms then, not 150.
if TYPE_CHECKING:
    from pandas_llm.history import LastRun

_COLUMNS = ["id", "when", "verb", "model", "rows", "sources", "errors", "tokens", "cost", "status"]


def runs() -> pd.DataFrame:
    """The runs that the store knows, newest first.

    Returns
    -------
    DataFrame
        `id` (`r_41`), `when` (UTC), `verb`, `model`, `rows`, `sources` and `errors` (dicts of counts),
        `tokens` (input and output), `cost` (USD) and `status`: `running`, `done`, `stopped`, `failed`, or
        `killed` where its process is gone.

    Examples
    --------
    >>> import pandas_llm
    >>> list(pandas_llm.runs().columns)[:4]
    ['id', 'when', 'verb', 'model']
    """
    from pandas_llm.lookback import current_store

    rows = [
        {
            **run,
            "id": f"r_{run['id']}",
            "when": pd.Timestamp(run["at"], unit="s", tz="UTC").floor("s"),
            "tokens": run.get("input_tokens", 0) + run.get("output_tokens", 0),
        }
        for run in reversed(current_store().runs())
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def last_run() -> LastRun | None:
    """The last run of this process with what came of it, None before the first.

    Examples
    --------
    >>> import pandas_llm
    >>> run = pandas_llm.last_run()
    """
    from pandas_llm import history

    return history.last_run()


def cancel(run_id: str) -> None:
    """Stop a run of this process, as its Stop button would.

    Parameters
    ----------
    run_id : str
        As `runs()` shows it: `r_41`.

    Raises
    ------
    OptionsError
        No such run is going on here.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.cancel("r_41")  # doctest: +SKIP
    """
    from pandas_llm import call

    call.cancel(run_id)


def cache_info() -> dict[str, Any]:
    """What the store holds: `path`, `bytes`, `answers`, `failures`, `runs`, `oldest`, `newest`, `models`.

    Examples
    --------
    >>> import pandas_llm
    >>> sorted(pandas_llm.cache_info())[:3]
    ['answers', 'bytes', 'failures']
    """
    from pandas_llm.lookback import current_store

    store = current_store()
    return {} if store.path is None else store.info()


def clear_cache(
    *,
    run: str | int | None = None,
    model: str | None = None,
    older_than: str | timedelta | None = None,
    frame: pd.DataFrame | None = None,
) -> int:
    """How many answers were removed; conditions add up, without any all are.

    Parameters
    ----------
    run : str, optional
        Those a run paid for: `r_41`.
    model : str, optional
        Those of a model.
    older_than : str or timedelta, optional
        `"30 days"`.
    frame : DataFrame, optional
        Those behind this frame's rows, whatever output they went to.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.clear_cache(model="a-model-nobody-asked")
    0
    """
    from pandas_llm.lookback import current_store, keys_behind

    store = current_store()
    if store.path is None:
        return 0
    return store.clear(
        run=None if run is None else _run_number(run),
        model=model,
        older_than=None if older_than is None else _seconds(older_than),
        keys=None if frame is None else keys_behind(frame),
    )


def _run_number(run: str | int) -> int:
    found = re.fullmatch(r"(?:r_)?(\d+)", str(run))
    if found is None:
        raise OptionsError(f"run is the id of a run, such as 'r_41'; got {run!r}.")
    return int(found[1])


def _seconds(span: Any) -> float:
    try:
        # A bare number would be nanoseconds, which is everything.
        seconds = -1.0 if _is_bare(span) else pd.Timedelta(span).total_seconds()
    except (ValueError, TypeError):
        seconds = -1.0
    if not seconds >= 0:
        raise OptionsError(f"older_than is a span of time, such as '30 days' or a timedelta; got {span!r}.")
    return seconds


def _is_bare(span: Any) -> bool:
    return isinstance(span, (int, float)) or (isinstance(span, str) and not re.search("[a-zA-Z:]", span))


def read_batch_output(output: str | Path, error: str | Path | None = None) -> pd.DataFrame:  # noqa: ARG001
    """The answers in a batch's files: not yet here."""
    raise OptionsError('read_batch_output: not yet. It comes with mode="batch".')
