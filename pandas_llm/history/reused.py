"""What `dedupe="semantic"` did in a run, in words: what was compared, rejected, audited and saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pandas_llm.core.certificate import Certificate
from pandas_llm.core.compound import Semantic
from pandas_llm.display.words import money, number
from pandas_llm.history.estimate import costs_of
from pandas_llm.run import Run
from pandas_llm.run.reuse import Report


@dataclass(frozen=True, slots=True)
class Told:
    """A report with what it takes to tell it."""

    report: Report
    semantic: Semantic
    usd: float
    """Not spent on requests, net of the vectors; NaN where a price is unknown."""

    def rows(self) -> list[tuple[str, str]]:
        """The facts by name."""
        report, certificate = self.report, self.report.certificate
        said = [("reuse", self._saved() or f"none. {self._why_not()}")]
        if report.texts:
            among = f" and {number(report.known, 'text')} known before" if report.known else ""
            said.append(("compared", f"{number(report.texts, 'text')}{among}: {self._pairs()}"))
        if certificate is not None and certificate.audited:
            said.append(("audit", self._audit(certificate)))
        if report.note:
            said.append(("vectors", report.note))
        return said

    def line(self) -> str:
        """The same at the end of a run; empty where nothing was compared or reused."""
        report, certificate = self.report, self.report.certificate
        saved = self._saved()
        if not saved:
            return f"Near-equal texts: no answer reused. {self._why_not()}"
        audit = "" if certificate is None or not certificate.audited else f" {self._audit(certificate)}."
        rejected = sum(report.links.refused.values())
        pairs = f" {self._pairs()}." if rejected else ""
        return f"Near-equal texts: {saved}.{audit}{pairs}"

    def _saved(self) -> str:
        """`556 requests not sent, $0.0054 saved (vectors: $0.00033)`; empty where all were."""
        report, certificate = self.report, self.report.certificate
        if not report.saved:
            return ""
        said = f"{number(report.saved, 'request')} not sent"
        if report.again:
            said += f" ({report.again:,} as an earlier run's certificate allows)"
        if certificate is not None and certificate.threshold is not None:
            said += f", from similarity {certificate.threshold:.3f} on"
        if math.isnan(self.usd):
            return f"{said}; what that saves isn't known"
        vectors = f" (after {money(report.embedding_cost)} for vectors)" if report.embedding_cost else ""
        if self.usd < 0:
            return f"{said}; vectors cost {money(-self.usd)} more than that saves{vectors}"
        return f"{said}, {money(self.usd)} saved{vectors}"

    def _why_not(self) -> str:
        certificate = self.report.certificate
        if certificate is not None:
            return certificate.reason
        if not self.report.texts:
            return "Nothing was compared."
        return "No text may take the answer of another."

    def _pairs(self) -> str:
        """`675 pairs, 41 rejected: 20 name, 15 case, …`."""
        links = self.report.links
        refused = sorted(links.refused.items(), key=lambda each: (-each[1], each[0]))
        guards = ", ".join(f"{n:,} {guard}" for guard, n in refused)
        said = number(links.pairs, "pair")
        return f"{said}, {sum(links.refused.values()):,} rejected: {guards}" if guards else said

    def _audit(self, certificate: Certificate) -> str:
        """`78 audited, 0 disagreed: 0% (95% interval 0% – 4.9%)`."""
        asked, differed = certificate.audited, certificate.disagreements
        failed = f" ({certificate.failed:,} got no answer)" if certificate.failed else ""
        said = f"{asked:,} audited, {differed:,} disagreed{failed}"
        if certificate.rate is None:
            return said
        low, high = certificate.interval
        # Outwards: rounded to the nearest, an end would promise more than is known.
        ends = f"{_percent(low, math.floor)} – {_percent(high, math.ceil)}"
        sure = "certified" if certificate.certified else "not certified"
        interval = f"{_percent(self.semantic.confidence)} interval {ends}"
        return f"{said}: {_percent(certificate.rate)} ({interval}), {sure}"


def told(run: Run) -> Told | None:
    """What semantic dedupe did in a run that ended; None without it."""
    reuse, semantic = run.reuse, run.call.options.semantic
    if reuse is None or semantic is None:
        return None
    report = reuse.report
    usd = report.saved * _usd_each(run) if report.saved else 0.0
    return Told(report, semantic, usd - report.embedding_cost)


def reuse_line(run: Run) -> str:
    """What semantic dedupe did in a run, in a line; empty without it."""
    found = told(run)
    return "" if found is None else found.line()


def _usd_each(run: Run) -> float:
    """USD of a request of this run, by its replies; before there is one, as it is estimated."""
    if run.tally.answered:
        return run.tally.cost / run.tally.answered
    shared = [*run.sheet.similar]
    usd = costs_of(run, shared).usd if shared else None
    return math.nan if usd is None else (usd.low + usd.high) / 2 / len(shared)


def _percent(share: float, whole: Callable[[float], int] = round) -> str:
    """A share in tenths of a percent.

    >>> [_percent(0.25), _percent(0.04968, math.ceil), _percent(0.999), _percent(1.0)]
    ['25%', '5%', '99.9%', '100%']
    """
    return f"{whole(share * 1_000) / 10:g}%"
