"""The JSON that replies travel in: completions, chunks, embeddings, and their usage."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from fakes.answers import Answer, Json, Token, joined, tokens_of


def usage_of(body: Json, content: str, *, warm: bool, reasoning: int = 0) -> Json:
    """Usage of a chat completion: a quarter of the bytes. `warm`: the fixed prefix was in the cache."""
    prompt = prompt_tokens(body)
    said = count(content) + reasoning
    prefix = cache_prefix(body)
    stored = count(prefix) if prefix else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {
            "cached_tokens": stored if warm else 0,
            "cache_write_tokens": 0 if warm else stored,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def count(text: str) -> int:
    """Tokens of a text, near enough: bytes / 4, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def prompt_tokens(body: Json) -> int:
    """Tokens of all messages of a request, or of all its texts to embed."""
    if "input" in body:
        return sum(count(str(text)) for text in embedding_inputs(body))
    return sum(count(joined(message.get("content"))) for message in body["messages"])


def has_breakpoint(body: Json) -> bool:
    """Whether any content part carries a cache breakpoint."""
    parts = (part for message in body.get("messages", ()) for part in message["content"] or ())
    return any(isinstance(part, dict) and "prompt_cache_breakpoint" in part for part in parts)


def cache_prefix(body: Json) -> str | None:
    """The text up to the last cache breakpoint of the system messages, where it has 1,024 tokens and more."""
    text, prefix = "", None
    for message in body["messages"]:
        if message["role"] not in ("system", "developer"):
            break
        for part in message["content"] if isinstance(message["content"], list) else ():
            text += part["text"]
            if part.get("prompt_cache_breakpoint"):
                prefix = text
        if isinstance(message["content"], str):
            text += message["content"]
    return prefix if prefix is not None and count(prefix) >= 1024 else None


def completion(body: Json, answer: Answer, usage: Json | None, number: int) -> Json:
    """The chat completion that says `answer`."""
    logprobs = None
    if body.get("logprobs") and answer.logprobs is not None:
        content = [_token_json(token, body.get("top_logprobs") or 0) for token in answer.logprobs]
        logprobs = {"content": content, "refusal": None}
    choice = {
        "message": {
            "role": "assistant",
            "content": None if answer.refusal else answer.content,
            "refusal": answer.refusal,
            "annotations": [],
        },
        "logprobs": logprobs,
        "finish_reason": answer.finish_reason,
    }
    reply = {
        "id": f"chatcmpl-{number:08}",
        "object": "chat.completion",
        "created": 1_793_000_000 + number,
        "model": answer.model or body.get("model", ""),
        "choices": [{"index": index, **choice} for index in range(body.get("n") or 1)],
        "service_tier": answer.service_tier or _tier(body),
        "system_fingerprint": "fp_fake",
    }
    return reply if usage is None else {**reply, "usage": usage}


def chunks(reply: Json, *, include_usage: bool, pieces: int = 3) -> Iterator[Json]:
    """A completion as the chunks of a stream: the role, the text in a few deltas, the end, the usage."""
    head = {**reply, "object": "chat.completion.chunk"} | ({"usage": None} if include_usage else {})
    usage = reply.get("usage")
    if not include_usage:
        head.pop("usage", None)
    (choice, *_) = reply["choices"]
    message, logprobs = choice["message"], choice["logprobs"]

    def chunk(delta: Json, logprobs: Any = None, finish: str | None = None) -> Json:
        return {
            **head,
            "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
        }

    yield chunk({"role": "assistant", "content": ""})
    if message["refusal"] is not None:
        yield chunk({"refusal": message["refusal"]})
    tokens = [t["token"] for t in logprobs["content"]] if logprobs else tokens_of(message["content"] or "")
    step = max(1, -(-len(tokens) // pieces))
    for start in range(0, len(tokens), step):
        part = logprobs and {"content": logprobs["content"][start : start + step], "refusal": None}
        yield chunk({"content": "".join(tokens[start : start + step])}, part)
    yield chunk({}, finish=choice["finish_reason"])
    if include_usage and usage is not None:
        yield {**head, "choices": [], "usage": usage}


def _token_json(token: Token, top: int) -> Json:
    def entry(text: str, logprob: float) -> Json:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    best = sorted(token.top.items(), key=lambda item: -item[1])[:top]
    return {**entry(token.text, token.logprob), "top_logprobs": [entry(*each) for each in best]}


def _tier(body: Json) -> str:
    tier = body.get("service_tier")
    return "default" if tier in (None, "auto") else tier


def embedding_inputs(body: Json) -> list[Any]:
    """What is embedded: texts, or lists of token ids."""
    inputs = body["input"]
    return inputs if isinstance(inputs, list) and inputs and not isinstance(inputs[0], int) else [inputs]


def embeddings(body: Json, vectors: Sequence[Sequence[float]], tokens: int) -> Json:
    """The embeddings reply, as floats or base64."""
    base = body.get("encoding_format") == "base64"
    rows = [np.asarray(vector, dtype="<f4") for vector in vectors]
    encoded = [base64.b64encode(row.tobytes()).decode() if base else row.tolist() for row in rows]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(encoded)],
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def embedding_of(text: str, dimensions: int) -> np.ndarray[Any, Any]:
    """A unit vector, the sum of its words': texts that share words are near."""
    words = re.findall(r"\w+", text.lower()) or [text]
    total = np.sum([_word_vector(word, dimensions) for word in words], axis=0)
    return total / np.linalg.norm(total)


@lru_cache(maxsize=4096)
def _word_vector(word: str, dimensions: int) -> np.ndarray[Any, Any]:
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8])
    return np.random.default_rng(seed).standard_normal(dimensions)
