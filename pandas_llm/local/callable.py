"""A function of the user's as an endpoint: texts in, vectors out, in a thread of its own, without a port."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import CodeType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.errors import BadRequestError, OptionsError, ServerError
from pandas_llm.core.prompts import excerpt
from pandas_llm.core.types import Reply
from pandas_llm.local import wire
from pandas_llm.local.endpoint import BASE_URL

Embedder: TypeAlias = Callable[[list[str]], Any]
"""Texts -> an array of shape (texts, numbers)."""


def name_of(embedder: Embedder) -> str:
    """What a function's vectors are kept under: `callable:notebook.embed@1f0c9e2a`.

    Its code is part of it, as far as it is Python: who edits the function mustn't get the old one's vectors.

    Raises
    ------
    OptionsError
        It has no name of its own: two such functions would get each other's vectors.
    """
    name = getattr(embedder, "__qualname__", "")
    bound = getattr(embedder, "__self__", None)
    if not name or "<lambda>" in name or isinstance(embedder, type) or hasattr(bound, "__dict__"):
        raise OptionsError(
            "model= takes a function that has a name, under which its vectors are kept; got "
            f"{excerpt(embedder)}. Write one around it: def my_model(texts): return …"
        )
    return f"callable:{identity(embedder)}"


def identity(function: Callable[..., Any]) -> str:
    """A function's name and version: `notebook.embed@1f0c9e2a`. What it finds elsewhere is in neither."""
    if isinstance(function, partial):
        given = [*map(repr, function.args), *(f"{name}={each!r}" for name, each in function.keywords.items())]
        return f"{identity(function.func)}({', '.join(given)})"
    code = getattr(function, "__code__", None)
    version = f"@{_digest(code)}" if isinstance(code, CodeType) else ""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}{version}"


def _digest(code: CodeType) -> str:
    digest = hashlib.blake2b(digest_size=4)
    todo = [code]
    while todo:
        each = todo.pop()
        digest.update(each.co_code + repr(each.co_names).encode())
        for constant in each.co_consts:
            if isinstance(constant, CodeType):
                todo.append(constant)
            else:
                # A set's order is another in each process.
                each_of = sorted(map(repr, constant)) if isinstance(constant, frozenset) else [repr(constant)]
                digest.update("\0".join(each_of).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class CallableEndpoint:
    """A function, answering as an OpenAI-compatible server would; one call of it at a time.

    Parameters
    ----------
    embedder
        Texts -> vectors. What it raises is taken for the fault of one of its texts.
    name
        What answers say they come from.
    """

    def __init__(self, embedder: Embedder, name: str) -> None:
        self.base_url = BASE_URL
        self._embedder = embedder
        self._name = name
        self._thread = ThreadPoolExecutor(1, "pandas_llm callable")
        self._numbers = itertools.count(1)

    async def send(self, path: str, body: bytes, seconds: float) -> Reply:
        """The response to a POST of `body`.

        Raises
        ------
        OptionsError
            What the function returns isn't one vector a text.
        """
        started = time.perf_counter()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._answer, path, body)
        try:
            async with asyncio.timeout(seconds):
                status, said = await work
        except TimeoutError:
            raise ServerError(f"{self._name} took more than {seconds:g} s.", code="timeout") from None
        headers = {"content-type": "application/json", "x-request-id": f"callable-{next(self._numbers)}"}
        return Reply(status, headers, said, time.perf_counter() - started)

    async def close(self) -> None:
        """Call it no more; a call that goes on is left to itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        asked = wire.read(path, body)
        assert isinstance(asked, wire.Embed), "only vectors are asked of a function"
        try:
            found = self._embedder(asked.texts)
        except Exception as error:  # noqa: BLE001 — it raises what it likes
            said = f"{type(error).__name__}: {excerpt(str(error))}"
            return 400, wire.error_body(BadRequestError(said, code="callable"))
        vectors = self._vectors(found, asked.texts)
        tokens = [0] * len(asked.texts)
        return 200, wire.embeddings(self._name, asked, vectors, tokens)

    def _vectors(self, found: Any, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        try:
            vectors = np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise OptionsError(f"{self._name} returned what is no array of numbers: {error}.") from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise OptionsError(
                f"{self._name} returned an array of shape {vectors.shape}; of {len(texts):,} texts it is "
                f"({len(texts)}, n), one vector a text."
            )
        return vectors
