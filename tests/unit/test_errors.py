"""Errors as IPython shows them: the line that called us, and what is wrong."""

from __future__ import annotations

import pandas as pd
import pytest

import pandas_llm
from pandas_llm.errors import LLMError, OptionsError


def test_a_notebook_shows_the_callers_line_and_the_message_and_none_of_our_frames():
    with pytest.raises(OptionsError) as raised:
        pandas_llm.llm(pd.DataFrame({"body": ["a"]})).classify("bdy", ["bug", "praise"])
    where, what = raised.value._render_traceback_()
    assert where.startswith("line ")
    assert where.endswith('pandas_llm.llm(pd.DataFrame({"body": ["a"]})).classify("bdy", ["bug", "praise"])')
    assert what == f"PromptError: {raised.value}"


def test_an_error_that_was_never_raised_has_no_line():
    assert LLMError("so")._render_traceback_() == ["LLMError: so"]
