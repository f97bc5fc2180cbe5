"""What a notebook keeps of estimates, runs, lists of runs and rows: words, values, nothing that can act."""

import json
import pickle
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from pandas_llm.core.errors import PromptError
from pandas_llm.evaluate import evaluate
from pandas_llm.history import Estimate, LastRun, Runs, Shown, Span
from pandas_llm.reports import page

NASTY = "<script>alert(1)</script> $1 or $2, \\(x\\) & \x1b[31m"
RUN = LastRun(
    id="r_41", status="stopped", verb="classify", model="gpt-6-luna", snapshots=("gpt-6-luna-2026-09-01",),
    rows=1_000, sources={"api": 300, "cache": 200, "failed": 4}, errors={"RefusalError": 4},
    input_tokens=30_000, output_tokens=3_000, cost=0.0123, paid=304, in_doubt=2, seconds=75.0,
)  # fmt: skip
SPAN = Span(1.0, 2.0)
ROUTES = pd.DataFrame(
    {"cost_low": [1.0, None, 0.5], "cost_high": [2.0, None, 1.0], "seconds_low": [9.0, None, 600.0],
     "seconds_high": [20.0, None, 3_600.0]},
    index=["concurrent", "flex", "batch"],
)  # fmt: skip
ESTIMATE = Estimate(
    rows=100, skipped=3, duplicates=10, cached=40, requests=45, unasked={"failed": 2}, input_tokens=SPAN,
    output_tokens=SPAN, cost=SPAN, seconds=SPAN, routes=ROUTES, _title="classify · body · gpt-6-luna",
    _show=lambda i: Shown(()), _write=lambda path, overwrite: None, _run=lambda: None,
)  # fmt: skip
REPLY = json.dumps(
    {"choices": [{"message": {"content": f"It says:\n  {NASTY}"}, "finish_reason": "stop"}], "model": "m"}
)
SHOWN = Shown(
    (
        {"role": "system", "content": "Label it."},
        {"role": "user", "content": f"\n  two  spaces\n\t{NASTY}\n"},
    ),
    (REPLY,),
    "ab" * 16,
)
JUDGED = evaluate(pd.DataFrame({"a": [NASTY], "a_cost": [0.5]}), [NASTY], "a")
TABLE = Runs(
    {
        "id": ["r_2", "r_1"],
        "when": pd.to_datetime(["2026-02-03 14:05:06", "2026-02-02 09:00:00"], utc=True),
        "model": [NASTY, "gpt-6-luna"],
        "rows": [12_345, 385],
        "sources": [{"api": 385, "cache": 0, "duplicate": 11_960}, None],
        "errors": [{}, {"RefusalError": 3}],
        "tokens": [431_000, 0],
        "cost": [1.234, float("nan")],
        "status": ["done", "killed"],
    }
)
PAGES = {
    "estimate": ESTIMATE._repr_html_(), "run": RUN._repr_html_(), "shown": SHOWN._repr_html_(),
    "evaluation": JUDGED._repr_html_(), "runs": TABLE._repr_html_(),
}  # fmt: skip


class Reader(HTMLParser):
    """The texts of a page: of each <pre> by itself, and all of it."""

    def __init__(self, text):
        super().__init__()
        self.boxes, self.said, self.tags, self._open = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "pre":
            self._open += 1
            self.boxes.append("")

    def handle_endtag(self, tag):
        self._open -= tag == "pre"

    def handle_data(self, data):
        self.said.append(data)
        if self._open:
            self.boxes[-1] += data


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_script_and_no_style_sheet_and_mathjax_finds_no_formula(name):
    html = PAGES[name]
    assert not {"script", "style", "link", "iframe", "img"} & set(Reader(html).tags)
    assert not re.search(r"\son\w+=", html)
    assert "$" not in html.replace("<span>$</span>", "")
    assert "\\" not in html.replace("<span>\\</span>", "")
    assert "\x1b" not in html


@pytest.mark.parametrize("name", PAGES)
def test_pages_look_alike_and_read_on_white_and_on_black(name):
    widest = 1_200 if name == "runs" else 860
    assert PAGES[name].startswith(page.page(widest=widest)[: -len("</div>")])
    # The only colours of words are greys and those of states; everything else is the theme's.
    colours = set(re.findall(r"[;\"]color:([^;\"]+)", PAGES[name]))
    assert colours <= {page.GREY, *page.COLOURS.values(), "inherit"}
    assert "background-color:#fff" not in PAGES[name]


def test_a_run_shows_its_state_its_bar_and_its_bill_once():
    said = "".join(Reader(PAGES["run"]).said)
    assert "Stopped r_41 · classify · gpt-6-luna · gpt-6-luna-2026-09-01 — 1,000 rows in 1 min 15 s" in said
    assert "300 api" in said
    assert "496 not run" in said
    assert "4 RefusalError" in said
    assert said.count("1,000") == 1
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", PAGES["run"])]
    assert sum(widths) == pytest.approx(100, abs=0.5)
    assert "Failed" in replace(RUN, status="failed")._repr_html_()


def test_an_estimate_shows_what_is_asked_and_which_ways_there_are():
    said = "|".join(Reader(PAGES["estimate"]).said)
    assert "45|" in said
    assert "to ask" in said
    assert "classify · body · gpt-6-luna" in said
    assert "concurrent" in said
    assert "batch" in said
    assert "flex" not in said
    alone = replace(ESTIMATE, routes=ROUTES.iloc[:1])
    assert "route" not in alone._repr_html_()
    free = replace(ESTIMATE, requests=0, cost=Span(0.0, 0.0))
    assert "nothing to ask" in free._repr_html_()
    assert "route" not in free._repr_html_()
    unknown = replace(ESTIMATE, cost=Span(float("nan"), float("nan")))
    assert "45 requests, price unknown" in "".join(Reader(unknown._repr_html_()).said)


def test_messages_are_shown_with_every_space_and_line():
    boxes = Reader(PAGES["shown"]).boxes
    # A parser of HTML drops the line break behind <pre>; html.parser gives it.
    system, user, content, whole = (box.removeprefix("\n") for box in boxes)
    assert system == "Label it."
    assert user == SHOWN.messages[1]["content"].replace("\x1b", "␛")
    assert content == f"It says:\n  {NASTY}".replace("\x1b", "␛")
    assert json.loads(whole)["choices"][0]["finish_reason"] == "stop"


def test_of_a_reply_the_content_stands_first_and_the_whole_is_folded():
    html = PAGES["shown"]
    assert html.index("It says:") < html.index("<details>") < html.index("finish_reason")
    assert "<details open" not in html


@pytest.mark.parametrize(
    "reply", ["no JSON", "[1]", '{"half": "\\ud83d"}', "data: {}\n\n", '{"data": []}', "7"]
)
def test_a_reply_that_says_nothing_is_shown_as_it_came(reply):
    html = Shown((), (reply,))._repr_html_()
    assert html.encode()
    assert "<details>" not in html
    assert len(Reader(html).boxes) == 1


def test_a_refusal_is_the_content_of_its_reply():
    refused = json.dumps({"choices": [{"message": {"content": None, "refusal": "I can't."}}]})
    assert "I can't." in Reader(Shown((), (refused,))._repr_html_()).boxes[0]


def test_two_replies_are_numbered_and_a_note_stands_below():
    html = Shown((), (REPLY, REPLY), note="Row 3 took this answer. Its own text:\n a  b")._repr_html_()
    said = "".join(Reader(html).said)
    assert "reply 1" in said
    assert "the whole reply 2" in said
    assert Reader(html).boxes[-1] == "\n a  b"


def test_half_a_character_and_controls_can_be_kept():
    assert page.kept("\ud83d\r\x00\x7f").encode() == "<span>\\</span>ud83d␍␀␡".encode()


def test_runs_are_shown_in_words_and_stay_values():
    said = [text for text in Reader(PAGES["runs"]).said if text.strip()]
    joined = "".join(said)
    assert "385 api, 11,960 duplicate" in joined
    assert "3 RefusalError" in joined
    assert "none" in said
    assert "2026-02-03 14:05" in said
    assert "when (UTC)" in said
    assert "+00:00" not in joined
    assert "$1.23" in joined
    assert "unknown" in said
    assert "12,345" in said
    assert "2 runs, the newest first." in said
    assert TABLE["sources"][0]["api"] == 385
    assert TABLE["cost"][0] == 1.234


def test_a_list_of_runs_is_a_frame_like_any_other():
    plain = pd.DataFrame(TABLE)
    assert type(plain) is pd.DataFrame
    assert type(TABLE[["id", "cost"]]) is type(TABLE.head(1)) is type(TABLE.copy()) is pd.DataFrame
    assert repr(TABLE) == repr(plain)
    assert TABLE.to_string() == plain.to_string()
    assert TABLE.to_html() == plain.to_html()
    assert repr(pickle.loads(pickle.dumps(TABLE))) == repr(plain)


def test_many_runs_are_cut_where_pandas_cuts_and_html_can_be_switched_off():
    with pd.option_context("display.max_rows", 1):
        html = TABLE._repr_html_()
    assert "1 more isn't shown" in "".join(Reader(html).said)
    assert "killed" not in html
    with pd.option_context("display.notebook_repr_html", False):
        assert TABLE._repr_html_() is None
    assert "No run yet." in Runs(TABLE.head(0))._repr_html_()


def test_an_evaluation_tints_its_confusions_by_their_share():
    frame = pd.DataFrame({"a": ["x", "x", "x", "y"]})
    html = evaluate(frame, ["x", "x", "y", "y"], "a")._repr_html_()
    assert html.count("rgba(76,120,240,0.40)") == 1
    assert html.count("rgba(76,120,240,0.20)") == 2


def test_an_error_of_a_cell_is_no_part_of_a_page():
    shown = Shown((), note=f"Row 3: nothing was sent. {PromptError(NASTY)}")
    assert "<script" not in shown._repr_html_()
