"""A text in chunks between spaces, for `similar`: words, codes and marks, with the courtesies taken off."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from pandas_llm.core import similar_words as lists

STOPS = frozenset(".?;:…")
MARKS = STOPS | {",", "、"}
"""Marks that stand inside a text as chunks do; `!` is a full stop."""

# How a word uses case; all but PLAIN keep their capitals, INITIAL not at the start of a sentence.
PLAIN, INITIAL, CASED = range(3)


class Chunk(NamedTuple):
    """What stands between two spaces."""

    word: str
    """In small letters where it is a word, and as it is where it is a code; empty where marks stand alone."""
    written: str
    mark: str
    """What follows it: empty, one of MARKS, `!`, or marks in a row that mean who knows what."""
    shape: int


def chunks_of(plain: str) -> list[Chunk]:
    """The chunks of a text that `plain_form` gave, courtesies off."""
    chunks = [_read(piece) if len(piece) < _LONG else _parse(piece) for piece in plain.split()]
    if len(chunks) < 3:
        return chunks
    words = [chunk.word for chunk in chunks]
    if "" in words:
        chunks = _with_marks_joined(chunks)
    if chunks[0].word in _FIRST_WORDS:
        chunks = _without_greetings(chunks)
    if chunks[-1].word in lists.SIGN_OFFS:
        chunks = _without_sign_offs(chunks)
    if chunks[-1].word in _LAST_WORDS or not lists.PLEASE.isdisjoint(words):
        chunks = _without_fillers(chunks)
    return chunks


def plain_form(text: str) -> str:
    """The text with one way only to write a quote, an accent, a wide or a narrow letter.

    Not NFKC: it makes another number of "x²" and of "½".
    """
    if text.isascii():
        return text
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _ODD.search(text):
        text = _HALF_KANA.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text.translate(_SAME))
    for opening, closing in ("¿?", "¡!"):
        if 0 < text.count(opening) <= text.count(closing):
            text = text.replace(opening, " ")
    return _with_cjk_apart(text) if _CJK_RUN.search(text) else text


def _with_cjk_apart(text: str) -> str:
    """Chinese and Japanese as one chunk from mark to mark, its greetings taken off."""
    text = _CJK_MARK.sub(r"\g<0> ", text)
    for courtesy in (_CJK_GREETING, _CJK_GREETING, _CJK_SIGN_OFF, _CJK_SIGN_OFF):
        rest = courtesy.sub("", text, count=1)
        if len(rest.strip()) > 2:
            text = rest
    return _CJK_RUN.sub(r" \g<0> ", _CJK_GAP.sub("", text))


_LONG = 48
"""Characters. Longer chunks aren't remembered: they hardly come again, and could be a whole book."""


def _parse(piece: str) -> Chunk:
    body = piece.rstrip(".,!?;:…、")
    if not body:
        return Chunk("", "", _mark(piece), PLAIN)
    if "!" in piece[len(body) :] and (body[-1].isdigit() or (len(body) == 1 and body not in "iI")):
        return Chunk(piece, piece, "", PLAIN)  # a factorial, perhaps
    mark = _mark(piece[len(body) :])
    if not _WORD.fullmatch(body):
        code = "–" if body in _DASHES else body
        return Chunk(code, code, mark, PLAIN)
    small = body.lower()
    word = lists.CONTRACTIONS.get(small, small)
    return Chunk(word, body, mark, _shape(body, small, word))


_read = lru_cache(maxsize=65_536)(_parse)


def _shape(body: str, small: str, word: str) -> int:
    if body == small or word in lists.HARMLESS_ACRONYMS:
        return PLAIN
    if not body[0].isupper() or not (body[1:].islower() or len(body) == 1):
        return CASED
    if word in _I:
        return PLAIN
    if len(body) == 1 and word not in lists.CLOSED:
        return CASED
    return CASED if word in lists.NAMES_EVEN_AT_THE_START else INITIAL


def _mark(tail: str) -> str:
    if not tail or len(tail) == 1:
        return tail
    kinds = set(tail)
    if kinds <= {"?", "!"}:
        return "?" if "?" in kinds else "!"
    if kinds <= {".", "…"}:
        return "…"
    return tail if kinds - {".", "!"} else "!"


def _with_marks_joined(chunks: list[Chunk]) -> list[Chunk]:
    """Marks that stand alone, as before "!" in French, put to the word before them."""
    joined = chunks[:1]
    for chunk in chunks[1:]:
        if chunk.word or joined[-1].mark:
            joined.append(chunk)
        else:
            _hand_on(joined, chunk.mark)
    return joined


def _without_greetings(chunks: list[Chunk]) -> list[Chunk]:
    for _ in range(2):
        first = chunks[0]
        if first.word in lists.HESITATIONS and first.mark == ",":
            length = 1
        else:
            length = next((len(p) for p in lists.GREETINGS.get(first.word, ()) if _opens(p, chunks)), 0)
        if not length or len(chunks) < length + 2:
            break
        chunks = chunks[length:]
    return chunks


def _opens(phrase: tuple[str, ...], chunks: list[Chunk]) -> bool:
    length = len(phrase)
    if length >= len(chunks) or not _says(phrase, chunks[:length]):
        return False
    mark = chunks[length - 1].mark
    return mark in _ENDS_GREETING or (not mark and chunks[length].word in lists.FOLLOWERS)


def _says(phrase: tuple[str, ...], chunks: list[Chunk]) -> bool:
    """Whether the chunks are these words, with no mark between them."""
    return all(word == chunk.word for word, chunk in zip(phrase, chunks, strict=True)) and not any(
        chunk.mark for chunk in chunks[:-1]
    )


def _without_sign_offs(chunks: list[Chunk]) -> list[Chunk]:
    for _ in range(2):
        length = next((len(p) for p in lists.SIGN_OFFS.get(chunks[-1].word, ()) if _closes(p, chunks)), 0)
        if not length:
            break
        chunks = chunks[:-length]
    return chunks


def _closes(phrase: tuple[str, ...], chunks: list[Chunk]) -> bool:
    rest = len(chunks) - len(phrase)
    # "No, thanks" and "I'm good, thanks" are answers; more words than that are a message of their own.
    if rest < 4 or chunks[-1].mark == "?" or not _says(phrase, chunks[rest:]):
        return False
    if chunks[rest - 1].mark == ",":
        # More commas make a list: "hello, please, sorry, thanks".
        return all(chunk.mark != "," for chunk in chunks[: rest - 1])
    return chunks[rest - 1].mark in _BEFORE_SIGN_OFF


def _without_fillers(chunks: list[Chunk]) -> list[Chunk]:
    """Without "please" where it only asks politely: "please stop" is more than "stop" and stays."""
    kept: list[Chunk] = []
    for at, chunk in enumerate(chunks):
        if chunk.word in lists.PLEASE and _is_filler(chunks, at):
            _hand_on(kept, chunk.mark)
        else:
            kept.append(chunk)
    for phrase in lists.S_IL_VOUS_PLAIT.get(kept[-1].word, ()):
        rest = len(kept) - len(phrase)
        if rest > 1 and _says(phrase, kept[rest:]) and kept[rest - 1].mark in _NONE_OR_COMMA:
            mark = kept[-1].mark
            del kept[rest:]
            _hand_on(kept, mark)
            break
    # Without a question mark "por favor" would turn "cancela", he cancels, into an order.
    if len(kept) > 4 and kept[-1].mark == "?" and _says(("por", "favor"), kept[-2:]):
        del kept[-2:]
        _hand_on(kept, "?")
    return kept


def _is_filler(chunks: list[Chunk], at: int) -> bool:
    before = chunks[max(0, at - 3) : at]
    if len(before) < 2:
        return False
    if at == len(chunks) - 1:
        if before[-1].mark == ",":
            return at > 2
        if before[-1].word in lists.BEFORE_PLEASE and not before[-1].mark:
            return True
    if chunks[at].mark not in _NONE_OR_END or any(chunk.mark for chunk in before[-2:]):
        return False
    words = [chunk.word for chunk in before]
    if len(words) == 3 and words[0] in lists.ASKING and not before[0].mark:
        return words[1] in lists.ASKED and words[2] in lists.ASKED
    return words[-2] in lists.ASKING and words[-1] in lists.ASKED


def _hand_on(kept: list[Chunk], mark: str) -> None:
    """The mark after what was left out ends what stands before it."""
    kept[-1] = kept[-1]._replace(mark=mark)


_FIRST_WORDS = frozenset([*lists.GREETINGS, *lists.HESITATIONS])
_LAST_WORDS = frozenset([*lists.S_IL_VOUS_PLAIT, "favor"])
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_DASHES = frozenset(["-", "--", "–", "—"])
_I = frozenset(["i", "i'm", "i've", "i'd", "i'll"])
_ENDS_GREETING = frozenset([",", ".", "!", ":", "…"])
_BEFORE_SIGN_OFF = frozenset([".", "!", "?", "…"])
_NONE_OR_COMMA = frozenset(["", ","])
_NONE_OR_END = frozenset(["", "?", ".", "!"])

_CJK = "々-〇ぁ-ヿㇰ-ㇿ㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff"
_CJK_RUN = re.compile(f"[{_CJK}]+")
_CJK_GAP = re.compile(f"(?<=[{_CJK}])\\s+(?=[{_CJK}])")
_CJK_MARK = re.compile(f"(?<=[{_CJK}])[,.!?;:…、]+")
_HALF_KANA = re.compile("[\uff65-\uff9f]+")
_ASKING = ".*(?:[?吗嗎呢哪谁几]|什么|怎|如何|多少|为何|是否|能否|能不能)"
"""请问, "may I ask", is a greeting before a question alone: 请问候他 asks for a greeting."""
_CJK_GREETING = re.compile(
    rf"^\s*(?:(?:{'|'.join(lists.CJK_GREETINGS)})[,.!…、~\s]+|请问(?!候)[,、\s]*(?={_ASKING}))"
)
_CJK_SIGN_OFF = re.compile(rf"(?<=[,.!?…、\s])(?:{'|'.join(lists.CJK_SIGN_OFFS)})[.!~…\s]*$")
_SAME = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict(zip(map(ord, "￠￡￢￣￤￥￦"), "¢£¬¯¦¥₩", strict=True)),
    **dict.fromkeys(map(ord, "“”„‟«»"), '"'),
    **dict.fromkeys(map(ord, "‘’‚‛´ʼ"), "'"),
    **dict(zip(map(ord, "。｡､｢｣"), [".", ".", "、", "「", "」"], strict=True)),
    **dict(zip(map(ord, "ﬀﬁﬂﬃﬄ"), ["ff", "fi", "fl", "ffi", "ffl"], strict=True)),
    **dict.fromkeys(map(ord, "\u00ad\ufeff")),
}
"""Code points and what is the same: wide forms, quotes, ligatures; the last two are invisible."""
_ODD = re.compile(f"[{''.join(map(chr, _SAME))}\uff65-\uff9f]")
