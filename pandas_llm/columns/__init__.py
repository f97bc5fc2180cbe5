"""The pandas edge: cells become texts, results become columns, and whose values are ours."""

from pandas_llm.columns.deadlines import Seconds, check_in_time, deadlines_of
from pandas_llm.columns.fingerprints import fingerprint_of, fingerprints_of, index_anchor, key_anchor
from pandas_llm.columns.ownership import Existing, Ledger, Written, check_conflict, sides_of, without
from pandas_llm.columns.results import Outcome, side_names, with_results
from pandas_llm.columns.spec import TextSpec, label_of, name_of, positions_of, read_spec
from pandas_llm.columns.texts import Texts, cell_text, texts_from

__all__ = [
    "Existing",
    "Ledger",
    "Outcome",
    "Seconds",
    "TextSpec",
    "Texts",
    "Written",
    "cell_text",
    "check_conflict",
    "check_in_time",
    "deadlines_of",
    "fingerprint_of",
    "fingerprints_of",
    "index_anchor",
    "key_anchor",
    "label_of",
    "name_of",
    "positions_of",
    "read_spec",
    "side_names",
    "sides_of",
    "texts_from",
    "with_results",
    "without",
]
