"""The techniques as frozen values: what each can be told, checked once.

`read_rule` turns the map of one rule, from YAML or from compiled bytes alike, into a rule;
`rule_to_map` is its inverse with every default written out, so that a rule has one encoding.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

from geumgo.deid._limits import MAX_BOUNDS, MAX_CHOICES, MAX_NAME_CHARS, MAX_OPTION_CHARS, MIN_TOKEN_DOMAIN
from geumgo.deid._options import Options, decimal_of, plain

__all__ = (
    "ALPHABETS",
    "CLASSES",
    "TECHNIQUES",
    "DateShift",
    "Encrypt",
    "GeneraliseAddress",
    "GeneraliseAge",
    "GeneraliseAmount",
    "GeneraliseDate",
    "Keep",
    "Mask",
    "Noise",
    "Place",
    "Pseudonym",
    "Remove",
    "Replace",
    "Round",
    "Rule",
    "Suppress",
    "Token",
    "TopBottom",
    "read_rule",
    "rule_to_map",
)

CLASSES = ("digits", "letters", "symbols")
"""Character classes that a mask may cover; every character is in exactly one."""

ALPHABETS: dict[str, str] = {
    "digits": string.digits,
    "upper": string.digits + string.ascii_uppercase,
    "alphanumeric": string.digits + string.ascii_uppercase + string.ascii_lowercase,
}
"""What a token is made of, in the order of its numerals."""

MAX_SYMBOLS = {"digits": 56, "upper": 36, "alphanumeric": 32}
"""Longest tokens: both halves fit 96 bits, so that one AES block is enough for each round of FF1."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands: what its scope is by default, and whether it replaces part of a free text."""

    scope: str
    in_text: bool = False


@dataclass(frozen=True, slots=True)
class Suppress:
    """The value becomes null; in free text it becomes nothing."""

    technique: ClassVar[str] = "suppress"

    @classmethod
    def read(cls, options: Options, place: Place) -> Suppress:
        return cls()


@dataclass(frozen=True, slots=True)
class Remove:
    """The column is left out."""

    technique: ClassVar[str] = "remove"

    @classmethod
    def read(cls, options: Options, place: Place) -> Remove:
        return cls()


@dataclass(frozen=True, slots=True)
class Keep:
    """The value passes unchanged."""

    technique: ClassVar[str] = "keep"

    @classmethod
    def read(cls, options: Options, place: Place) -> Keep:
        return cls()


@dataclass(frozen=True, slots=True)
class Mask:
    """Characters are covered; `as` chooses what is kept."""

    technique: ClassVar[str] = "mask"
    as_: str
    with_: str
    classes: tuple[str, ...]
    keep_first: int | None
    keep_last: int | None
    positions: tuple[tuple[int, int], ...]
    length: int | None

    @classmethod
    def read(cls, options: Options, place: Place) -> Mask:
        as_ = options.choice("as", ("plain", "name", "email"), "plain")
        with_ = options.text("with", "*", least=1, most=1) or "*"
        length = options.integer("length", 1, 64)
        if as_ != "plain":
            return cls(as_, with_, (), None, None, (), length)
        positions = _positions(options)
        keep_first = options.integer("keep_first", 0, 64, 0) or 0
        keep_last = options.integer("keep_last", 0, 64, 0) or 0
        if positions and (keep_first or keep_last):
            raise options.fail("positions", "'positions' and 'keep_first'/'keep_last' exclude each other")
        if positions and length is not None:
            raise options.fail("length", "'length' hides how long a value is; it can't go with 'positions'")
        return cls(as_, with_, _classes(options), keep_first, keep_last, positions, length)


def _positions(options: Options) -> tuple[tuple[int, int], ...]:
    raw = options.take("positions")
    if raw is None:
        return ()
    if not isinstance(raw, list) or not 0 <= len(raw) <= 32:
        raise options.fail("positions", "must be a list of at most 32 [first, last] pairs, counted from 1")
    spans: list[tuple[int, int]] = []
    for pair in raw:
        match pair:
            case [int(first), int(last)] if not isinstance(first, bool) and not isinstance(last, bool):
                if not (spans[-1][1] if spans else 0) < first <= last <= 4096:
                    raise options.fail(
                        "positions", "pairs must ascend, not overlap and lie within 1 and 4096"
                    )
                spans.append((first, last))
            case _:
                raise options.fail("positions", "must be a list of [first, last] pairs, counted from 1")
    return tuple(spans)


def _classes(options: Options) -> tuple[str, ...]:
    raw = options.take("classes")
    if raw is None:
        return ("digits", "letters")
    if not isinstance(raw, list) or not raw or any(not isinstance(c, str) or c not in CLASSES for c in raw):
        raise options.fail("classes", "must be a list out of " + ", ".join(CLASSES))
    if len(set(raw)) != len(raw):
        raise options.fail("classes", "names a class twice")
    return tuple(sorted(raw))


@dataclass(frozen=True, slots=True)
class Replace:
    """A fixed text stands for every value, or one of several drawn at random."""

    technique: ClassVar[str] = "replace"
    with_: str | None
    one_of: tuple[str, ...]

    @classmethod
    def read(cls, options: Options, place: Place) -> Replace:
        with_ = options.text("with")
        raw = options.take("one_of")
        if (with_ is None) == (not raw):
            raise options.fail("one_of", "needs either 'with' or 'one_of'", fix='Add `with: "…"`.')
        if with_ is not None:
            return cls(with_, ())
        if not isinstance(raw, list) or len(raw) > MAX_CHOICES:
            raise options.fail("one_of", f"must be a list of at most {MAX_CHOICES} texts")
        return cls(None, tuple(options.checked("one_of", item, 1, MAX_OPTION_CHARS) for item in raw))


@dataclass(frozen=True, slots=True)
class GeneraliseDate:
    """A date becomes the period that it lies in."""

    technique: ClassVar[str] = "generalise"
    as_: ClassVar[str] = "date"
    to: str
    source: str

    @classmethod
    def read(cls, options: Options, place: Place) -> GeneraliseDate:
        return cls(
            options.choice("to", ("month", "quarter", "half", "year", "decade")),
            options.choice("source", ("date", "rrn"), "date"),
        )


@dataclass(frozen=True, slots=True)
class GeneraliseAge:
    """A birth date, a registration number or an age becomes an age band."""

    technique: ClassVar[str] = "generalise"
    as_: ClassVar[str] = "age"
    band: int
    bottom: int | None
    top: int | None
    source: str

    @classmethod
    def read(cls, options: Options, place: Place) -> GeneraliseAge:
        band = options.integer("band", 2, 100, 10) or 10
        bottom = options.integer("bottom", 1, 120)
        top = options.integer("top", 1, 120)
        if bottom is not None and top is not None and bottom >= top:
            raise options.fail("bottom", "'bottom' must be under 'top'")
        for name, edge in (("bottom", bottom), ("top", top)):
            if edge is not None and edge % band:
                raise options.fail(name, f"must be a multiple of the band, {band}")
        return cls(band, bottom, top, options.choice("source", ("date", "rrn", "age"), "date"))


@dataclass(frozen=True, slots=True)
class GeneraliseAddress:
    """A Korean address becomes its province or district."""

    technique: ClassVar[str] = "generalise"
    as_: ClassVar[str] = "address"
    to: str

    @classmethod
    def read(cls, options: Options, place: Place) -> GeneraliseAddress:
        return cls(options.choice("to", ("sido", "sigungu")))


@dataclass(frozen=True, slots=True)
class GeneraliseAmount:
    """An amount becomes the range that it lies in."""

    technique: ClassVar[str] = "generalise"
    as_: ClassVar[str] = "amount"
    width: Decimal | None
    bounds: tuple[Decimal, ...]
    bottom: Decimal | None
    top: Decimal | None

    @classmethod
    def read(cls, options: Options, place: Place) -> GeneraliseAmount:
        width = options.decimal("width", positive=True)
        raw = options.take("bounds")
        if (width is None) == (raw is None):
            raise options.fail("bounds", "needs either 'width' or 'bounds'", fix="Add `width: 1000000`.")
        if width is not None:
            bottom, top = options.decimal("bottom"), options.decimal("top")
            if bottom is not None and top is not None and bottom >= top:
                raise options.fail("bottom", "'bottom' must be under 'top'")
            for name, edge in (("bottom", bottom), ("top", top)):
                if edge is not None and edge % width:
                    raise options.fail(name, "must be a multiple of 'width'")
            return cls(width, (), bottom, top)
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_BOUNDS:
            raise options.fail("bounds", f"must be a list of 1 to {MAX_BOUNDS} numbers")
        bounds: list[Decimal] = []
        for item in raw:
            number = decimal_of(item)
            if number is None or (bounds and number <= bounds[-1]):
                raise options.fail("bounds", "must be numbers, each above the one before")
            bounds.append(number)
        return cls(None, tuple(bounds), None, None)


@dataclass(frozen=True, slots=True)
class Round:
    """An amount becomes a multiple of `to`."""

    technique: ClassVar[str] = "round"
    to: Decimal
    mode: str

    @classmethod
    def read(cls, options: Options, place: Place) -> Round:
        to = options.decimal("to", positive=True, required=True)
        assert to is not None
        mode = options.choice("mode", ("plain", "down", "up", "random", "controlled"), "plain")
        if mode == "controlled" and place.in_text:
            raise options.fail("mode", "controlled rounding needs a whole column")
        return cls(to, mode)


@dataclass(frozen=True, slots=True)
class Noise:
    """A random number is added to an amount."""

    technique: ClassVar[str] = "noise"
    distribution: str
    scale: Decimal
    decimals: int | None
    minimum: Decimal | None
    maximum: Decimal | None

    @classmethod
    def read(cls, options: Options, place: Place) -> Noise:
        scale = options.decimal("scale", positive=True, required=True)
        assert scale is not None
        minimum, maximum = options.decimal("minimum"), options.decimal("maximum")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise options.fail("minimum", "'minimum' must not be over 'maximum'")
        return cls(
            options.choice("distribution", ("uniform", "laplace", "normal"), "laplace"),
            scale,
            options.integer("decimals", 0, 9),
            minimum,
            maximum,
        )


@dataclass(frozen=True, slots=True)
class TopBottom:
    """Amounts beyond a limit are shown as the limit."""

    technique: ClassVar[str] = "top_bottom"
    bottom: Decimal | None
    top: Decimal | None
    label: bool

    @classmethod
    def read(cls, options: Options, place: Place) -> TopBottom:
        bottom, top = options.decimal("bottom"), options.decimal("top")
        if bottom is None and top is None:
            raise options.fail("top", "needs 'top', 'bottom' or both")
        if bottom is not None and top is not None and bottom >= top:
            raise options.fail("bottom", "'bottom' must be under 'top'")
        return cls(bottom, top, options.flag("label", True))


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """A keyed, one-way name for the value: equal values of one scope and purpose get equal names."""

    technique: ClassVar[str] = "pseudonym"
    format: str
    length: int
    prefix: str
    normalise: str
    scope: str

    @classmethod
    def read(cls, options: Options, place: Place) -> Pseudonym:
        format_ = options.choice("format", ("base32", "hex"), "base32")
        # 80 bits: among a million values two share a name with a chance of 2^-41.
        least, most, default = (16, 51, 20) if format_ == "base32" else (20, 64, 32)
        return cls(
            format_,
            options.integer("length", least, most, default) or default,
            options.text("prefix", "", most=32) or "",
            options.choice("normalise", ("none", "text", "digits", "alphanumeric"), "text"),
            _scope(options, place),
        )


@dataclass(frozen=True, slots=True)
class Encrypt:
    """The value is encrypted under the purpose's key; `reidentify` opens it."""

    technique: ClassVar[str] = "encrypt"
    mode: str
    pad: int
    scope: str

    @classmethod
    def read(cls, options: Options, place: Place) -> Encrypt:
        if place.in_text:
            raise options.fail(
                "technique",
                "'encrypt' can't be used inside free text",
                why="`reidentify` opens whole values only, so nobody could open it again.",
                fix="Use pseudonym or token here, or encrypt the whole field.",
            )
        return cls(
            options.choice("mode", ("random", "deterministic"), "random"),
            options.integer("pad", 1, 256, 16) or 16,
            _scope(options, place),
        )


@dataclass(frozen=True, slots=True)
class Token:
    """A value of the same form by FF1 (NIST SP 800-38G); `reidentify` turns it back."""

    technique: ClassVar[str] = "token"
    alphabet: str
    keep_first: int
    keep_last: int
    min_length: int
    max_length: int
    scope: str

    @classmethod
    def read(cls, options: Options, place: Place) -> Token:
        alphabet = options.choice("alphabet", tuple(ALPHABETS), "digits")
        radix, most = len(ALPHABETS[alphabet]), MAX_SYMBOLS[alphabet]
        enough = next(n for n in range(1, most) if radix**n >= MIN_TOKEN_DOMAIN)
        min_length = options.integer("min_length", 1, most, enough) or enough
        if min_length < enough:
            raise options.fail(
                "min_length",
                f"{min_length} symbols of '{alphabet}' have only {radix**min_length} values",
                why=f"Format-preserving encryption needs {MIN_TOKEN_DOMAIN} or more (NIST SP 800-38G): "
                "a smaller set can be tried out.",
                fix=f"Use min_length {enough} or more (kept characters don't count), or another technique, "
                "such as pseudonym.",
            )
        max_length = options.integer("max_length", 1, most, most) or most
        if max_length < min_length:
            raise options.fail("max_length", f"must not be under min_length, {min_length}")
        return cls(
            alphabet,
            options.integer("keep_first", 0, 16, 0) or 0,
            options.integer("keep_last", 0, 16, 0) or 0,
            min_length,
            max_length,
            _scope(options, place),
        )


@dataclass(frozen=True, slots=True)
class DateShift:
    """All dates of one subject move by the same keyed number of days."""

    technique: ClassVar[str] = "date_shift"
    by: str
    days: int
    scope: str

    @classmethod
    def read(cls, options: Options, place: Place) -> DateShift:
        if place.in_text:
            raise options.fail("technique", "'date_shift' can't be used inside free text")
        by = options.text("by", least=1, most=MAX_NAME_CHARS, required=True)
        days = options.integer("days", 1, 3650, 365)
        assert by is not None
        assert days is not None
        # One scope for all fields that shift by one subject: the distances between them must survive.
        return cls(by, days, options.text("scope", by, least=1, most=MAX_NAME_CHARS) or by)


def _scope(options: Options, place: Place) -> str:
    scope = options.text("scope", place.scope, least=1, most=MAX_NAME_CHARS)
    assert scope is not None
    return scope


Rule = (
    Suppress
    | Remove
    | Keep
    | Mask
    | Replace
    | GeneraliseDate
    | GeneraliseAge
    | GeneraliseAddress
    | GeneraliseAmount
    | Round
    | Noise
    | TopBottom
    | Pseudonym
    | Encrypt
    | Token
    | DateShift
)

_GENERALISE: dict[str, type[GeneraliseDate | GeneraliseAge | GeneraliseAddress | GeneraliseAmount]] = {
    "date": GeneraliseDate,
    "age": GeneraliseAge,
    "address": GeneraliseAddress,
    "amount": GeneraliseAmount,
}

_SIMPLE: dict[str, Any] = {
    rule.technique: rule
    for rule in (
        Suppress, Remove, Keep, Mask, Replace, Round, Noise, TopBottom, Pseudonym, Encrypt, Token, DateShift,
    )
}  # fmt: skip

TECHNIQUES = frozenset({*_SIMPLE, "generalise", "text"})
"""Names of all techniques."""

_NOT_IN_TEXT = frozenset({"remove", "date_shift", "text"})


def read_rule(options: Options, place: Place) -> Rule:
    """Return the rule that `options` describe; the caller checks that none is left (`options.done`).

    Raises:
        PolicyError: an unknown technique, or an option that is missing, wrong or out of bounds.
    """
    given = options.take("technique")
    if given == "hash":
        raise options.fail(
            "technique",
            "'hash' is not offered",
            why="Anybody can hash every phone number and look a plain hash up.",
            fix="Use 'pseudonym': a hash under a key that only the enclave has.",
        )
    name = options.choice("technique", TECHNIQUES)
    if place.in_text and name in _NOT_IN_TEXT:
        raise options.fail("technique", f"'{name}' can't be used inside free text")
    if name == "generalise":
        return _GENERALISE[options.choice("as", tuple(_GENERALISE))].read(options, place)
    rule: Rule = _SIMPLE[name].read(options, place)
    return rule


def rule_to_map(rule: Rule) -> dict[str, Any]:
    """Return the map of a rule with every default written out; absent options are left out."""
    out: dict[str, Any] = {"technique": rule.technique}
    if rule.technique == "generalise":
        out["as"] = rule.as_  # type: ignore[union-attr]
    for field in fields(rule):
        value = getattr(rule, field.name)
        if value is None or value == ():
            continue
        out[field.name.rstrip("_")] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return value
