"""From a message to the values of a row, the same for every way of getting it."""

from __future__ import annotations

from pandas_llm.core.confidence import confidence
from pandas_llm.core.types import Task, Values
from pandas_llm.core.wire import Message


def values_of(message: Message, task: Task) -> Values:
    """One value per field of the task; the confidence, where it was asked for, is the last.

    Raises
    ------
    SchemaMismatchError
        Saying what of the reply isn't allowed.
    """
    values = task.read(message.content)
    if task.confidence:
        # The answer is the first field; its probability is the last.
        values = [*values, confidence(message.content, message.logprobs, task.labels, values[0])]
    return values
