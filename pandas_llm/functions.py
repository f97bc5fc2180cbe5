"""The functions beside the verbs: what the store holds, which runs there were, how to stop one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from pandas_llm.core.errors import OptionsError

# What works is imported when it is called: importing the package takes 20 ms then, not 150.
if TYPE_CHECKING:
    from pandas_llm.history import LastRun

Paths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None

_COLUMNS = ["id", "when", "verb", "model", "rows", "sources", "errors", "tokens", "cost", "status"]


def runs() -> pd.DataFrame:
    """The runs that the store knows, newest first.

    Returns
    -------
    DataFrame
        `id` (`r_41`), `when` (UTC), `verb`, `model`, `rows`, `sources` and `errors` (dicts of counts),
        `tokens` (input and output), `cost` (USD) and `status`: `running`, `done`, `stopped`, `failed`,
        `killed` where its process is gone; while batches of the run go on, the provider's words for them
        (`in_progress`, `in_progress, validating`); `collected` when they are over and their answers here.

    Notes
    -----
    Where a key, a `base_url` or a client is configured, the provider is asked about batches that go on. It
    has 5 s; without its answer the last known words stand.

    Examples
    --------
    >>> import pandas_llm
    >>> list(pandas_llm.runs().columns)[:4]
    ['id', 'when', 'verb', 'model']
    """
    from pandas_llm import history
    from pandas_llm.lookback import current_store
    from pandas_llm.settings import resolve

    store = current_store()
    live = history.states_of_batches(store, resolve({})[0])
    rows = [
        {
            **run,
            "id": f"r_{run['id']}",
            "status": live.get(run["id"]) or _over(run.get("status")),
            "when": pd.Timestamp(run["at"], unit="s", tz="UTC").floor("s"),
            "tokens": run.get("input_tokens", 0) + run.get("output_tokens", 0),
        }
        for run in reversed(store.runs())
    ]
    return history.Runs(rows, columns=_COLUMNS)


def _over(status: Any) -> Any:
    """How a run without open batches ended."""
    return "collected" if status == "submitted" else status


def last_run() -> LastRun | None:
    """The last run of this process with what came of it, None before the first; `.plot()` draws it.

    Examples
    --------
    >>> import pandas_llm
    >>> run = pandas_llm.last_run()
    """
    from pandas_llm import history

    return history.last_run()


def cancel(run_id: str) -> None:
    """Stop a run as its Stop button would, and cancel its batches at the provider.

    Batches can be cancelled from any process that has the same store and a key. This waits until the provider
    says that they are over, mostly a minute, and keeps what they have answered, which is billed. The call
    that waits for them, if there is one, returns with the rest `pending`; running its line again asks for it.

    Parameters
    ----------
    run_id : str
        As `runs()` shows it: `r_41`.

    Raises
    ------
    OptionsError
        No such run is going on in this process or at the provider.

    Examples
    --------
    >>> import pandas_llm
    >>> pandas_llm.cancel("r_41")  # doctest: +SKIP
    """
    from pandas_llm import call

    call.cancel(run_id)


def cache_info() -> dict[str, Any]:
    """What the store holds: `path bytes answers failures sent batches runs oldest newest models`.

    Examples
    --------
    >>> import pandas_llm
    >>> sorted(pandas_llm.cache_info())[:3]
    ['answers', 'batches', 'bytes']
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
        Those a run paid for: `r_41`. Its batches that go on are given up: their rows are free to be asked
        again, and what they answer is lost.
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


def read_batch_output(output: Paths, error: Paths = None) -> pd.DataFrame:
    """What a batch answered, from its files: one row for each `custom_id`, in the order of the files.

    It reads the output and error files of the Batch API, and of programs that write the same lines, such as
    vLLM's `run-batch`. Which file a line stands in, and in which order, means nothing. Where an id repeats,
    an answer wins over an error, and the first one stays.

    Parameters
    ----------
    output : str, Path or a list of them
        The output file, or those of several batches. None: there is none, as where every request failed.
    error : str, Path or a list of them, optional
        The error files. What is in neither has no row.

    Returns
    -------
    DataFrame
        `custom_id`; `status` (Int64), that of HTTP, missing where there was no response; `content`, the text
        of the reply, else its tool calls as JSON; `error` (`RateLimitError: HTTP 429: …`), missing where the
        reply can be used (one that was cut off has both); `model`, `finish_reason`; `input_tokens`,
        `output_tokens`, `cached_tokens`, `reasoning_tokens` (Int64), missing where the server doesn't count;
        `request_id`. Of an endpoint that isn't `/v1/chat/completions` the `content` is the body, as JSON.

    Raises
    ------
    FileNotFoundError
        There is no such file.

    Warns
    -----
    LLMWarning
        Lines can't be read and don't say whose they are. One that names its id has a row, with the error.

    Examples
    --------
    >>> import json, tempfile
    >>> import pandas_llm
    >>> reply = {"choices": [{"message": {"content": "bug"}, "finish_reason": "stop"}], "model": "gpt-6-luna"}
    >>> line = {"custom_id": "ticket-7", "response": {"status_code": 200, "body": reply}, "error": None}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     print(json.dumps(line), file=file, flush=True)
    ...     answers = pandas_llm.read_batch_output(file.name)
    >>> answers.loc[0, ["custom_id", "content", "model"]].tolist()
    ['ticket-7', 'bug', 'gpt-6-luna']
    """
    from pandas_llm import history

    return history.read_output(output, error)
