"""The model behind the HTTP: an answer to one request, and the bill; live requests and batch rows alike."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from fakes import answers, contract, faults, replies
from fakes.answers import Answer, Json, Token
from fakes.faults import Fault
from fakes.ledger import Bill, Settings


class Model:
    """What a server of these settings answers, and what it has billed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._warm: set[tuple[str, ...]] = set()
        self._known: dict[tuple[str, str, str], tuple[Token, ...]] = {}
        self._lock = threading.Lock()
        self._bill = Bill()
        self.arrivals = itertools.count()
        """Numbers of live requests and rows, in the order they reach the model: what faults match on."""

    @property
    def bill(self) -> Bill:
        """What was produced so far: a snapshot."""
        with self._lock:
            bill = self._bill
            return replace(bill, texts=bill.texts.copy(), batch_rows=bill.batch_rows.copy())

    def unsupported(self, body: Json) -> Fault | None:
        """The refusal of what this server was told not to know."""
        settings = self._settings
        kind = (body.get("response_format") or {}).get("type")
        if kind in settings.refuse_formats:
            message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported."
            return faults.error(400, "unsupported_value", message, param="response_format")
        if settings.refuse_logprobs and body.get("logprobs"):
            return faults.LOGPROBS_REFUSED
        if settings.refuse_breakpoint and replies.has_breakpoint(body):
            return faults.BREAKPOINT_REFUSED
        return None

    def is_warm(self, body: Json) -> bool:
        """Whether the prompt's fixed beginning is in the cache."""
        return self._cache_entry(body) in self._warm

    def answer(self, text: str, body: Json) -> Answer:
        """What the model says, with its log-probabilities where they are asked for."""
        settings = self._settings
        said = settings.answer(text, body) if settings.answer is not None else Answer()
        answer = Answer(content=said) if isinstance(said, str) else said
        likely = answer.label_probabilities or settings.label_probabilities
        if answer.content is None and answer.refusal is None:
            answer = replace(answer, content=answers.default_content(text, body, likely))
        if body.get("logprobs") and answer.logprobs is None and answer.content:
            labels = answers.labels_of(body) or list(likely or ())
            answer = replace(answer, logprobs=self._logprobs_of(answer.content, labels, likely))
        return answer

    def _logprobs_of(
        self, content: str, labels: list[Any], likely: Mapping[Any, float] | None
    ) -> tuple[Token, ...]:
        # The rows of a batch get few different replies, and each takes 0.1 ms.
        key = (content, repr(labels), repr(likely))
        if key not in self._known:
            if len(self._known) >= 1000:
                self._known.clear()
            self._known[key] = answers.logprobs_of(content, labels, likely)
        return self._known[key]

    def completion(self, body: Json, answer: Answer, number: int, *, warm: bool) -> Json:
        """The chat completion that says it; the prompt's beginning is in the cache from now on."""
        said = answer.content or answer.refusal or ""
        reasoning = self._settings.reasoning_tokens
        usage: Json | None = replies.usage_of(body, said, warm=warm, reasoning=reasoning)
        if answer.usage is not None:
            usage = {**(usage or {}), **answer.usage} if answer.usage else None
        reply = replies.completion(body, answer, usage, number)
        if answer.ordinary:
            contract.parse_once("ChatCompletion", reply)
        entry = self._cache_entry(body)
        if entry is not None:
            self._warm.add(entry)
        return reply

    def embeddings(self, body: Json) -> tuple[Json, list[str], int]:
        """The embeddings reply, its texts, and their tokens."""
        texts = list(map(str, replies.embedding_inputs(body)))
        size = body.get("dimensions") or (3072 if "3-large" in body["model"] else 1536)
        vectors = [(self._settings.embed or replies.embedding_of)(text, size) for text in texts]
        tokens = sum(map(replies.count, texts))
        reply = replies.embeddings(body, vectors, tokens)
        if body.get("encoding_format") != "base64":  # which the SDK's type doesn't know, only its client
            contract.parse_once("CreateEmbeddingResponse", reply)
        return reply, texts, tokens

    def charge(self, text: str, sent: bytes | Json, *, row: str | None = None) -> None:
        """Bill what was sent, if it carries usage; `row`: the custom_id of a batch's row."""
        try:
            reply = orjson.loads(sent) if isinstance(sent, bytes) else sent
        except orjson.JSONDecodeError:
            return
        if isinstance(reply, dict) and isinstance(reply.get("usage"), dict):
            with self._lock:
                self._bill.add_completion(text, reply, self._settings.prices, row)

    def charge_embeddings(self, texts: list[str], tokens: int, *, row: str | None = None) -> None:
        """Bill one request for vectors."""
        with self._lock:
            self._bill.add_embeddings(texts, tokens, self._settings.prices, row)

    def charge_batch(self) -> None:
        """Count a batch that was created."""
        with self._lock:
            self._bill.batches += 1

    def _cache_entry(self, body: Json) -> tuple[str, ...] | None:
        prefix = replies.cache_prefix(body)
        return (body.get("model", ""), prefix, body.get("prompt_cache_key") or "") if prefix else None
