"""All columns of a frame as a file: CSV, JSON lines, a workbook, Parquet, a Hugging Face dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from pandas_llm.core.errors import OptionsError
from pandas_llm.export.cells import (
    CONTAINERS,
    EXCEL_CHARACTERS,
    as_json,
    clean,
    column_name,
    csv_cell,
    excel_cell,
    json_text,
)

Column: TypeAlias = tuple[str, "pd.Series[Any]"]

_EXCEL_ROWS, _EXCEL_COLUMNS = 1_048_576, 16_384


def write_csv(frame: pd.DataFrame, path: Path) -> int:
    """UTF-8, every text quoted, so that `pandas.read_csv` gives the texts back."""
    columns = [(name, _flat(column)) for name, column in columns_of(frame)]
    _joined(columns).to_csv(
        path,
        index=False,
        quoting=csv.QUOTE_NONNUMERIC,
        lineterminator="\n",
        encoding="utf-8",
        compression=None,
    )
    return len(frame)


def write_jsonl(frame: pd.DataFrame, path: Path) -> int:
    """One JSON object a row."""
    columns = columns_of(frame)
    names = distinct([name for name, _ in columns], ".jsonl")
    with path.open("w", encoding="utf-8", newline="") as file:
        for cells in zip(*(column.tolist() for _, column in columns), strict=True):
            row = dict(zip(names, map(as_json, cells), strict=True))
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return len(frame)


def write_excel(frame: pd.DataFrame, path: Path) -> int:
    """One sheet; no cell is a formula."""
    columns = columns_of(frame)
    if len(frame) >= _EXCEL_ROWS or len(columns) > _EXCEL_COLUMNS:
        raise OptionsError(
            f"A sheet holds {_EXCEL_ROWS - 1:,} rows and {_EXCEL_COLUMNS:,} columns; the frame has "
            f"{len(frame):,} and {len(columns):,}. Export it as .parquet or .csv."
        )
    cells = [_excel_cells(name, column) for name, column in columns]

    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")

    def stored(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "#", "\t")):
            return value
        cell = WriteOnlyCell(sheet, value)
        cell.data_type = "s"  # else "=1+1" is stored as a formula and "#N/A" as an error
        cell.quotePrefix = True  # else it becomes a formula when a person edits it
        return cell

    sheet.append([stored(excel_cell(name)) for name, _ in columns])
    for row in zip(*cells, strict=True):
        sheet.append([stored(value) for value in row])
    book.save(path)
    return len(frame)


def write_parquet(frame: pd.DataFrame, path: Path) -> int:
    """As pandas writes it; where Arrow has no type for a column's cells, they are text, lists as JSON."""
    arrow_ready(frame, ".parquet").to_parquet(path, engine="pyarrow")
    return len(frame)


def write_dataset(frame: pd.DataFrame, path: Path) -> int:
    """A folder for `datasets.load_from_disk`; categories become texts."""
    import datasets

    ready = arrow_ready(frame, "datasets")
    for name in ready.columns[[isinstance(dtype, pd.CategoricalDtype) for dtype in ready.dtypes]]:
        ready[name] = ready[name].astype(object)
    datasets.Dataset.from_pandas(ready, preserve_index=keeps_index(frame)).save_to_disk(str(path))
    return len(frame)


def keeps_index(frame: pd.DataFrame) -> bool:
    """Whether the index says more than the rows' numbers."""
    index = frame.index
    return index.nlevels > 1 or index.name is not None or not index.equals(pd.RangeIndex(len(frame)))


def columns_of(frame: pd.DataFrame) -> list[Column]:
    """Names as text and values of all columns, the index first where it is kept."""
    named = [(column_name(label), frame.iloc[:, i]) for i, label in enumerate(frame.columns)]
    index = frame.index
    if not keeps_index(frame):
        return named
    taken = {name for name, _ in named}
    plain = (
        ["index"]
        if index.nlevels == 1 and "index" not in taken
        else [f"level_{i}" for i in range(index.nlevels)]
    )
    levels = [
        (plain[i] if name is None else column_name(name), pd.Series(index.get_level_values(i)))
        for i, name in enumerate(index.names)
    ]
    return [*levels, *named]


def distinct(names: Sequence[str], where: str) -> Sequence[str]:
    """The names, if no two are equal."""
    repeated = (
        sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    )
    if repeated:
        listed = ", ".join(map(repr, repeated[:5]))
        raise OptionsError(f"{where} can't hold two columns of one name: rename all but one of {listed}.")
    return names


def arrow_ready(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """A frame that Arrow can store: names are text, and so are cells that it has no type for."""
    names = distinct([column_name(label) for label in frame.columns], where)
    columns = {name: _storable(frame.iloc[:, i]).array for i, name in enumerate(names)}
    ready = pd.DataFrame(columns, index=_storable_index(frame.index))
    ready.attrs = {key: value for key, value in frame.attrs.items() if _is_json(value)}
    return ready


def _storable(column: pd.Series[Any]) -> pd.Series[Any]:
    if _fits_arrow(column):
        return column
    conversions: tuple[Callable[[Any], Any], ...] = (_cleaned, _text)
    for convert in conversions:
        converted = pd.Series([convert(value) for value in column.tolist()], index=column.index, dtype=object)
        if _fits_arrow(converted):
            break
    return converted


def _cleaned(value: Any) -> Any:
    return as_json(value) if isinstance(value, (str, *CONTAINERS)) else value


def _text(value: Any) -> str | None:
    plain = as_json(value)
    return plain if plain is None or isinstance(plain, str) else json_text(plain)


def _fits_arrow(column: pd.Series[Any]) -> bool:
    import pyarrow as pa

    try:
        return not _has_empty_record(pa.array(column, from_pandas=True).type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False


def _has_empty_record(kind: Any) -> bool:
    """Parquet has no record without fields, and says so only after it began to write."""
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return (str(kind) == "struct<>") or any(_has_empty_record(field.type) for field in fields)


def _storable_index(index: pd.Index[Any]) -> pd.Index[Any]:
    levels = [pd.Series(index.get_level_values(i)) for i in range(index.nlevels)]
    ready = [_storable(level) for level in levels]
    if all(before is after for before, after in zip(levels, ready, strict=True)):
        return index
    texts: pd.Index[Any] = pd.MultiIndex.from_arrays(ready, names=index.names)
    return texts if index.nlevels > 1 else texts.get_level_values(0)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _flat(column: pd.Series[Any]) -> pd.Series[Any]:
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    return pd.Series([csv_cell(value) for value in column.tolist()], dtype=object)


def _joined(columns: Sequence[Column]) -> pd.DataFrame:
    """By position: names may repeat, and an index that repeats must not be matched."""
    frame = pd.DataFrame({i: column.array for i, (_, column) in enumerate(columns)})
    return frame.set_axis(pd.Index([csv_cell(name) for name, _ in columns], dtype=object), axis=1)


def _excel_cells(name: str, column: pd.Series[Any]) -> list[Any]:
    cells = [excel_cell(value) for value in column.tolist()]
    for row, cell in enumerate(cells):
        if isinstance(cell, str) and len(cell) > EXCEL_CHARACTERS // 2:
            size = len(cell.encode("utf-16-le")) // 2  # a spreadsheet counts an emoji as two
            if size > EXCEL_CHARACTERS:
                raise OptionsError(
                    f"Row {row} (from 0) of {clean(name)!r} has {size:,} characters; a cell of .xlsx holds "
                    f"{EXCEL_CHARACTERS:,}. Export it as .parquet, .jsonl or .csv."
                )
    return cells
