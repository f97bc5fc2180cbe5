"""Files of the Batch API: what a call would ask, written; what a batch answered, read."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from pandas_llm.columns.dtypes import mended, text_array
from pandas_llm.core.errors import BatchError, EmptyOutputError, LLMError, LLMWarning, OptionsError
from pandas_llm.core.foreign import listing, mapping, word
from pandas_llm.core.lines import Line, input_line, problem_of, read_line, url_of
from pandas_llm.core.types import Usage
from pandas_llm.core.wire import body_maker, message_of, usage_of
from pandas_llm.dispatch.manners import first_manner
from pandas_llm.display.words import number
from pandas_llm.run import Run

Paths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None

_COUNTS = ("status", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


# What would be asked ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in a batch's input file."""

    path: Path
    requests: int
    size: int
    """In bytes."""
    files: int
    """How many the Batch API would want it to be."""

    @property
    def said(self) -> str:
        """What is to be said of a file that no batch takes."""
        return (
            f"{str(self.path)!r} holds {number(self.requests, 'request')} in {self.size / 1e6:,.0f} MB: the "
            f"Batch API wants them in {self.files} files. Cut it between two lines."
        )


def write_input(run: Run, todo: Sequence[int], path: Path, *, overwrite: bool) -> Written:
    """A batch's input file of these codes, put in place whole or not at all, readable by its owner alone.

    Raises
    ------
    OptionsError
        Nothing is to be asked; the model answers no batches; the path is taken, or no place for it.
    """
    _check(run, todo, path, overwrite=overwrite)
    draft = path.with_name(f".pandas_llm-{secrets.token_hex(6)}.draft")
    batches = run.call.options.batches
    size = files = requests = filled = 0
    try:
        # It holds the texts: nobody else's to read, not even while it is being written.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            for line in _lines(run, todo):
                file.write(line)
                size, requests, filled = size + len(line), requests + 1, filled + len(line)
                if not files or requests > batches.max_requests or filled > batches.max_bytes:
                    files, requests, filled = files + 1, 1, len(line)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Written(path, len(todo), size, files)


def _check(run: Run, todo: Sequence[int], path: Path, *, overwrite: bool) -> None:
    question = run.call.plan.question
    if question.in_process:
        raise OptionsError(
            f"{question.model} answers in this process and takes no batch files: name another model."
        )
    if question.params.get("stream"):
        raise OptionsError("A batch can't stream: leave 'stream' out of params.")
    if path.suffix != ".jsonl":
        raise OptionsError(f"The Batch API takes files named *.jsonl; got {path.name!r}.")
    if not path.parent.is_dir():
        raise OptionsError(f"There is no folder {str(path.parent)!r}: create it first.")
    if path.is_dir():
        raise OptionsError(f"{str(path)!r} is a folder: choose another path.")
    if path.exists() and not overwrite:
        raise OptionsError(f"{str(path)!r} exists: overwrite=True replaces it.")
    if not todo:
        raise OptionsError("There is nothing to ask, so there is no file to write.")


def _lines(run: Run, todo: Sequence[int]) -> Iterator[bytes]:
    plan, store = run.call.plan, run.call.store
    manner, _ = first_manner(store, plan.question, run.fixed_tokens, None, run.route_price("batch"))
    body, url = body_maker(plan.question, manner), url_of(plan.question.path)
    return (input_line(plan.key(code), url, body(plan.texts[code])) + b"\n" for code in todo)


# What was answered --------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """What a batch says of one id; a tuple, of which a file has many."""

    custom_id: str
    status: int | None
    content: str | None
    error: str | None
    model: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    request_id: str | None = None


def read_output(output: Paths, error: Paths) -> pd.DataFrame:
    """One row an id, in the order of the files; `pandas_llm.read_batch_output` says the rest."""
    paths = [*_paths(output), *_paths(error)]
    if not paths:
        raise OptionsError("read_batch_output reads files: name the output file, the error file, or both.")
    answers: dict[str, _Answer] = {}
    lost = 0
    for line in map(read_line, _raw_lines(paths)):
        if line.custom_id is None:
            lost += 1
            continue
        custom_id = mended(line.custom_id)
        known = answers.get(custom_id)
        # The first answer stays; an error gives way to an answer, wherever it stands.
        if known is None or known.error is not None:
            new = _answer(line, custom_id)
            if known is None or new.error is None:
                answers[custom_id] = new
    if lost:
        what = f"{number(lost, 'line')} can't be read and {'names' if lost == 1 else 'name'} no custom_id"
        names = ", ".join(repr(str(path)) for path in paths)
        warnings.warn(f"{names}: {what}; what they were about is missing here.", LLMWarning, stacklevel=3)
    return _frame(answers.values())


def _paths(given: Paths) -> list[Path]:
    several = [given] if isinstance(given, (str, os.PathLike)) else given or ()
    return [Path(path).expanduser() for path in several]


def _raw_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        # Read as bytes, a line ends at \n alone: U+2028 and U+0085 may stand in a text as they are.
        with path.open("rb") as file:
            yield from (line for line in file if not line.isspace())


def _answer(line: Line, custom_id: str) -> _Answer:
    problem, body = problem_of(line), line.body
    if problem is not None or body is None:
        return _failure(line, custom_id, problem or BatchError("The line has no body."))
    choice = mapping(next(iter(listing(body.get("choices"))), None))
    if not (isinstance(choice.get("message"), dict) or choice.get("error")):
        # Of another endpoint: embeddings, moderations, responses.
        return _success(line, custom_id, _json(body), usage_of(body.get("usage")))
    try:
        message = message_of(body, request_id=line.request_id)
    except LLMError as error:
        return _failure(line, custom_id, error)
    calls = choice["message"].get("tool_calls")
    if calls and isinstance(message.problem, EmptyOutputError):
        message = replace(message, content=_json(calls), problem=None)
    answer = _success(line, custom_id, mended(message.content) or None, message.usage)
    return answer._replace(
        error=_named(message.problem),
        model=message.model,
        finish_reason=message.finish_reason,
    )


def _failure(line: Line, custom_id: str, error: LLMError) -> _Answer:
    return _Answer(custom_id, line.status, None, _named(error), request_id=line.request_id)


def _success(line: Line, custom_id: str, content: str | None, usage: Usage | None) -> _Answer:
    assert line.body is not None, "what has no body is no success"
    return _Answer(
        custom_id,
        line.status,
        content,
        None,
        model=word(line.body.get("model")),
        input_tokens=None if usage is None else usage.input,
        output_tokens=None if usage is None else usage.output,
        cached_tokens=None if usage is None else usage.cached,
        reasoning_tokens=None if usage is None else usage.reasoning,
        request_id=line.request_id,
    )


def _named(error: LLMError | None) -> str | None:
    return None if error is None else mended(f"{type(error).__name__}: {error}")


def _json(value: Any) -> str:
    return mended(json.dumps(value, ensure_ascii=False))


def _frame(answers: Iterable[_Answer]) -> pd.DataFrame:
    columns = list(zip(*answers, strict=True)) or [()] * len(_Answer._fields)
    return pd.DataFrame(
        {
            name: pd.array(list(values), dtype="Int64") if name in _COUNTS else text_array(values)
            for name, values in zip(_Answer._fields, columns, strict=True)
        }
    )
