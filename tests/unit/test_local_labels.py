"""What is known of a label becomes its vector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pandas_llm.local.labels import Prototypes, method_of, prototypes


def corners(texts: Any) -> Any:
    """An encoder to which all texts are unlike."""
    return np.eye(len(texts), dtype=np.float32)


def test_names_become_words_and_descriptions_are_added():
    heard: list[str] = []

    def encode(texts: Any) -> Any:
        heard.extend(texts)
        return np.eye(len(texts), dtype=np.float32)

    prototypes(["card_arrival", "lostCard", 3], {"lostCard": "gone"}, [], encode)
    assert heard == ["about card arrival", "lost Card: gone", "about 3"]


def test_a_label_with_examples_is_the_mean_of_itself_and_them():
    made = prototypes(["a", "b"], {}, [("x", "a"), ("y", "b")], corners)
    assert np.allclose(made.vectors, np.array([[1, 0, 1, 0], [0, 1, 0, 1]]) / math.sqrt(2))


def test_examples_count_only_where_every_label_has_one():
    made = prototypes(["a", "b"], {}, [("x", "a")], corners)
    assert np.allclose(made.vectors, np.eye(2))
    assert method_of(["a", "b"], {"a": "first"}, [("x", "a")]) == "name"
    assert method_of(["a", "b"], {"a": "first", "b": "second"}, []) == "description"
    assert method_of(["a", "b"], {}, [("x", "a"), ("y", "b")]) == "examples"


def test_log_probabilities_are_a_softmax_of_cosines_at_the_temperature():
    made = Prototypes(("a", "b"), np.eye(2, dtype=np.float32), 0.5)
    (logs,) = made.log_probabilities(np.array([[0.6, 0.8]], dtype=np.float32))
    assert np.exp(logs) == pytest.approx(np.exp([1.2, 1.6]) / np.exp([1.2, 1.6]).sum())
