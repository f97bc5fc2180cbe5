"""The tokeniser of a model, where its file is already on this disk: nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding


@dataclass(frozen=True, slots=True)
class EncodingFile:
    """One of tiktoken's files: where it is published, and what it must hold."""

    url: str
    sha256: str


_PUBLISHED = "https://openaipublic.blob.core.windows.net/encodings/"
_O200K = EncodingFile(
    _PUBLISHED + "o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
)
_CL100K = EncodingFile(
    _PUBLISHED + "cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
)
FILES = {"o200k_base": _O200K, "o200k_harmony": _O200K, "cl100k_base": _CL100K}
_OPENAI_MODEL = re.compile(r"(ft:)?(gpt-|chatgpt-|o\d)")


def encoder_for(model: str) -> Callable[[str], int] | None:
    """The token counter of a model, or None where estimates must do.

    tiktoken fetches a missing file over the network without a timeout, and deletes one that it doesn't
    know before it fetches another: it is asked only where the right file lies in its cache.
    """
    name = _encoding_name(model)
    if name is None or not on_disk(FILES[name]):
        return None
    return _load(name)


def counter(encoding: Encoding) -> Callable[[str], int]:
    """The counter of an encoding. Special tokens in a text are text: `encode` would raise on them."""
    encode = encoding.encode_ordinary

    def count(text: str) -> int:
        return len(encode(text))

    return count


def on_disk(file: EncodingFile) -> bool:
    """Whether tiktoken would find this file in its cache and keep it."""
    folder = _cache_folder()
    if folder is None:
        return False
    path = folder / hashlib.sha1(file.url.encode(), usedforsecurity=False).hexdigest()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    except OSError:
        return False


@cache
def _load(name: str) -> Callable[[str], int]:
    import tiktoken

    return counter(tiktoken.get_encoding(name))


def _encoding_name(model: str) -> str | None:
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        # tiktoken learns new models late; every one of OpenAI's since gpt-4o has been o200k.
        name = "o200k_base" if _OPENAI_MODEL.match(model) else ""
    return name if name in FILES else None


def _cache_folder() -> Path | None:
    """Where tiktoken looks; None where its cache is switched off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        folder = os.environ.get(variable)
        if folder is not None:
            return Path(folder) if folder else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"
