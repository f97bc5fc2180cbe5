"""The embedded model on BANKING77: accuracy, temperatures, calibration error, speed. Exits 1 out of bounds.

Usage: python bench/local_model.py [a larger sample of BANKING77 as csv with text and category]
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from pandas_llm.local import labels, weights
from pandas_llm.local.encoder import Encoder
from pandas_llm.local.labels import TEMPERATURES, Label, Method, prototypes

FOLDS = 5
GRID = np.geomspace(0.01, 0.2, 200)

# Written once, before any of them was measured.
DESCRIPTIONS: Mapping[Label, str] = {
    "card_arrival": "the customer ordered a card and asks when it will come or why it has not come yet",
    "card_delivery_estimate": "how long delivery of a new card takes and whether a date can be chosen",
    "card_linking": "adding a card, such as a found one, to the app",
    "lost_or_stolen_card": "the card was lost or stolen",
    "compromised_card": "someone else may be using the card or its details",
    "card_not_working": "the card does not work anywhere",
    "declined_card_payment": "a payment by card in a shop or online was refused",
    "declined_cash_withdrawal": "the cash machine refused to give money",
    "declined_transfer": "a bank transfer was refused",
    "failed_transfer": "a transfer to another account did not succeed",
    "pending_card_payment": "a card payment still shows as pending",
    "pending_cash_withdrawal": "a withdrawal at a cash machine still shows as pending",
    "pending_top_up": "money added to the account still shows as pending",
    "pending_transfer": "a transfer still shows as pending",
    "top_up_failed": "adding money to the account did not work",
    "top_up_reverted": "money added to the account was sent back or cancelled",
    "top_up_limits": "how much money may be added at most",
    "topping_up_by_card": "adding money to the account with a bank card",
    "top_up_by_card_charge": "the fee for adding money with a card",
    "top_up_by_bank_transfer_charge": "the fee for adding money by bank transfer",
    "top_up_by_cash_or_cheque": "adding money with cash or a cheque",
    "exchange_charge": "the fee for changing one currency into another",
    "exchange_rate": "which exchange rate is used and where it comes from",
    "exchange_via_app": "changing currencies inside the app",
    "card_payment_wrong_exchange_rate": "the exchange rate used for a card purchase abroad was wrong",
    "wrong_exchange_rate_for_cash_withdrawal": "the exchange rate used when taking out cash abroad was wrong",
    "card_payment_fee_charged": "an unexpected fee was taken for paying by card",
    "cash_withdrawal_charge": "an unexpected fee was taken for withdrawing cash",
    "transfer_fee_charged": "an unexpected fee was taken for a transfer",
    "extra_charge_on_statement": "a small unknown charge, such as one pound, appears on the statement",
    "passcode_forgotten": "the customer cannot remember the app's passcode",
    "pin_blocked": "the PIN was entered wrongly too often and is locked",
    "change_pin": "how and where to change the PIN",
    "get_physical_card": "where to find the PIN of the physical card or how to get the card itself",
    "verify_my_identity": "how to prove who one is",
    "unable_to_verify_identity": "the proof of identity does not go through",
    "why_verify_identity": "why proof of identity is needed",
    "verify_source_of_funds": "where the money in the account comes from",
    "transfer_timing": "how long a transfer takes",
    "transfer_not_received_by_recipient": "the recipient has not got the money that was sent",
    "transfer_into_account": "how to move money into the account from another bank",
    "cancel_transfer": "undoing a transfer that was made",
    "beneficiary_not_allowed": "a beneficiary can't be added or paid",
    "Refund_not_showing_up": "a refund from a seller is missing from the account",
    "request_refund": "the customer wants money back for a purchase",
    "reverted_card_payment?": "a card payment was cancelled and the money came back",
}


class Memory:
    """The encoder, which reads a text once: folds share most of theirs."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.vectors: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The texts' vectors."""
        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        self.vectors |= zip(new, self.encoder.encode(new).vectors, strict=True)
        return np.array([self.vectors[text] for text in texts])


class Rows:
    """Texts with their vectors and intents."""

    def __init__(self, texts: Sequence[str], intents: Sequence[str], vectors: np.ndarray) -> None:
        self.texts, self.intents, self.vectors = list(texts), np.array(intents), vectors

    def where(self, mask: np.ndarray) -> Rows:
        """The rows that a mask marks."""
        at = np.flatnonzero(mask)
        return Rows([self.texts[n] for n in at], self.intents[at], self.vectors[at])


class Scored:
    """Cosines of texts to all labels, with the right label's number."""

    def __init__(self, cosines: np.ndarray, right: np.ndarray, fold: np.ndarray) -> None:
        self.cosines, self.right, self.fold = cosines, right, fold

    @property
    def accuracy(self) -> float:
        """The share of texts whose nearest label is right."""
        return float((self.cosines.argmax(axis=1) == self.right).mean())

    def log_loss(self, temperature: float, mask: np.ndarray) -> float:
        """The mean negative log-probability of the right label."""
        z = self.cosines[mask] / temperature
        z -= z.max(axis=1, keepdims=True)
        own = z[np.arange(len(z)), self.right[mask]]
        return float((np.log(np.exp(z).sum(axis=1)) - own).mean())

    def fitted(self, mask: np.ndarray) -> float:
        """The temperature of the least log-loss."""
        return float(min(GRID, key=lambda t: self.log_loss(t, mask)))

    def calibration_error(self, temperatures: np.ndarray) -> float:
        """ECE in 10 bins of what a user sees: the share of the best label among the 20 best."""
        z = np.sort(self.cosines / temperatures[:, None], axis=1)[:, ::-1][:, :20]
        shares = np.exp(z - z[:, :1])
        confidence = 1 / shares.sum(axis=1)
        right = self.cosines.argmax(axis=1) == self.right
        bins = np.minimum((confidence * 10).astype(int), 9)
        inside = [bins == b for b in range(10)]
        return float(sum(m.mean() * abs(right[m].mean() - confidence[m].mean()) for m in inside if m.any()))


def read_rows(source: str, encode: Memory) -> Rows:
    found = list(csv.DictReader(source.splitlines()))
    texts = [row["text"] for row in found]
    return Rows(texts, [row["category"] for row in found], encode(texts))


def folds_of(intents: np.ndarray) -> np.ndarray:
    """The n-th row of an intent is in fold n modulo 5."""
    seen: dict[str, int] = {}
    folds = []
    for intent in intents.tolist():
        seen[intent] = seen.get(intent, -1) + 1
        folds.append(seen[intent] % FOLDS)
    return np.array(folds)


def zero_shot(rows: Rows, descriptions: Mapping[Label, str], encode: Memory) -> Scored:
    """Scores without examples; with descriptions, among the described labels."""
    if descriptions:
        rows = rows.where(np.isin(rows.intents, list(descriptions)))
    names = list(dict.fromkeys(rows.intents.tolist()))
    made = prototypes(names, descriptions, [], encode)
    right = np.array([names.index(intent) for intent in rows.intents])
    return Scored(rows.vectors @ made.vectors.T, right, folds_of(rows.intents))


def with_examples(rows: Rows, examples: Rows | None, encode: Memory) -> Scored:
    """Scores by examples: the given ones, else each fold's by the rows of the others."""
    names = list(dict.fromkeys(rows.intents.tolist()))
    right = np.array([names.index(intent) for intent in rows.intents])
    folds = folds_of(rows.intents)
    cosines = np.empty((len(right), len(names)))
    for fold in range(FOLDS):
        known = examples or rows.where(folds != fold)
        pairs = list(zip(known.texts, known.intents.tolist(), strict=True))
        made = prototypes(names, {}, pairs, encode)
        cosines[folds == fold] = rows.vectors[folds == fold] @ made.vectors.T
    return Scored(cosines, right, folds)


def report(title: str, method: Method, scored: Scored) -> float:
    """Print a line; the temperature fitted on all its rows."""
    held_out = np.empty(len(scored.right))
    for fold in range(FOLDS):
        held_out[scored.fold == fold] = scored.fitted(scored.fold != fold)
    fitted = scored.fitted(np.full(len(scored.right), True))
    shipped = np.full(len(scored.right), TEMPERATURES[method])
    print(
        f"{title:34} {len(scored.right):5} {scored.cosines.shape[1]:6} {scored.accuracy:9.3f} {fitted:12.4f} "
        f"{scored.calibration_error(held_out):14.3f} {scored.calibration_error(shipped):12.3f}"
    )
    return fitted


def report_speed(encoder: Encoder, texts: Sequence[str]) -> None:
    start, busy = time.perf_counter(), time.process_time()
    seen = encoder.encode(texts)
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    mean = sum(seen.tokens) / len(texts)
    rate = len(texts) / wall
    print(f"{len(texts)} texts of {mean:.0f} tokens: {rate:.0f} texts/s, {cpu / len(texts):.4f} CPU s each")


def main() -> int:
    start = time.perf_counter()
    found = weights.find()
    hashed = time.perf_counter()
    encoder = Encoder(found)
    loaded = time.perf_counter()
    encode = Memory(encoder)
    print(f"{found.name}: found and hashed in {hashed - start:.2f} s, read in {loaded - hashed:.2f} s")
    shipped = read_rows((files("pandas_llm") / "data" / "banking77.csv").read_text(encoding="utf-8"), encode)
    report_speed(encoder, shipped.texts)
    heads = f"{'rows':>5} {'labels':>6} {'accuracy':>9} {'temperature':>12}"
    print(f"\n{'':34} {heads} {'ECE held out':>14} {'ECE shipped':>12}")
    fitted: dict[Method, float] = {
        "name": report("name, shipped rows", "name", zero_shot(shipped, {}, encode)),
        "description": report(
            "description, shipped rows", "description", zero_shot(shipped, DESCRIPTIONS, encode)
        ),
        "examples": report("4 examples, shipped rows", "examples", with_examples(shipped, None, encode)),
    }
    if len(sys.argv) > 1:
        every = read_rows(Path(sys.argv[1]).read_text(encoding="utf-8"), encode)
        report("name, all rows", "name", zero_shot(every, {}, encode))
        report("description, all rows", "description", zero_shot(every, DESCRIPTIONS, encode))
        others = every.where(~np.isin(every.texts, shipped.texts))
        report("5 shipped examples, other rows", "examples", with_examples(others, shipped, encode))
    off = {m: t for m, t in fitted.items() if abs(t / TEMPERATURES[m] - 1) > 0.05}
    for method, temperature in off.items():
        print(
            f"{labels.__file__}: TEMPERATURES[{method!r}] is {TEMPERATURES[method]}, fitted {temperature:.3f}"
        )
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
