"""OpenAI's JSON for the embedded model: request bodies it understands, responses in the usual shape."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pandas_llm.core.errors import BadRequestError
from pandas_llm.core.vectors import EMBEDDINGS, vector_text
from pandas_llm.local.encoder import Encoded
from pandas_llm.verbs.classify import Label

CHAT = "/chat/completions"
ONLY_LABELS = (
    "the embedded model is an encoder: it can classify into single labels, and embed. For a language "
    "model set OPENAI_API_KEY or pandas_llm.configure(base_url=…)"
)


@dataclass(frozen=True, slots=True)
class Classify:
    """A question of the verb classify, about one text."""

    system: str
    """Holds the labels, their descriptions and the examples."""
    texts: list[str]
    alternatives: int | None
    """How many labels' log-probabilities are asked for; None: no log-probabilities."""


@dataclass(frozen=True, slots=True)
class Chances:
    """The labels' log-probabilities for one text, and the name of the model they come from."""

    model: str
    labels: tuple[Label, ...]
    logs: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts whose vectors are asked for."""

    texts: list[str]
    base64: bool


def read(path: str, body: bytes) -> Classify | Embed:
    """What a request asks; `BadRequestError` where the embedded model can't answer it."""
    try:
        asked = orjson.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise BadRequestError("The body isn't a JSON object.", status=400)
    if path == CHAT:
        return _classify(asked)
    if path == EMBEDDINGS:
        return _embed(asked)
    raise BadRequestError(f"The embedded model answers {CHAT} and {EMBEDDINGS}, not {path}.", status=404)


def completion(number: int, asked: Classify, found: Chances, seen: Encoded) -> bytes:
    """A chat completion with the likeliest label."""
    content = _HEAD + _tail(found.labels[int(found.logs.argmax())])
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    if asked.alternatives is not None:
        choice["logprobs"] = {"content": _tokens(found, asked.alternatives), "refusal": None}
    tokens = sum(seen.tokens)
    return orjson.dumps(
        {
            "id": f"chatcmpl-local-{number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": found.model,
            "choices": [choice],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2},
            "system_fingerprint": f"fp_{found.model.rpartition('@')[2]}",
            "x_pandas_llm_unknown_share": round(max(seen.unknown, default=0.0), 4),
        }
    )


def embeddings(name: str, asked: Embed, vectors: npt.NDArray[np.float32], tokens: Sequence[int]) -> bytes:
    """A list of embeddings, as floats or as base64 of little-endian float32."""
    read = sum(tokens)
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": n,
                    "embedding": vector_text(vector) if asked.base64 else vector.tolist(),
                }
                for n, vector in enumerate(vectors)
            ],
            "model": name,
            "usage": {"prompt_tokens": read, "total_tokens": read},
        }
    )


def error_body(error: BadRequestError) -> bytes:
    """An error in OpenAI's shape."""
    said = {"message": str(error), "type": "invalid_request_error", "param": None, "code": error.code}
    return orjson.dumps({"error": said})


def _classify(asked: Mapping[str, Any]) -> Classify:
    messages = asked.get("messages")
    turns = [(m.get("role"), m.get("content")) for m in messages or () if isinstance(m, dict)]
    if not _one_label(asked) or [role for role, _ in turns] != ["system", "user"] or asked.get("stream"):
        raise refused()
    system, user = (content for _, content in turns)
    if not isinstance(system, str) or not isinstance(user, str):
        raise refused()
    alternatives = asked.get("top_logprobs") or 0
    return Classify(system, [_unfenced(user)], alternatives if asked.get("logprobs") else None)


def _one_label(asked: Mapping[str, Any]) -> bool:
    """Whether the answer is one label and nothing else.

    Which labels there are stands in the system message: a schema has no enum for too many or too long ones.
    """
    try:
        properties = asked["response_format"]["json_schema"]["schema"]["properties"]
        return list(properties) == ["label"] and properties["label"]["type"] in ("string", "integer")
    except (KeyError, TypeError):
        return False


def _unfenced(content: str) -> str:
    fence, _, rest = content.partition("\n")
    if len(fence) < 3 or set(fence) != {"`"} or not rest.endswith("\n" + fence):
        raise refused()
    return rest[: -len(fence) - 1]


def refused() -> BadRequestError:
    """What is said to a request that isn't a question of classify."""
    # It must not name a parameter of the request: the same would be asked again without it.
    return BadRequestError(ONLY_LABELS[0].upper() + ONLY_LABELS[1:] + ".", status=400, code="encoder_only")


def _embed(asked: Mapping[str, Any]) -> Embed:
    given = asked.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequestError("The input of the embedded model is a text or a list of texts.", status=400)
    form = asked.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise BadRequestError(f"encoding_format is 'float' or 'base64'; got {form!r}.", status=400)
    if asked.get("dimensions") is not None:
        raise BadRequestError(
            "The embedded model's vectors can't be shortened: leave dimensions out.", status=400
        )
    return Embed(texts, form == "base64")


# The answer is two tokens: what all labels share, then a label up to the closing brace. So one label is
# never the beginning of another (1 of 12), and the alternatives to the second token are whole labels.
_HEAD = '{"label":'


def _tail(label: Label) -> str:
    return json.dumps(label, ensure_ascii=False) + "}"


def _tokens(found: Chances, alternatives: int) -> list[dict[str, Any]]:
    order = np.argsort(-found.logs, kind="stable")[: max(alternatives, 1)]
    listed = [_token(_tail(found.labels[n]), float(found.logs[n])) for n in order]
    head = _token(_HEAD, 0.0)
    return [
        {**head, "top_logprobs": [head] if alternatives else []},
        {**listed[0], "top_logprobs": listed if alternatives else []},
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
