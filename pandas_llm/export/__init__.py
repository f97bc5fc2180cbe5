"""A frame with its answers as a file, and where they came from beside it."""

from __future__ import annotations

import difflib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from pandas_llm.core.errors import OptionsError
from pandas_llm.export.annotation import pending_rows, write_chats, write_tasks
from pandas_llm.export.cells import column_name
from pandas_llm.export.files import provenance_path, publish
from pandas_llm.export.tables import write_csv, write_dataset, write_excel, write_jsonl, write_parquet

Chats: TypeAlias = Callable[[], Iterator[list[dict[str, Any]] | None]]

_TABLES: dict[str, Callable[[pd.DataFrame, Path], int]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "xlsx": write_excel,
    "datasets": write_dataset,
}
_SUFFIXES = ("csv", "parquet", "jsonl", "xlsx")
_FORMATS = (*_TABLES, "label-studio", "openai-finetune")
_EXTRA = 'pip install "pandas-llm-accessor[export]"'
_NEEDS = {
    "parquet": ("pyarrow", _EXTRA),
    "xlsx": ("openpyxl", _EXTRA),
    "datasets": ("datasets", "pip install datasets"),
}


def export(  # noqa: PLR0913  # the keywords are the contract
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    text: Any = None,
    output: Any = None,
    overwrite: bool = False,
    incomplete: bool = False,
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
    chats: Chats | None = None,
) -> Path:
    """The path of the file written; beside it stands `<path>.provenance.json`.

    Both are written beside their place and moved there when they are whole: a failure leaves nothing.

    Parameters
    ----------
    frame
        What to write, with all its columns. An index that is more than the rows' numbers is kept:
        as the first columns in CSV, JSON lines and workbooks, as pandas does in Parquet.
    path
        Its suffix says the format: `.csv`, `.parquet`, `.jsonl` or `.xlsx`.
    format
        One of these without the dot, or `"label-studio"` (a JSON array, a task a row, the answer as a
        prediction of type choices), `"openai-finetune"` (JSON lines, the messages as sent and the
        answer), `"datasets"` (a folder for `datasets.load_from_disk`).
    text
        For Label Studio: the column, or the list of columns, that becomes `text` in each task's data,
        so that `<Text name="text" value="$text"/>` shows it. All other columns that no run wrote are
        there too.
    output
        For Label Studio: the column with the answers, which is also the name of the `<Choices>`; None
        where one run wrote one output.
    overwrite
        Replace what is there.
    incomplete
        Write a frame some of whose rows wait for an answer.
    provenance
        By output, the question that wrote it, of which `model` and `columns` are read; None: what the
        frame says of itself.
    chats
        For fine-tuning: yields one list of messages a row, None to leave the row out.

    Raises
    ------
    OptionsError
        Before anything is written: an unknown format, a path that exists, pending rows, a package that
        isn't installed, a column that isn't there or whose name repeats, a cell too long for a workbook.

    Notes
    -----
    Levels of column names are joined by dots. Lists and records are JSON in CSV and workbooks, and in
    Parquet where Arrow has no type for them. What a format can't hold becomes U+FFFD: lone surrogates
    everywhere, NUL in CSV, control characters in workbooks. Infinity is the text `"Infinity"` in JSON
    lines and workbooks.

    CSV is UTF-8 with all text in quotes. A text that begins with `=` stands there as it is: pandas reads
    it back unchanged, while a spreadsheet that opens the file takes it for a formula, quotes or not. Give
    people `.xlsx`, where every text is a text cell. There, integers of more than 15 digits, dates
    before 1900 and times with a zone are text, as a spreadsheet would change them.

    Examples
    --------
    >>> import tempfile
    >>> frame = pd.DataFrame({"body": ["It crashes."], "body_label": ["bug"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export(frame, Path(folder) / "tickets.csv")
    ...     pd.read_csv(written).loc[0, "body_label"]
    'bug'
    """
    target = Path(path).expanduser()
    kind = _format(target, format)
    _check_place(target, kind, overwrite=overwrite)
    waiting = pending_rows(frame)
    if waiting and not incomplete:
        rows = "1 row is" if waiting == 1 else f"{waiting:,} rows are"
        raise OptionsError(
            f"{rows} pending. Running the same line again asks for the rest; "
            "incomplete=True exports the frame as it is."
        )
    asked = provenance if provenance is not None else _questions(frame)
    if kind in _TABLES:
        if text is not None or output is not None:
            raise OptionsError(
                f'A {kind} file holds all columns: text= and output= go with format="label-studio".'
            )
        write = partial(_TABLES[kind], frame)
    elif kind == "label-studio":
        write = partial(write_tasks, frame, text=text, output=output, questions=asked)
    elif chats is not None:
        write = partial(write_chats, chats=chats)
    else:
        raise OptionsError('format="openai-finetune" needs the messages that were sent: call df.llm.export.')
    _check_installed(kind)
    columns = [column_name(label) for label in frame.columns]
    publish(target, write, {"format": kind, "columns": columns, "provenance": asked})
    return target


def _format(path: Path, given: str | None) -> str:
    known, asked = (_SUFFIXES, path.suffix.lower().removeprefix(".")) if given is None else (_FORMATS, given)
    if asked in known:
        return asked
    near = difflib.get_close_matches(str(asked), known, n=1)
    dot, what = (".", f"The suffix {path.suffix!r}") if given is None else ("", f"format={given!r}")
    hint = f" Did you mean '{dot}{near[0]}'?" if near else ""
    others = "; for others say format=" if given is None else ""
    raise OptionsError(f"{what} isn't one of {', '.join(dot + name for name in known)}{others}.{hint}")


def _check_place(path: Path, kind: str, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise OptionsError(f"There is no folder {str(path.parent)!r}: create it first.")
    if provenance_path(path).is_dir():
        raise OptionsError(
            f"{str(provenance_path(path))!r} is a folder, and the provenance goes there: choose another path."
        )
    if not path.exists():
        return
    if not overwrite:
        raise OptionsError(f"{str(path)!r} exists: overwrite=True replaces it.")
    if kind != "datasets" and path.is_dir():
        raise OptionsError(
            f"{str(path)!r} is a folder, which a {kind} file can't replace: choose another path."
        )
    if kind == "datasets" and not (path / "dataset_info.json").is_file():
        # Anything else in a folder isn't ours to delete.
        raise OptionsError(
            f"{str(path)!r} isn't a dataset's folder, so it isn't replaced: choose another path."
        )


def _check_installed(kind: str) -> None:
    if kind not in _NEEDS:
        return
    package, line = _NEEDS[kind]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise OptionsError(f"A {kind} export needs the package {package}: {line}") from error


def _questions(frame: pd.DataFrame) -> Mapping[str, Mapping[str, Any]]:
    try:
        said = json.loads(frame.attrs["pandas_llm"])
    except (KeyError, TypeError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
