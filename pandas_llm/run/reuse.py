"""Near-equal texts asked once: candidates, guards, an audit, and what was reused on its certificate."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pandas_llm.core.certificate import Audit, Certificate, Point
from pandas_llm.core.compound import Semantic
from pandas_llm.core.errors import LLMError
from pandas_llm.core.links import Links, agree, links_among, words_seen_often
from pandas_llm.core.neighbours import pairs_above
from pandas_llm.core.plan import KeyIndex, question_id, split
from pandas_llm.core.similar import Folded, fold
from pandas_llm.core.types import Key, Values
from pandas_llm.io import similar_texts
from pandas_llm.io.store import Store
from pandas_llm.local.callable import identity

if TYPE_CHECKING:
    from pandas_llm.run.story import Run

Ask = Callable[[Sequence[int]], Awaitable[None]]

FLOOR = 0.8
"""The least similarity of a candidate where the audit chooses the threshold: the guards do the rest."""
_ROUND = 16
"""Members audited together."""
_ANSWERED = ("api", "batch", "cache")


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an embedder made of texts."""

    embedder: str
    """Its model's name."""
    rows: Sequence[npt.NDArray[np.float32] | None]
    """One a text, of length 1; None where it failed, or where the embedder doesn't know the text's words."""
    cost: float = 0.0
    """USD; a run of its own has it on its bill."""
    is_word: Callable[[str], bool] | None = None
    failed: int = 0
    """Texts without a vector because something went wrong."""
    why: str = ""
    """What went wrong with the first of them."""


Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


@dataclass(slots=True, kw_only=True)
class Report:
    """What semantic dedupe did in a run."""

    texts: int = 0
    """New ones that were compared."""
    known: int = 0
    """Texts they were compared with beside each other."""
    links: Links = field(default_factory=lambda: Links({}, 0))
    certificate: Certificate | None = None
    curve: Sequence[Point] = ()
    similarities: Sequence[float] = ()
    """Of those that might take an answer."""
    again: int = 0
    """Requests not sent because an earlier run's certificate stands."""
    embedding_cost: float = 0.0
    note: str = ""
    """Why nothing was compared."""

    @property
    def saved(self) -> int:
        """Requests that weren't sent, net of the audit."""
        return self.again + (self.certificate.saved if self.certificate else 0)


@dataclass(frozen=True, slots=True)
class _Member:
    """A text of this run that may take an answer."""

    code: int
    key: Key
    """Of the text that is, or was, asked."""
    similarity: float


class Reuse:
    """The reuse of one run."""

    def __init__(self, run: Run, settings: Semantic) -> None:
        store = run.call.store
        assert isinstance(store, Store), "semantic dedupe without a store is refused before the run"
        self.report = Report()
        self.embed: Embed | None = None
        """How vectors are got; without it nothing new is compared."""
        self._run = run
        self._plan = run.call.plan
        self._index = KeyIndex(run.call.plan.keys, range(len(run.call.plan)))
        self._settings = settings
        self._fresh = run.call.options.cache == "refresh"
        self._store = store
        self._question = question_id(run.call.plan.question)
        task = run.call.task
        # An explanation, or how sure the model is, may differ where the answer doesn't.
        answers = task.verb == "extract"
        self._compared = [n for n, each in enumerate(task.fields) if answers or each.name == task.output]
        self._agreement = "" if settings.agreement is None else identity(settings.agreement)
        self._members: list[_Member] = []
        self._vectors: dict[int, npt.NDArray[np.float32]] = {}
        self._stored: set[int] = set()
        """Codes whose text and vector are kept already."""
        self._embedder = ""

    def recall(self, codes: Sequence[int]) -> None:
        """Reuse what an earlier run's certificate allows, if it promised as much as is asked for now."""
        if self._fresh:
            return
        before = self._store.similar.reuses(self._question, b"".join(map(self._plan.key, codes)))
        standing = {key: reuse for key, reuse in before.items() if self._stands(reuse)}
        answers = self._answers_of([reuse.answered_as for reuse in standing.values()])
        for code in codes if answers else ():
            reuse = standing.get(self._plan.key(code))
            if reuse is not None and reuse.answered_as in answers:
                self._run.sheet.share(code, reuse.answered_as, answers[reuse.answered_as], reuse.similarity)
                self.report.again += 1

    async def begin(self, codes: Sequence[int]) -> Sequence[int]:
        """Those of the codes that are to be asked; the others may take an answer."""
        if self.embed is None or (len(codes) < 2 and not self._store.similar.count(self._question)):
            return codes
        try:
            await self._compare(codes, self.embed)
        except LLMError as error:
            self._without_vectors(f"{type(error).__name__}: {error}")
            self._members = []
        waiting = {member.code for member in self._members}
        return [code for code in codes if code not in waiting]

    async def end(self, audit_by: Ask, ask: Ask) -> None:
        """Audit, share what the certificate allows, ask for the rest."""
        self._keep_texts()
        if self._wait_for_a_batch():
            return
        answers = self._answers_of([each.key for each in self._members])
        members = [each for each in self._members if each.key in answers]
        if members:
            await self._audit(members, answers, audit_by)
        if not self._run.out_of_money:  # who waited for it holds claims on what it wasn't enough for
            await ask([each.code for each in self._members if not self._run.sheet.sources[each.code]])
        self._keep_texts()

    def _wait_for_a_batch(self) -> bool:
        """Whether answers to be shared are still to come by batch: whoever collects it goes on from here."""
        sheet, run = self._run.sheet, self._run
        codes = self._index.find([each.key for each in self._members])
        why = [sheet.errors[code] for code in codes if code >= 0 and sheet.sources[code] == "pending"]
        if not why or run.call.options.mode == "concurrent":
            return False
        run.pend([each.code for each in self._members], why[0].removeprefix("Pending: "))
        return True

    # Candidates ---------------------------------------------------------------------------------------

    def _stands(self, reuse: similar_texts.Reuse) -> bool:
        wanted = self._settings
        if wanted.threshold != "auto":
            return reuse.similarity >= wanted.threshold
        # Answers that are equal agree in anybody's eyes; those that agreed in others' may not in these.
        agreed = reuse.agreement in ("", self._agreement)
        return agreed and reuse.max_error <= wanted.max_error and reuse.confidence >= wanted.confidence

    async def _compare(self, codes: Sequence[int], embed: Embed) -> None:
        """Link the texts of these codes to known ones, and to each other."""
        sources, run = self._run.sheet.sources, self._run
        answered = [code for code, source in enumerate(sources) if source in _ANSWERED]
        if run.call.options.mode != "concurrent":
            answered += [code for batched in run.in_batches.values() for code in batched]
        asked = (*answered, *codes)
        made = await embed([self._plan.texts[code] for code in asked])
        self._embedder, self.report.embedding_cost = made.embedder, made.cost
        if run.interrupted:
            return
        if made.failed == len(asked):
            self._without_vectors(made.why)
        elif made.failed:
            texts = "1 text" if made.failed == 1 else f"{made.failed:,} texts"
            self._say(f"{texts} got no vector and couldn't share an answer ({made.why.rstrip('.')})")
        vectors = {code: row for code, row in zip(asked, made.rows, strict=True) if row is not None}
        width = max(Counter(map(len, vectors.values())).items(), key=lambda each: each[1], default=(0, 0))[0]
        self._vectors = {code: row for code, row in vectors.items() if len(row) == width}
        # Seconds for 100,000 texts, on a loop that may be somebody else's.
        await asyncio.to_thread(self._link, answered, codes, made.is_word)

    def _link(
        self, answered: Sequence[int], codes: Sequence[int], is_word: Callable[[str], bool] | None
    ) -> None:
        plan, vectors = self._plan, self._vectors
        new = [code for code in codes if code in vectors]
        here = [code for code in answered if code in vectors]
        elsewhere, matrix = self._known(here)
        known = len(elsewhere) + len(here)
        self.report.texts, self.report.known = len(new), known
        if not new:
            return
        found = pairs_above(np.array([vectors[code] for code in new]), matrix, self._floor)
        # Numbers of texts: what is stored, then what is known here, then what is new.
        own, first = [*here, *new], len(elsewhere)
        links = links_among(
            _Folds(lambda n: self._stored_text(elsewhere[n]) if n < first else plan.texts[own[n - first]]),
            known,
            zip(found.i.tolist(), found.j.tolist(), found.similarity.tolist(), strict=True),
            is_word=is_word,
            known_words=words_seen_often(plan.texts),
        )
        keys = [*elsewhere, *map(plan.key, own)]
        self._members = [_Member(new[i], keys[link.to], link.similarity) for i, link in links.by_text.items()]
        self.report.links = links

    @property
    def _floor(self) -> float:
        threshold = self._settings.threshold
        return FLOOR if threshold == "auto" else float(threshold)

    def _known(self, here: Sequence[int]) -> tuple[list[Key], npt.NDArray[Any] | None]:
        """The stored texts that aren't in this plan, and the vectors of these and of what is known here."""
        joined, stored = self._store.similar.vectors(self._question, self._embedder)
        width = len(next(iter(self._vectors.values()), ()))
        keys = list(split(joined)) if stored.shape[1] == width else []
        codes = self._index.find(keys)
        self._stored = {code for code in codes if code >= 0}
        elsewhere = [at for at, code in enumerate(codes) if code < 0 and not self._fresh]
        blocks = [stored[elsewhere]] if elsewhere else []
        if here:
            blocks.append(np.array([self._vectors[code] for code in here]))
        return [keys[at] for at in elsewhere], np.concatenate(blocks) if blocks else None

    def _stored_text(self, key: Key) -> str:
        return self._store.similar.text_of(self._question, key) or ""

    # The audit ----------------------------------------------------------------------------------------

    async def _audit(self, members: Sequence[_Member], answers: Mapping[Key, Values], ask: Ask) -> None:
        """Ask some of the members; share with the others what the certificate allows."""
        rows = [self._run.sheet.rows_of(each.code) for each in members]
        similarity = [each.similarity for each in members]
        audit = Audit(np.array(similarity), np.array(rows), self._settings, self._seed)
        while not (audit.decided or self._is_cut_short):
            chosen = audit.next(_ROUND).tolist()
            await ask([members[at].code for at in chosen])
            for at in chosen if not self._is_cut_short else ():
                own = self._own_answer(members[at].code)
                audit.tell(at, None if own is None else not self._agree(own, answers[members[at].key]))
        self.report.certificate, self.report.curve = audit.verdict(), audit.curve()
        self.report.similarities = similarity
        if not self._run.interrupted:
            self._share([members[at] for at in audit.reused().tolist()], answers)

    @property
    def _is_cut_short(self) -> bool:
        return self._run.interrupted or self._run.out_of_money

    def _agree(self, own: Values, taken: Values) -> bool:
        if self._settings.agreement is not None:
            of_one = len(self._compared) == 1
            a, b = ([values[n] for n in self._compared] for values in (own, taken))
            return bool(self._settings.agreement(*((a[0], b[0]) if of_one else (a, b))))
        return agree(own, taken, self._compared)

    def _own_answer(self, code: int) -> Values | None:
        sheet = self._run.sheet
        if sheet.sources[code] not in _ANSWERED:
            return None
        return [column[code] for column in sheet.fields]

    def _answers_of(self, keys: Sequence[Key]) -> dict[Key, Values]:
        """The answers under these keys: of this run, else of the store; nothing where there is none."""
        codes = dict(zip(keys, self._index.find(keys), strict=True))
        here = {key: self._own_answer(code) for key, code in codes.items() if code >= 0}
        answers = {key: own for key, own in here.items() if own is not None}
        elsewhere = sorted(key for key, code in codes.items() if code < 0)
        for found in self._store.known_payloads(b"".join(elsewhere)):
            answers |= {key: payload[0] for key, payload in found if payload[0] is not None}
        return answers

    @property
    def _seed(self) -> int:
        """The audit's dice: the same for the same question, wherever it is asked."""
        question = self._plan.question
        said = f"{question.verb} {question.model} {question.system} {json.dumps(question.schema)}"
        return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=6).digest(), "big")

    # What is kept -------------------------------------------------------------------------------------

    def _share(self, members: Sequence[_Member], answers: Mapping[Key, Values]) -> None:
        settings, certificate = self._settings, self.report.certificate
        assert certificate is not None, "nothing is shared without an audit"
        threshold = certificate.threshold or 0.0
        kept = []
        for member in members:
            self._run.sheet.share(member.code, member.key, answers[member.key], member.similarity)
            kept.append(
                similar_texts.Reuse(
                    self._plan.key(member.code),
                    member.key,
                    member.similarity,
                    threshold,
                    settings.max_error if certificate.certified else 1.0,
                    settings.confidence if certificate.certified else 0.0,
                    self._run.id,
                    self._agreement,
                )
            )
        self._store.similar.put_reuses(self._question, kept)

    def _keep_texts(self) -> None:
        """Keep the texts that have an answer of their own, for those to come."""
        answered = [code for code in self._vectors if self._own_answer(code) is not None]
        rows = ((code, self._vectors.pop(code)) for code in answered)
        self._store.similar.put_texts(
            self._question,
            self._embedder,
            ((self._plan.key(c), self._plan.texts[c], vector) for c, vector in rows if c not in self._stored),
        )

    # What is told -------------------------------------------------------------------------------------

    def _without_vectors(self, why: str) -> None:
        self._say(f"no vectors ({why.rstrip('.')}), so only equal texts shared an answer")

    def _say(self, note: str) -> None:
        self.report.note = note
        self._run.note(f'dedupe="semantic": {note}.')


class _Folds:
    """Texts made comparable, each once."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self._text_of = text_of
        self._made: dict[int, Folded] = {}

    def __call__(self, number: int) -> Folded:
        if number not in self._made:
            self._made[number] = fold(self._text_of(number))
        return self._made[number]
