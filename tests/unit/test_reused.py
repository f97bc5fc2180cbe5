"""What semantic dedupe did, in words: in the line at the end of a run and in last_run()."""

import math
from collections import Counter

import pytest

from pandas_llm import Semantic
from pandas_llm.core.certificate import Certificate
from pandas_llm.core.links import Links
from pandas_llm.history.reused import Told
from pandas_llm.run.reuse import Report

CERTIFIED = Certificate(
    threshold=0.8961,
    certified=True,
    audited=78,
    disagreements=1,
    failed=0,
    rate=1 / 78,
    interval=(0.00049, 0.04963),
    saved=556,
    reused_rows=600,
    reason="Certified: at most 5 % of the rows …",
)
REFUSED = Certificate(
    threshold=None,
    certified=False,
    audited=0,
    disagreements=0,
    failed=0,
    rate=None,
    interval=(0.0, 1.0),
    saved=0,
    reused_rows=0,
    reason="Not certified: 16 texts could; that takes 71 audits or more, and 7 may be asked.",
)
LINKS = Links({}, 675, Counter({"case": 15, "name": 20, "date": 1}))


def told(usd=0.0054, **facts):
    return Told(Report(**{"texts": 1_055, "links": LINKS, **facts}), Semantic(), usd)


def test_what_was_saved_compared_and_audited_has_a_row_each():
    rows = dict(told(certificate=CERTIFIED, embedding_cost=0.00033).rows())
    assert rows == {
        "reuse": "556 requests not sent, from similarity 0.896 on, $0.0054 saved "
        "(after $0.00033 for vectors)",
        "compared": "1,055 texts: 675 pairs, 36 rejected: 20 name, 15 case, 1 date",
        "audit": "78 audited, 1 disagreed: 1.3% (95% interval 0% – 5%), certified",
    }


def test_the_line_at_the_end_says_the_same():
    line = told(certificate=CERTIFIED).line()
    assert line.startswith(
        "Near-equal texts: 556 requests not sent, from similarity 0.896 on, $0.0054 saved."
    )
    assert "78 audited, 1 disagreed: 1.3%" in line
    assert line.endswith("36 rejected: 20 name, 15 case, 1 date.")


def test_an_interval_is_rounded_outwards():
    narrow = Certificate(**{**_fields(CERTIFIED), "interval": (0.01999, 0.05001)})
    assert "interval 1.9% – 5.1%" in dict(told(certificate=narrow).rows())["audit"]


def test_nothing_reused_says_why_with_both_figures():
    for said in (told(certificate=REFUSED).line(), dict(told(certificate=REFUSED).rows())["reuse"]):
        assert "71 audits or more" in said
        assert "7 may be asked" in said
    assert "audit" not in dict(told(certificate=REFUSED).rows())
    assert told().line().endswith("No text may take the answer of another.")
    assert told(texts=0).line().endswith("Nothing was compared.")


def test_vectors_that_failed_are_told():
    rows = dict(told(texts=0, note="no vectors (EndpointError: refused), so only equal texts …").rows())
    assert rows["vectors"].startswith("no vectors (EndpointError")
    assert rows["reuse"] == "none. Nothing was compared."


def test_an_earlier_certificate_is_named():
    assert (
        "7 requests not sent (7 as an earlier run's certificate allows), $0.07 saved"
        in told(usd=0.07, texts=0, again=7).line()
    )


@pytest.mark.parametrize(
    ("usd", "words"), [(math.nan, "what that saves isn't known"), (-0.002, "vectors cost $0.002 more than")]
)
def test_money_is_not_made_up(usd, words):
    assert words in told(usd=usd, certificate=CERTIFIED, embedding_cost=0.004).line()


def test_answers_that_failed_in_the_audit_are_counted():
    some = Certificate(**{**_fields(CERTIFIED), "failed": 1, "certified": False})
    audit = dict(told(certificate=some).rows())["audit"]
    assert "1 disagreed (1 got no answer)" in audit
    assert audit.endswith("not certified")


def _fields(certificate):
    return {name: getattr(certificate, name) for name in Certificate.__slots__}
