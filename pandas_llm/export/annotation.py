"""What annotators and trainers take: Label Studio tasks, chats for fine-tuning."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pandas_llm.core.errors import OptionsError
from pandas_llm.core.types import SOURCES
from pandas_llm.export.cells import CONTAINERS, as_json, column_name, json_text
from pandas_llm.export.tables import columns_of, distinct

_SIDES = (
    *("error", "source", "input_tokens", "output_tokens", "cost", "explanation", "confidence"),
    *("cached_tokens", "cache_write_tokens", "reasoning_tokens", "latency", "attempts", "model"),
    *("service_tier", "finish_reason", "request_id", "key", "similar_to", "similarity"),
)


def write_tasks(
    frame: pd.DataFrame, path: Path, *, text: Any, output: Any, questions: Mapping[str, Mapping[str, Any]]
) -> int:
    """A JSON array of Label Studio tasks, one a row; the answer is a prediction, no answer is none."""
    columns = columns_of(frame)
    names = distinct([name for name, _ in columns], "label-studio")
    cells = {name: column.tolist() for name, column in columns}
    target = _output(cells, output)
    written = {output: _columns_of(output, question) for output, question in questions.items()}
    outputs = {
        target,
        *_outputs(cells),
        *written,
        *(column for columns in written.values() for column in columns),
    }
    ours = outputs | {f"{name}_{side}" for name in outputs for side in _SIDES}
    data = {name: cells[name] for name in names if name not in ours}
    if text is not None:
        data["text"] = _texts(cells, text)
    answers, scores = cells[target], cells.get(f"{target}_confidence", [None] * len(frame))
    model = next((questions[by].get("model") for by, columns in written.items() if target in columns), None)
    models = cells.get(f"{target}_model", [None] * len(frame))

    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for row in range(len(frame)):
            task: dict[str, Any] = {"data": {name: as_json(values[row]) for name, values in data.items()}}
            version = as_json(models[row]) or model or "pandas_llm"
            task["predictions"] = _predictions(target, as_json(answers[row]), as_json(scores[row]), version)
            line = json.dumps(task, ensure_ascii=False, allow_nan=False)
            file.write((",\n" if row else "\n") + line)
        file.write("\n]\n")
    return len(frame)


def write_chats(path: Path, chats: Callable[[], Iterator[list[dict[str, Any]] | None]]) -> int:
    """A line `{"messages": […]}` for each row that has an answer."""
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for messages in chats():
            if messages is not None:
                file.write(json_text({"messages": messages}) + "\n")
                rows += 1
    if not rows:
        raise OptionsError("No row has an answer, so there is nothing to fine-tune on.")
    return rows


def pending_rows(frame: pd.DataFrame) -> int:
    """How many rows wait for an answer, by the side columns of any run."""
    columns = dict(columns_of(frame))
    waiting: set[int] = set()
    for name, column in columns.items():
        if name.endswith("_source"):
            values = column.tolist()
            if _are_sources(values):
                waiting.update(
                    i for i, value in enumerate(values) if isinstance(value, str) and value == "pending"
                )
        elif name.endswith("_error") and f"{name.removesuffix('_error')}_source" not in columns:
            values = column.tolist()
            waiting.update(
                i for i, v in enumerate(values) if isinstance(v, str) and v.startswith("Pending: ")
            )
    return len(waiting)


def _columns_of(output: str, question: Mapping[str, Any]) -> Sequence[str]:
    """The columns a question wrote: its output, and where it has several fields, each of them."""
    return [output, *question.get("columns", ())]


def _are_sources(values: Sequence[Any]) -> bool:
    """Whether a run wrote this column: nothing but sources, and at least one."""
    said = {value for value in values if isinstance(value, str)}
    return bool(said) and said <= set(SOURCES) and all(isinstance(v, str) or pd.isna(v) for v in values)


def _outputs(cells: Mapping[str, list[Any]]) -> list[str]:
    return [
        name.removesuffix("_source")
        for name, values in cells.items()
        if name.endswith("_source") and _are_sources(values)
    ]


def _output(cells: Mapping[str, list[Any]], output: Any) -> str:
    if output is not None:
        return _existing(cells, output)
    found = [name for name in _outputs(cells) if name in cells]
    if len(found) != 1:
        which = f"one of {', '.join(map(repr, found))}" if found else "the column with the answers"
        raise OptionsError(f'format="label-studio" needs output=, {which}.')
    return found[0]


def _existing(cells: Mapping[str, list[Any]], label: Any) -> str:
    name = column_name(label)
    if name not in cells:
        near = difflib.get_close_matches(name, list(cells), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The columns are {', '.join(cells)}."
        raise OptionsError(f"There is no column {label!r}. {hint}")
    return name


def _texts(cells: Mapping[str, list[Any]], text: Any) -> list[str | None]:
    names = [_existing(cells, label) for label in (text if isinstance(text, list) else [text])]
    if "text" in cells and names != ["text"]:
        raise OptionsError("The frame has a column 'text' besides text=: rename it, or leave text= out.")
    rows = zip(*([_plain(value) for value in cells[name]] for name in names), strict=True)
    if not isinstance(text, list):
        return [row[0] for row in rows]
    return ["\n".join(f"{n}: {v}" for n, v in zip(names, row, strict=True) if v is not None) for row in rows]


def _plain(value: Any) -> str | None:
    plain = as_json(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json_text(plain) if isinstance(plain, CONTAINERS) else str(plain)


def _predictions(output: str, answer: Any, score: Any, model: str) -> list[dict[str, Any]]:
    if answer is None:
        return []
    chosen = [_plain(label) for label in (answer if isinstance(answer, list) else [answer])]
    choice = {"from_name": output, "to_name": "text", "type": "choices", "value": {"choices": chosen}}
    prediction: dict[str, Any] = {"model_version": model, "result": [choice]}
    if isinstance(score, (int, float)):
        prediction["score"] = float(score)
    return [prediction]
