"""What the embedded model's tokenizer knows: words, and how much of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pandas_llm.core.errors import NeedsModelError, OptionsError
from pandas_llm.local.encoder import first_id, tokenizer_of
from pandas_llm.local.weights import find, require_extra

MOST_UNKNOWN = 0.1
"""Of a text's tokens: with more of them unknown, its vector says too little of it."""


@cache
def _tokenizer() -> Any:
    require_extra()
    return tokenizer_of(find().file.parent)


def unknown_shares(texts: Sequence[str]) -> list[float]:
    """For each text the share of its tokens that the model has never seen."""
    tokenizer = _tokenizer()
    unknown = first_id(tokenizer, "[UNK]", "<unk>")
    shares = []
    for text in texts:
        ids = tokenizer.encode(text).ids[1:-1]
        shares.append(ids.count(unknown) / len(ids) if ids else 0.0)
    return shares


@cache
def vocabulary() -> frozenset[str] | None:
    """Whole words of the model's vocabulary; None where it, or what reads it, isn't on this machine."""
    try:
        known = _tokenizer().get_vocab()
    except (NeedsModelError, OptionsError):
        return None
    return frozenset(word for word in known if word.isalpha())
