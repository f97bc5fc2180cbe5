"""Misspelt words: which one-letter difference is surely a slip, and which might be another word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from pandas_llm.core.similar_words import CLOSED, KIND_OF

IsWord = Callable[[str], bool]

_SHORTEST = 6
"""Letters. Among words of five, one letter makes another word too often (angel, angle; later, latter)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def one_slip_apart(a: str, b: str) -> bool:
    """Whether one letter was dropped, put in, replaced, or swapped with its neighbour (Damerau, 1964).

    The first and the last letter must stay: endings are grammar (charge, charges), beginnings make opposites.
    """
    if a[0] != b[0] or a[-1] != b[-1] or abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    if len(a) == len(b):
        swapped = a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        return swapped or a[start + 1 :] == b[start + 1 :]
    short, long = sorted((a, b), key=len)
    return short[start:] == long[start + 1 :]


def is_slip(
    a: str,
    b: str,
    language: str | None,
    *,
    is_word: IsWord | None = None,
    known_words: AbstractSet[str] = frozenset(),
    no_name: bool = False,
) -> bool:
    """Whether of two small-letter words one slip apart, one is surely a misspelling of the other.

    A word of the language's own list may be misspelt. Any other one only in English and from seven letters,
    where `is_word` knows it, where it can't be a name (`no_name`), and by letters swapped, a letter
    doubled or one of two left out: other slips make real words too often (neutron, neuron; collision,
    collusion).
    """
    if language is None:
        return False
    for right, wrong in ((a, b), (b, a)):
        if len(right) < _SHORTEST or _may_be_a_word(wrong, is_word, known_words):
            continue
        if right in SAFE_TO_MISSPELL[language]:
            return True
        if language != "en" or not no_name or is_word is None or not _is_swap_or_double(a, b):
            continue
        if len(right) > _SHORTEST and _is_plain_english(right, is_word) and not _is_derived(wrong, is_word):
            return True
    return False


def _may_be_a_word(word: str, is_word: IsWord | None, known_words: AbstractSet[str]) -> bool:
    if word in known_words or word in CONFUSABLES or word in CLOSED or word in KIND_OF:
        return True
    if any(word in words for words in SAFE_TO_MISSPELL.values()):
        return True
    return is_word is not None and is_word(word)


def _is_plain_english(word: str, is_word: IsWord) -> bool:
    return word.isascii() and word not in KIND_OF and word not in CLOSED and is_word(word)


def _is_swap_or_double(a: str, b: str) -> bool:
    if len(a) == len(b):
        return sorted(a) == sorted(b)
    return _single(a) == _single(b)


def _single(word: str) -> str:
    """The word with each run of one letter as one letter."""
    return "".join(letter for at, letter in enumerate(word) if letter != word[at - 1 : at])


def _is_derived(word: str, is_word: IsWord) -> bool:
    """Whether a word that no list holds may be made of words that one holds: debit + ed, un + tied."""
    for suffix in _SUFFIXES:
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= 3:
            doubled = stem[:-1] if stem[-1] == stem[-2] else stem
            spelt = {stem, stem + "e", stem + "y", doubled, stem[:-1] + "y"}
            if any(map(is_word, spelt)):
                return True
    if any(word.startswith(prefix) and is_word(word.removeprefix(prefix)) for prefix in _PREFIXES):
        return True
    return any(is_word(word[:at]) and is_word(word[at:]) for at in range(4, len(word) - 3))


_SUFFIXES = _words(
    """
    s es ed d ing er r ers or ors ly y ies ied ier est ment ments ness less ful able ible al ally ity ive ion
    ation ance ence ant ent ish ism ist ize ise
    """
)
_PREFIXES = _words("un re in im dis mis over under out pre non sub inter de en up down fore counter")

# Common long words of which no word is one inner letter away, but for those in CONFUSABLES.
SAFE_TO_MISSPELL: Mapping[str, frozenset[str]] = {
    "en": _words(
        """
        account accounts address addresses already although another application applications appointment
        approved available balance beautiful beginning believe business calendar cancel canceled
        cancellation cancelled certificate character cheque children colleague committee completely computer
        confirmation connection contact correct country currencies currency customer customers declined
        definitely delivered delivery deposit deposited difference different difficult disappointed document
        documents download duplicate electronic environment equipment especially exchange experience
        experienced expired explain favorite favourite finally friend friends government guarantee happened
        identity immediately incorrect information insurance interest internet keyboard knowledge language
        laptop library maintenance manager message messages moment mortgage necessary notification obviously
        occasion occasionally occurred online opportunity original package packages parcel particular
        password passwords payment payments pending physical picture possible problem problems procedure
        product products professional purchase purchased purchases quality question questions quickly reason
        receipt receive received recently recipient recommend refund refunded refunds register replacement
        request requested restaurant schedule security separate service services shipping signature software
        statement statements subscription successful successfully suddenly supermarket support surprise
        technical telephone temperature together transaction transactions transfer transferred transfers
        treatment unfortunately update updated username usually verification verified verify virtual website
        withdraw withdrawal withdrawals withdrawn wonderful
        """
    ),
    "de": _words(
        """
        adresse antwort automatisch bargeld benachrichtigung benutzername bestellung bestellungen
        dienstleistung eigentlich einzahlung empfänger erfahrung erstattung fehlermeldung funktionieren
        funktioniert geburtsdatum gebühren gesperrt guthaben identität information informationen kontoauszug
        kreditkarte kreditkarten kundendienst kundenservice kündigung lastschrift lieferung mitarbeiter
        möglich möglichkeit nachricht nachrichten natürlich passwort problem probleme produkt produkte
        qualität rechnung reklamation restaurant rückerstattung rückgabe schwierigkeiten sicherheit
        sofortüberweisung storniert stornierung telefonnummer transaktion transaktionen unterschrift
        unterstützung versicherung vielleicht wechselkurs wunderbar zahlung zufrieden zugangsdaten
        überweisung überweisungen
        """
    ),
    "fr": _words(
        """
        abonnement adresse annulation appareil application assurance automatique bancaire beaucoup
        bénéficiaire confirmation connexion distributeur document documents effectuer identité immédiatement
        information informations internet livraison malheureusement message moment notification nouveau
        numéro ordinateur paiement paiements passeport plusieurs possible problème problèmes produit
        produits qualité question recevoir remboursement remboursements renseignement restaurant réclamation
        signature suppression sécurité toujours transaction transactions téléphone utilisateur vérification
        """
    ),
    "es": _words(
        """
        aplicación automático bancaria beneficiario cancelación certificado cliente confirmación contraseña
        contraseñas disponible documento documentos domicilio electrónico equipaje experiencia funciona
        funcionamiento identidad información inmediatamente internet mensaje notificación ordenador
        pasaporte problema problemas producto productos reclamación reembolso restaurante seguridad servicio
        solicitud suscripción tarjeta tarjetas teléfono todavía transacciones transacción transferencia
        transferencias usuario verificación
        """
    ),
}
# Real words, however rare, that are one slip away from another one.
CONFUSABLES = _words(
    """
    addressees addressers amiable amicable anther averse bestallung bother busyness caliente callus canvas
    carton chancel climactic climatic cloths colored commuter compete complaint complete compliant concious
    confection conformación conformation conscious contract convection cornet corporal corporeal county
    creation cremation crochet crotchet decent deduced deducted deprecate depreciate desert dining discus
    dragon except exciting exiting faction factura facture fiance fiction fiend fiends filing flounder
    forbear forebear founder fraction fractura fracture friction fried fright gallon gentle grater hoping
    identify immoral immortal infection inflection interment internment interstate intestate lightening
    lightning manger marital marshal martial massage massages masterly mediation medication meditation
    menaje minister minster needles needless ordinance ordnance packagers parson passible patent pavement
    penning perfect person phosphorous phosphorus planed planing planning plural potion prefect princes
    princess processional produces prostate prostrate purchasers qualify radial realty relieved relived
    restauraste restaurent revere reverend roster sandal scared scraping scrapping septic servicers shopping
    signing singing sipping skipping slipping snipping solder staring starring starting stating statue
    strange strangle surpression taping tapping thorough though through topical tortuous torturous
    transection tropical usurario verity versickerung versificación versification versified versify withdrew
    writhing writing zahnung
    """
)
