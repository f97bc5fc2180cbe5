"""How sure a model was of its label, from the log-probabilities of its tokens.

p(label) is the product of the probabilities of its tokens from the first position where the labels still
possible differ; the other labels have what is known of them up to where they leave the answer's path (the
alternatives listed there; unlisted ones count 0). The confidence is p(answer) over the sum of all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

Label: TypeAlias = str | int
Token: TypeAlias = Mapping[str, Any]

_WHITE = b" \t\n\r"
_NONE: frozenset[Label] = frozenset()


@dataclass(frozen=True, slots=True)
class Span:
    """Where the answer's value stands in the reply, in bytes, and how values are written there."""

    start: int
    end: int
    """After its last character; a closing quote not included."""
    style: str
    """`string` and `number` in JSON, else `bare`: the whole reply is the label."""


@dataclass(frozen=True, slots=True)
class Spellings:
    """How the labels may be written: by every beginning, and whole."""

    beginnings: Mapping[bytes, frozenset[Label]]
    whole: Mapping[bytes, Label]
    lengths: tuple[int, ...]
    """Those that occur among whole ones, rising."""
    style: str

    def fitting(self, written: bytes) -> frozenset[Label]:
        """The labels that a text which has come this far may become, or is already, with what follows."""
        found = self.beginnings.get(written, _NONE)
        for length in self.lengths:
            if length >= len(written):
                break
            label = self.whole.get(written[:length])
            if label is not None and self._ends(written[length:]):
                found |= {label}
        return found

    def _ends(self, after: bytes) -> bool:
        if self.style == "string":
            return True  # the closing quote is part of the spelling
        if self.style == "number":
            return after[:1] not in b"0123456789.eE"
        return not after.strip(_WHITE)


def confidence(content: str, tokens: Sequence[Token], labels: Sequence[Label], answer: Label) -> float | None:
    """The probability of the label that was answered, among all labels.

    Parameters
    ----------
    content
        The reply: a JSON object whose last value is the label, or the label alone.
    tokens
        `logprobs.content` of the choice, with `top_logprobs`.
    labels
        All labels of the question.
    answer
        The one that was read from `content`.

    Returns
    -------
    float or None
        In [0, 1]; None where there are no log-probabilities, or they aren't those of this reply.

    Examples
    --------
    >>> import math
    >>> def token(text, p, **others):
    ...     top = [{"token": t, "logprob": math.log(q)} for t, q in {text: p, **others}.items()]
    ...     return {"token": text, "logprob": math.log(p), "top_logprobs": top}
    >>> tokens = [token('{"label": "', 1), token("bug", 0.8, question=0.1), token('"}', 1)]
    >>> round(confidence('{"label": "bug"}', tokens, ("bug", "question"), "bug"), 3)
    0.889
    """
    try:
        return _confidence(content, tokens, labels, answer)
    except (AttributeError, KeyError, TypeError, ValueError):  # a server's own idea of log-probabilities
        return None


def _confidence(
    content: str, tokens: Sequence[Token], labels: Sequence[Label], answer: Label
) -> float | None:
    written = content.encode("utf-8", "surrogatepass")
    pieces = [_bytes_of(token) for token in tokens or ()]
    if not pieces or b"".join(pieces) != written:
        return None
    span = _find(content, answer)
    if span is None:
        return None
    spellings = _spellings(tuple(labels), span.style)
    if answer not in spellings.whole.values():
        return None
    return _share(written, span, list(zip(pieces, tokens, strict=True)), spellings, answer)


def _share(
    written: bytes, span: Span, path: list[tuple[bytes, Token]], spellings: Spellings, answer: Label
) -> float | None:
    """p(answer) over the sum of all, walking along the answer's tokens.

    What comes before the labels differ is a factor of every term and cancels out.
    """
    mine, also_mine, others = 1.0, 0.0, 0.0  # the answer's path; other ways to write it; other labels
    at, listed = 0, False
    for piece, token in path:
        begin, at = at, at + len(piece)
        if at <= span.start:
            continue
        so_far = written[span.start : begin] if begin > span.start else b""
        if begin >= span.end and len(spellings.fitting(so_far)) < 2:
            break
        lead = written[begin : span.start].lstrip(_WHITE)
        for other, probability in _alternatives(token, piece):
            listed, text = True, other
            if begin < span.start:
                # The token begins before the value: it has to write what stands there, in any white space.
                text = other.lstrip(_WHITE)
                if not text.startswith(lead):
                    continue
                text = text[len(lead) :]
            fitting = spellings.fitting(so_far + text)
            if answer not in fitting:
                others += mine * probability if fitting else 0.0
            elif len(fitting) == 1:
                also_mine += mine * probability
        mine *= _probability(token)
    if not listed and not any(token.get("top_logprobs") for _, token in path):
        return None
    whole = mine + also_mine + others
    return min(1.0, (mine + also_mine) / whole) if whole > 0.0 else None


def _alternatives(token: Token, chosen: bytes) -> list[tuple[bytes, float]]:
    found = {_bytes_of(other): other for other in token.get("top_logprobs") or ()}
    return [(text, _probability(other)) for text, other in found.items() if text and text != chosen]


def _probability(token: Token) -> float:
    value = token.get("logprob")
    return math.nan if value is None else math.exp(min(0.0, value))


def _bytes_of(token: Token) -> bytes:
    """A token may hold a part of a character: then only its bytes are right."""
    raw = token.get("bytes")
    if raw is not None:
        return bytes(raw)
    return str(token.get("token", "")).encode("utf-8", "surrogatepass")


def _find(content: str, answer: Label) -> Span | None:
    """Where the label stands: the whole reply, or the last value of the object it is.

    From the end, because an explanation before it may hold anything, also text that looks like a label.
    """
    end = len(content.rstrip())
    if content.lstrip().startswith("{") and content[:end].endswith("}"):
        end = len(content[: end - 1].rstrip())
    elif content.strip() == str(answer):
        return _span(content, end - len(str(answer)), end, "bare")
    if content[:end].endswith('"'):
        begin = _opening_quote(content, end - 1)
        value = _read(content[begin:end])
        return _span(content, begin, end - 1, "string") if begin >= 0 and value == str(answer) else None
    begin = len(content[:end].rstrip("-0123456789"))
    return _span(content, begin, end, "number") if content[begin:end] == str(answer) else None


def _span(content: str, start: int, end: int, style: str) -> Span:
    offset = len(content[:start].encode("utf-8", "surrogatepass"))
    return Span(offset, offset + len(content[start:end].encode("utf-8", "surrogatepass")), style)


def _opening_quote(content: str, closing: int) -> int:
    """The quote that opens the string which `closing` ends; -1 where there is none."""
    at = content.rfind('"', 0, closing)
    while at >= 0:
        before = content[:at]
        if (len(before) - len(before.rstrip("\\"))) % 2 == 0:
            return at
        at = content.rfind('"', 0, at)
    return -1


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _spellings(labels: tuple[Label, ...], style: str) -> Spellings:
    whole: dict[bytes, Label] = {}
    for label in labels:
        if style == "string":
            # JSON leaves it open whether other scripts are escaped.
            whole |= {json.dumps(str(label), ensure_ascii=plain).encode(): label for plain in (True, False)}
        else:
            whole[str(label).encode()] = label
    beginnings: dict[bytes, set[Label]] = {}
    for form, label in whole.items():
        for length in range(len(form) + 1):
            beginnings.setdefault(form[:length], set()).add(label)
    lengths = tuple(sorted({len(form) for form in whole}))
    return Spellings({text: frozenset(found) for text, found in beginnings.items()}, whole, lengths, style)
