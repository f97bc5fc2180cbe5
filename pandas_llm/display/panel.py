"""The live panel of a notebook as HTML: pure functions from a Progress, and the style sheet they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pandas_llm.core.types import BatchProgress, Progress
from pandas_llm.display import batches, words
from pandas_llm.display.bar import segments
from pandas_llm.display.ink import COMING
from pandas_llm.display.pictures import histogram, meter, smooth, sparkline
from pandas_llm.display.summary import AMBER, BLUE, GREEN, GREY, RED, STATES, escape, fill

STYLE = f"""<style>
.pandas-llm {{
  --pl-ink: var(--jp-ui-font-color1, var(--vscode-foreground, var(--colab-primary-text-color, inherit)));
  --pl-soft: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, {GREY}));
  --pl-line: var(--jp-border-color2, var(--vscode-panel-border, rgba(128,128,128,.4)));
  --pl-track: var(--jp-border-color3, rgba(128,128,128,.25));
  --pl-blue: {BLUE}; --pl-green: {GREEN}; --pl-amber: #b7791f; --pl-red: {RED};
  font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif); color: var(--pl-ink);
  font-variant-numeric: tabular-nums; max-width: 900px; white-space: normal;
}}
body[data-jp-theme-light=false] .pandas-llm, .vscode-dark .pandas-llm, html[theme=dark] .pandas-llm {{
  --pl-blue: #8aa6f7; --pl-green: #4cc9ac; --pl-amber: {AMBER}; --pl-red: #ff7b7f;
}}
.pandas-llm * {{ box-sizing: border-box; }}
.pandas-llm .soft, .pandas-llm small {{ color: var(--pl-soft); font-size: 12px; }}
.pandas-llm .warn {{ color: var(--pl-amber); }} .pandas-llm .bad {{ color: var(--pl-red); }}
.pandas-llm .row {{ display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; }}
.pandas-llm .row > :last-child:not(:first-child) {{ margin-left: auto; }}
.pandas-llm .state {{ border: 1px solid currentColor; border-radius: 9px; padding: 0 9px; font-weight: 600; }}
.pandas-llm .state::before {{ content: ""; display: inline-block; width: 7px; height: 7px; margin-right: 6px;
  border-radius: 50%; background: currentColor; vertical-align: 1px; }}
.pandas-llm .title {{ font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }}
.pandas-llm .bar {{ display: flex; gap: 1px; height: 12px; margin: 7px 0 5px; border-radius: 4px;
  overflow: hidden; background: var(--pl-track); }}
.pandas-llm .swatch {{ display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 5px; vertical-align: -1px; }}
.pandas-llm .{COMING} {{ background: var(--pl-track); }}
.pandas-llm .cards {{ display: grid; gap: 8px; margin: 9px 0 4px;
  grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); }}
.pandas-llm .card {{ border: 1px solid var(--pl-line); border-radius: 6px; padding: 6px 10px 8px;
  min-width: 0; }}
.pandas-llm .big {{ font-size: 17px; font-weight: 600; line-height: 1.35; }}
.pandas-llm .big small {{ font-weight: 400; }}
.pandas-llm svg {{ display: block; width: 100%; height: 26px; margin-top: 5px; }}
.pandas-llm table {{ border-collapse: collapse; width: 100%; margin: 4px 0; font-size: 12px; }}
.pandas-llm td, .pandas-llm th {{ text-align: left; padding: 2px 14px 2px 0; font-weight: 400;
  vertical-align: top; background: none; border: 0; overflow-wrap: anywhere; }}
.pandas-llm th {{ color: var(--pl-soft); }}
.pandas-llm th, .pandas-llm td.number {{ white-space: nowrap; }}
</style>"""
"""Sent once a panel: what is painted four times a second names its classes."""
_FAR_OFF = 300 * 86_400.0
"""Seconds from which on a moment isn't told: a provider may say milliseconds and mean seconds."""


def panel(p: Progress, now: datetime, *, ends: bool = False) -> str:
    """All but the button.

    Parameters
    ----------
    now
        The time of the day here.
    ends
        Whether somebody has cancelled it.
    """
    waiting = f'<div class="warn">Waiting: {escape(p.waiting)}</div>' if p.waiting else ""
    inner = f"{_head(p, ends)}{_bar(p)}{_legend(p)}{waiting}{_cards(p, now)}{_batches(p, now)}{_errors(p)}"
    label = escape(words.title(p), spans=False)
    return f'<div class="pandas-llm" role="group" aria-label="{label}">{inner}</div>'


# Head and bar --------------------------------------------------------------------------------------------


def _head(p: Progress, ends: bool) -> str:
    verb, _, rest = words.title(p).partition(" · ")
    word = "Ending" if ends else STATES[words.ended(p) or p.state][0]
    colour = "var(--pl-amber)" if p.waiting or ends else "var(--pl-blue)"
    total = words.number(p.rows, "row")
    return (
        f'<div class="row"><span class="state" style="color:{colour}">{word}</span>'
        f'<span class="title">{escape(verb)}</span><span class="soft">{escape(rest)}</span>'
        f"<span><b>{words.finished(p):,}</b> of {total} · {words.percent(p)}</span></div>"
    )


def _bar(p: Progress) -> str:
    drawn = "".join(
        f'<span title="{n:,} {source}" class="{source}" style="flex:{size} 0 0;{_look(source)}"></span>'
        for source, n, size in segments(p, 250)
    )
    share = float(words.percent(p).rstrip("%"))
    said = escape(f"{words.rows(p)}: {words.counts(p)}", spans=False)
    return (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:g}" aria-valuetext="{said}" aria-label="rows that are over">{drawn}</div>'
    )


def _look(source: str) -> str:
    # What is to come has the theme's colour, which only the style sheet knows.
    return "" if source in (COMING, "pending") else fill(source)


def _legend(p: Progress) -> str:
    coming = max(0, p.rows - p.done)
    entries = [*words.by_source(p), *([(COMING, coming)] if coming else [])]
    shown = "".join(
        f'<span><span class="swatch {COMING}" style="{_look(source)}"></span>'
        f'<span class="soft">{"to come" if source == COMING else source}</span> <b>{n:,}</b></span>'
        for source, n in entries
    )
    flying = f'<span class="soft">{p.in_flight:,} in flight</span>'
    return f'<div class="row">{shown}{flying}</div>'


# Cards ---------------------------------------------------------------------------------------------------


def _cards(p: Progress, now: datetime) -> str:
    # What waits for batches has no speed; that of the first few requests says nothing.
    waits = bool(batches.open_batches(p)) and not p.in_flight
    shown = (
        "" if waits else _speed(p),
        _time(p, now),
        _cost(p),
        _tokens(p),
        "" if waits else _latency(p),
        "" if waits else _limits(p),
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def _card(name: str, big: str, unit: str = "", lines: Iterable[str] = (), picture: str = "") -> str:
    small = f" <small>{escape(unit)}</small>" if unit else ""
    more = "".join(f'<div class="soft">{escape(line)}</div>' for line in lines if line)
    return (
        f'<div class="card"><div class="soft">{name}</div><div class="big">{escape(big)}{small}</div>'
        f"{more}{picture}</div>"
    )


def _speed(p: Progress) -> str:
    rate = words.rows_a_request(p) * p.rate
    number, _, unit = (words.speed(rate) if rate else "– rows/s").partition(" ")
    drawn = sparkline(smooth(p.speeds)[-60:], "var(--pl-blue)", "speed over the last intervals")
    return _card("Speed", number, unit, picture=drawn)


def _time(p: Progress, now: datetime) -> str:
    so_far = f"{words.duration(p.seconds)} so far"
    if p.eta is None:
        return _card("Time left", "–", lines=(so_far,))
    ends = _clock(p.eta, now)
    return _card("Time left", words.duration(p.eta), lines=(so_far, f"ends {ends}" if ends else ""))


def _clock(seconds: float, now: datetime) -> str:
    """The time of the day so many seconds from now, with the day where it is another one; nothing far off."""
    if not abs(seconds) < _FAR_OFF:
        return ""
    moment = now + timedelta(seconds=seconds)
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%a %H:%M}"


def _cost(p: Progress) -> str:
    if math.isnan(p.cost):
        return _card("Cost", "unknown", lines=("prices= says what it is",))
    total = "" if math.isnan(p.projected) else f"≈ {words.money(p.projected)} in all"
    saved = words.saved(p)
    kept = f"≈ {words.money(saved)} saved" if saved > 0 else ""
    if p.max_cost is None:
        return _card("Cost", words.money(p.cost), lines=(total, kept))
    share = p.cost / p.max_cost if p.max_cost else 1.0
    drawn = meter(share, "var(--pl-amber)" if share > 0.9 else "var(--pl-green)", "share of max_cost spent")
    cap = f"max_cost {words.money(p.max_cost)}"
    return _card("Cost", words.money(p.cost), lines=(total, kept, cap), picture=drawn)


def _tokens(p: Progress) -> str:
    used = p.usage
    cached = f"{words.tokens(used.cached)} cached" if used.cached else ""
    pace = (used.input + used.output) / p.seconds if p.seconds > 0 and p.answered else 0
    a_second = f"{words.tokens(round(pace))} tokens/s" if pace >= 1 and not p.batches else ""
    return _card(
        "Tokens", words.tokens(used.input), "in", (cached, f"{words.tokens(used.output)} out", a_second)
    )


def _latency(p: Progress) -> str:
    if not p.latencies:
        return _card("Latency", "–")
    p50, p95 = words.quantiles(p.latencies)
    number, _, unit = words.brief(p50).partition(" ")
    drawn = histogram(p.latencies, "var(--pl-blue)", "latencies of the latest replies")
    return _card("Latency p50", number, unit, (f"p95 {words.brief(p95)}",), drawn)


def _limits(p: Progress) -> str:
    most = p.allowed.in_flight
    flying = "" if most is None else f"≤ {most:,} in flight"
    retries = words.retries(p) or "no retry"
    use = words.limit_use(p)
    if use is None:
        return _card("Rate limit", "not met", lines=(flying, retries))
    share, name = use
    drawn = meter(share, "var(--pl-green)", f"share of the {name} limit in use")
    return _card("Rate limit", f"{min(100.0, 100 * share):.0f}%", f"of {name}", (flying, retries), drawn)


# Batches -------------------------------------------------------------------------------------------------


def _batches(p: Progress, now: datetime) -> str:
    if not p.batches:
        return ""
    shown: Sequence[BatchProgress] = batches.most_telling(p)
    rows = "".join(_batch(batch, now) for batch in shown)
    names = ("batch", "status", "requests", "so far", "expires", "last change")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    more = (
        "" if len(shown) == len(p.batches) else f'<div class="soft">{escape(batches.summed(p.batches))}</div>'
    )
    return f"<table>{head}{rows}</table>{more}"


def _batch(batch: BatchProgress, now: datetime) -> str:
    over = batches.is_over(batch)
    expires = ""
    if batch.expires_in is not None and not over:
        expires = _clock(max(0.0, batch.expires_in), now)
    changed = "" if over else _clock(-batch.quiet, now)
    stalled = batches.stalled(batch)
    notes = "".join(f'<div class="warn">{escape(said)}</div>' for said in (stalled, batch.note) if said)
    so_far = words.duration(batch.seconds) if batch.seconds >= 1 else ""
    times = "".join(f'<td class="number">{said}</td>' for said in (so_far, expires, changed))
    return (
        f"<tr><td>{escape(batch.name)}</td><td><b>{escape(batch.status)}</b>{notes}</td>"
        f"<td>{escape(batches.counted(batch))}</td>{times}</tr>"
    )


# Errors --------------------------------------------------------------------------------------------------


def _errors(p: Progress) -> str:
    """Errors by kind, with some of their rows and the latest message. Always unfolded: no click is needed."""
    if not p.errors:
        return ""
    rows = "".join(
        f'<tr><td class="number"><b class="bad">{line.number}</b></td><td>{escape(line.kind)}</td>'
        f"<td>{escape(line.rows)}</td><td>{escape(line.said)}</td></tr>"
        for line in words.failure_lines(p)
    )
    head = "<tr><th>rows</th><th>failed with</th><th>such as</th><th>the latest says</th></tr>"
    return f'<table aria-label="errors">{head}{rows}</table>'
