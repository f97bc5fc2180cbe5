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


@dataclass(frozen=True, slots=True)
class Span:
    """Where the answer's value stands in the reply, in bytes, and how values are written there."""

    start: int
    end: int
    """After its last character; a closing quote not included."""
    style: str
    """`string` and `number` in JSON, else `bare`: the whole reply is the label."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a label may be written, to its end."""

    forms: tuple[bytes, ...]
    style: str

    def fits(self, written: bytes) -> bool:
        """Whether a text that has come this far may be this label, or is this label and more."""
        return any(
            form.startswith(written) or (written.startswith(form) and self._ends(written[len(form) :]))
            for form in self.forms
        )

    def _ends(self, after: bytes) -> bool:
        if self.style == "string":
            return True  # the closing quote is part of the form
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
    written = content.encode("utf-8", "surrogatepass")
    pieces = [_bytes_of(token) for token in tokens or ()]
    if not pieces or b"".join(pieces) != written:
        return None
    span = _find(content, answer)
    if span is None:
        return None
    spellings = _spellings(tuple(labels), span.style)
    if answer not in spellings:
        return None
    return _share(written, span, list(zip(pieces, tokens, strict=True)), spellings, answer)


def _share(
    written: bytes,
    span: Span,
    path: list[tuple[bytes, Token]],
    spellings: Mapping[Label, Spelling],
    answer: Label,
) -> float | None:
    """p(answer) over the sum of all, walking along the answer's tokens.

    What comes before the labels differ is a factor of every term and cancels out.
    """
    own = also_own = others = 0.0  # the path's log-probability; other ways to write the answer; other labels
    at, listed = 0, False
    possible = dict(spellings)
    for piece, token in path:
        begin, at = at, at + len(piece)
        if at <= span.start:
            continue
        so_far = written[span.start : begin] if begin > span.start else b""
        possible = {label: how for label, how in possible.items() if how.fits(so_far)}
        if begin >= span.end and len(possible) < 2:
            break
        lead = written[begin : span.start]
        for text, probability in _alternatives(token, piece):
            listed = True
            fit = _fitting(text, lead, so_far, possible)
            if fit == [answer]:
                also_own += probability * math.exp(own)
            elif answer not in fit and fit:
                others += probability * math.exp(own)
        own += _logprob(token)
    mine = math.exp(own) + also_own
    if math.isnan(mine) or mine + others <= 0.0 or not (listed or _has_alternatives(path)):
        return None
    return min(1.0, max(0.0, mine / (mine + others)))


def _fitting(text: bytes, lead: bytes, so_far: bytes, possible: Mapping[Label, Spelling]) -> list[Label]:
    """The labels that a token written instead of the answer's may lead to."""
    if lead:
        # The token begins before the value: it has to write what stands there, in whatever white space.
        lead, text = lead.lstrip(_WHITE), text.lstrip(_WHITE)
        if not text.startswith(lead):
            return []
        text = text[len(lead) :]
    return [label for label, how in possible.items() if how.fits(so_far + text)]


def _alternatives(token: Token, chosen: bytes) -> list[tuple[bytes, float]]:
    found = {}
    for other in token.get("top_logprobs") or ():
        text = _bytes_of(other)
        if text and text != chosen:
            found[text] = math.exp(_logprob(other))
    return list(found.items())


def _has_alternatives(path: list[tuple[bytes, Token]]) -> bool:
    return any(token.get("top_logprobs") for _, token in path)


def _logprob(token: Token) -> float:
    value = token.get("logprob")
    return math.nan if value is None else min(0.0, float(value))


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
def _spellings(labels: tuple[Label, ...], style: str) -> dict[Label, Spelling]:
    """Every way a label may be written: JSON leaves it open whether other scripts are escaped."""
    if style != "string":
        return {label: Spelling((str(label).encode(),), style) for label in labels}
    return {
        label: Spelling(
            tuple({json.dumps(str(label), ensure_ascii=plain).encode() for plain in (False, True)}), style
        )
        for label in labels
    }
