"""One execution of a plan: what is known, by which ways the rest is asked, what came of it."""

from pandas_llm.run.outfit import Leg
from pandas_llm.run.story import Call, Run

__all__ = ["Call", "Leg", "Run"]
