"""Free text for each text: a summary, a translation, an answer."""

from __future__ import annotations

from typing import Any

from pandas_llm.core.errors import OptionsError
from pandas_llm.core.prompts import ONE_TEXT, check_text, examples_of, excerpt, system_message
from pandas_llm.core.types import Field, Task, Values

_INSTRUCTED = f"{ONE_TEXT} Do with it what the instructions below say, and reply with the result alone."
_SHOWN = f"{ONE_TEXT} Do with it what the examples below show, and reply with the result alone."
_ASKED = (
    "The user message holds one request between two fence lines of backticks. "
    "Reply with the answer to it alone."
)


def task(instructions: str | None = None, *, examples: Any = None, output: str) -> Task:
    """What `generate` asks. Without instructions and examples the text itself is the request.

    Raises
    ------
    OptionsError
        The instructions or an example aren't text.
    """
    pairs = examples_of(examples, _answer)
    opening = _INSTRUCTED if instructions else _SHOWN if pairs else _ASKED
    return Task(
        verb="generate",
        output=output,
        system=system_message(opening, examples=pairs, instructions=instructions),
        schema=None,
        fields=(Field(output, "text"),),
        read=_read,
        example_texts=frozenset(text for text, _ in pairs),
    )


def _read(content: str, /) -> Values:
    return [content]


def _answer(output: Any) -> str:
    if not isinstance(output, str) or not output.strip():
        raise OptionsError(f"its output must be a text that isn't empty; got {excerpt(output)}.")
    return check_text(output, "its output")
