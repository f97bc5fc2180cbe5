"""The lines of batch files: ours checked and cut into files, the provider's read one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from pandas_llm.core.errors import ApiError, BatchError, RateLimitError, ServerError
from pandas_llm.core.foreign import loaded, mapping, word
from pandas_llm.core.prompts import excerpt
from pandas_llm.core.refusals import Words, refusal, words_of
from pandas_llm.core.types import Key

# What goes out ------------------------------------------------------------------------------------------


def url_of(path: str) -> str:
    """An API path as batch files spell it.

    >>> url_of("/chat/completions")
    '/v1/chat/completions'
    """
    return f"/v1{path}"


def input_line(key: Key, url: str, body: bytes) -> bytes:
    """One line of an input file, without its end; the body's bytes are those of a concurrent request."""
    head = f'{{"custom_id":"{key.hex()}","method":"POST","url":"{url}","body":'
    return head.encode() + body + b"}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold."""

    max_requests: int
    max_bytes: int
    max_tokens: float = math.inf
    """Of prompts: the provider's enqueued-token limit, as far as it is known."""

    def __post_init__(self) -> None:
        if not (self.max_requests >= 1 and self.max_bytes >= 1 and self.max_tokens >= 0):
            raise ValueError("a batch holds at least one request of one byte")


def cut(
    sizes: Iterable[tuple[int, int, int]], limits: Limits, too_big: Callable[[int], object]
) -> Iterator[list[int]]:
    """The codes of each batch, in order, each batch as full as it may be.

    Parameters
    ----------
    sizes
        Of each request: its code, the bytes of its line (the line's end included), its tokens.
    limits
        What one batch may hold. A request of more than `max_tokens` alone goes alone: how the provider
        counts is only estimated here.
    too_big
        Takes the code of a request that is longer than `max_bytes` alone; it is in no batch.
    """
    codes: list[int] = []
    size = tokens = 0
    for code, its_size, its_tokens in sizes:
        if its_size > limits.max_bytes:
            too_big(code)
            continue
        if codes and (
            len(codes) >= limits.max_requests
            or size + its_size > limits.max_bytes
            or tokens + its_tokens > limits.max_tokens
        ):
            yield codes
            codes, size, tokens = [], 0, 0
        codes.append(code)
        size += its_size
        tokens += its_tokens
    if codes:
        yield codes


def check_lines(lines: Iterable[bytes], *, model: str, url: str, max_requests: int, max_bytes: int) -> None:
    """Find before the upload what the provider would find hours after it.

    Raises
    ------
    BatchError
        Naming the first line that is wrong, or the limit that the file is over.
    """
    seen: set[str] = set()
    size = number = 0
    for number, line in enumerate(lines, 1):
        size += len(line) + (not line.endswith(b"\n"))
        flaw = _flaw(line.removesuffix(b"\n"), model, url, seen)
        if flaw is None and number > max_requests:
            flaw = f"is one more than a batch may hold ({max_requests:,} requests)"
        if flaw is None and size > max_bytes:
            flaw = f"goes over the {max_bytes:,} bytes a batch file may have"
        if flaw is not None:
            raise BatchError(f"Line {number:,} of the batch file {flaw}. Nothing was uploaded.")
    if not number:
        raise BatchError("The batch file has no line. Nothing was uploaded.")


def _flaw(line: bytes, model: str, url: str, seen: set[str]) -> str | None:  # noqa: PLR0911 — a table
    """What is wrong with one line; its id goes to `seen`."""
    try:
        parsed = orjson.loads(line)
    except ValueError:
        return "isn't JSON"
    if not isinstance(parsed, dict) or b"\n" in line:
        return "isn't one JSON object on one line"
    custom_id, body = parsed.get("custom_id"), mapping(parsed.get("body"))
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 64:
        return "has no custom_id of 1 to 64 characters"
    if custom_id in seen:
        return f"has the custom_id of an earlier one ({custom_id!r})"
    seen.add(custom_id)
    if parsed.get("method") != "POST" or parsed.get("url") != url:
        return f"isn't a POST to {url}"
    if body.get("model") != model:
        return f"asks model {excerpt(body.get('model'))}, the others {model!r}: one batch has one model"
    if body.get("stream"):
        return "asks for a stream, which batches don't have: leave stream out of params="
    return None


# What comes back ----------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line of an output or error file. A tuple, because a run may read a million of them."""

    key: Key | None
    """None where the id isn't one of ours."""
    custom_id: str | None
    status: int | None
    """Of the response; None where there is none."""
    body: dict[str, Any] | None
    error: Words | None
    """What is said beside the response; what a response's body says of its error is in the body."""
    request_id: str | None


_KEY = re.compile(r"[0-9a-f]{32}")
_ID = re.compile(rb'"custom_id"\s*:\s*"([^"\\]{1,512})"')
_BOM = b"\xef\xbb\xbf"


def read_line(line: bytes) -> Line:
    r"""What a line says, whatever its shape; where it isn't JSON, at least whose it is if that can be told.

    A line is what stands between two `\n`: U+2028 and others may stand in a text as they are and end none.
    """
    try:
        parsed = orjson.loads(line)
    except ValueError:
        parsed = _nearly_json(line)
    if not isinstance(parsed, dict):
        return _unreadable(line)
    custom_id = parsed.get("custom_id")
    if not isinstance(custom_id, str):
        custom_id = None
    response = parsed.get("response")
    if not isinstance(response, dict):
        return Line(_key_of(custom_id), custom_id, None, None, _words(parsed.get("error")), None)
    status, body, error = response.get("status_code"), response.get("body"), parsed.get("error")
    if type(status) is not int:
        status = _whole(status)
    if not isinstance(body, dict):
        # A proxy's words instead of a body: they say what happened where nothing else does.
        error = error or body
        body = None
    return Line(
        _key_of(custom_id),
        custom_id,
        status,
        body,
        _words(error) if error else None,
        word(response.get("request_id")) or None,
    )


def _nearly_json(line: bytes) -> Any:
    try:
        return _mended(loaded(line.removeprefix(_BOM)))
    except (ValueError, RecursionError):
        return None


def _mended(value: Any) -> Any:
    """The same without what no file takes: half characters, integers of more than 64 bits, NaN."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(name): _mended(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return float(value) if value.bit_length() < 1024 else None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unreadable(line: bytes) -> Line:
    # In a text the quotes would be escaped, so this can only be a name; the first one is the line's own.
    found = _ID.search(line)
    custom_id = found[1].decode("utf-8", "replace") if found else None
    return Line(_key_of(custom_id), custom_id, None, None, _UNREADABLE, None)


_UNREADABLE = Words("its line isn't a JSON object", "parse_error", None)


def _key_of(custom_id: str | None) -> Key | None:
    return bytes.fromhex(custom_id) if custom_id is not None and _KEY.fullmatch(custom_id) else None


def _words(error: Any) -> Words | None:
    return words_of(error) if error else None


def _whole(status: Any) -> int | None:
    """A status that isn't sent as an integer."""
    text = str(status).removesuffix(".0")
    return int(text) if re.fullmatch("[0-9]{1,3}", text) else None


def problem_of(line: Line) -> ApiError | BatchError | None:
    """Why a line has no answer; None where its body is to be read as a reply's.

    The classes are those of concurrent requests. What is no HTTP response (expired, cancelled, status 0, cut)
    is a BatchError: the provider has lost the request, and it may be asked again.
    """
    status, body, words = line.status, line.body, line.error
    if body and (status == 200 or status is None):
        if not body.get("error"):
            return None
        status, words = None, words_of(body)
    words = words or (words_of(body) if body else Words("", None, None))
    if status is None or status < 400:
        status = _status_in(words) or status
    if status is not None and 400 <= status < 600:
        words = words._replace(message=words.message or "no text")
        return refusal(status, words, request_id=line.request_id)
    if body and line.status == 200:
        return ServerError(
            f"An error in a 200: {words.message}", status=200, code=words.code, request_id=line.request_id
        )
    if not words.message and not words.code:
        said = "no response" if line.status is None else f"status {line.status} and no body"
        return BatchError(f"The batch lost this request: its line has {said}.")
    code = f" ({words.code})" if words.code else ""
    return BatchError(f"The batch has no answer to this request: {words.message or 'no text'}{code}")


def _status_in(words: Words) -> int | None:
    """The HTTP status that words of an error stand for, where they tell."""
    if words.code is not None and re.fullmatch("[45][0-9][0-9]", words.code):
        return int(words.code)
    return 400 if words.kind in ("invalid_request_error", "BadRequestError") else None


def is_retryable(error: BaseException) -> bool:
    """Whether asking again may help."""
    return isinstance(error, (RateLimitError, ServerError, BatchError))
