"""The engine: a compiled policy, keys and randomness in; de-identified rows out.

Pure: no IO, no clock, no global state. Columns are worked on one after another, each by a function
that was made once, so that the cost of a cell is the cost of its technique.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from geumgo.deid._addresses import generalise_address
from geumgo.deid._amounts import (
    generalise_amount,
    noise,
    parse_amount,
    round_controlled,
    rounder,
    top_bottom,
)
from geumgo.deid._dates import generalise_age, generalise_date, parse_date, shift
from geumgo.deid._errors import BadValue, InputError
from geumgo.deid._free_text import FreeText
from geumgo.deid._keyed import Cipher, date_shifter, pseudonymiser
from geumgo.deid._limits import MAX_COLUMNS, MAX_NAME_CHARS, MAX_ROWS, MAX_VALUE_CHARS
from geumgo.deid._masking import masker
from geumgo.deid._policy import CompiledPolicy, Field, Text
from geumgo.deid._rules import (
    DateShift,
    Encrypt,
    GeneraliseAddress,
    GeneraliseAge,
    GeneraliseAmount,
    GeneraliseDate,
    Keep,
    Mask,
    Noise,
    Pseudonym,
    Remove,
    Replace,
    Round,
    Rule,
    Suppress,
    Token,
    TopBottom,
)
from geumgo.deid._tokens import Tokeniser

__all__ = ("Engine", "Rejection", "Result")

Value = str | None
Keys = Callable[[str, str], bytes]
Randomness = Callable[[int], bytes]
Cell = Callable[[str], Value]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is left out.

    Attributes:
        row: its index in the request, from 0.
        field: the column that could not be worked on; empty for the row as a whole.
        code: why, without the value: `not_a_date`, `not_a_number`, `not_an_age`, `unknown_address`,
            `not_a_registration_number`, `bad_length`, `bad_character`, `out_of_range`, `no_subject`,
            `too_long`, `does_not_open`, `wrong_width`, `not_text`.
    """

    row: int
    field: str
    code: str


@dataclass(frozen=True, slots=True)
class Result:
    """Rows in the order of the request, without the rejected ones."""

    columns: list[str]
    rows: list[list[Value]]
    rejected: list[Rejection]


@dataclass(slots=True)
class _Batch:
    """One call: the columns as they came, and the cells that failed."""

    columns: Mapping[str, Sequence[Value]]
    failed: dict[int, Rejection] = field(default_factory=dict)
    numbers: Sequence[int] = ()

    def fail(self, position: int, name: str, code: str) -> None:
        self.failed.setdefault(position, Rejection(self.numbers[position], name, code))


Column = Callable[[Sequence[Value], _Batch], Sequence[Value]]


class Engine:
    """De-identifies and re-identifies rows under one policy. Safe to share between threads.

    Args:
        policy: checked policy.
        keys: returns the 32-byte key for a purpose and a use (`pseudonym`, `token`, `encrypt`); it is
            called here, once for each pair that the policy needs, and what it raises passes through.
        random: returns that many random bytes.
    """

    def __init__(self, policy: CompiledPolicy, keys: Keys, *, random: Randomness) -> None:
        self._policy = policy
        self._random = random
        self._held: dict[tuple[str, str], bytes] = {}
        self._keys = keys
        self._forward: dict[str, Column | None] = {
            name: self._column(name, item) for name, item in policy.fields.items()
        }
        self._backward: dict[str, Column] = {}
        for name, item in policy.fields.items():
            rule = item.rule
            if isinstance(rule, Encrypt | Token):
                key = self._key(item.purpose, rule.technique)
                opener = (
                    Cipher(rule, key, random).decrypt
                    if isinstance(rule, Encrypt)
                    else Tokeniser(rule, key).decrypt
                )
                self._backward[name] = _by_cell(name, opener, reject=True, most=8 * MAX_VALUE_CHARS)

    def __repr__(self) -> str:
        return f"<Engine {self._policy.name}: {len(self._forward)} fields, {len(self._backward)} reversible>"

    def deidentify(self, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> Result:
        """Return the rows as the policy wants them.

        Raises:
            InputError: columns that are duplicate, missing or (under `unlisted: refuse`) unknown, or a
                batch over the limits.
        """
        self._check_columns(columns)
        plan: list[tuple[str, Column | None]] = []
        for name in columns:
            if name in self._forward:
                plan.append((name, self._forward[name]))
            elif self._policy.unlisted != "remove":
                plan.append((name, _keep if self._policy.unlisted == "keep" else _suppress))
        return _run(columns, rows, [(name, column) for name, column in plan if column is not None])

    def reidentify(self, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> Result:
        """Return the rows with `encrypt` and `token` fields brought back; all others pass as they are.

        Raises:
            InputError: duplicate columns, or a batch over the limits.
        """
        _check_names(columns)
        return _run(columns, rows, [(name, self._backward.get(name, _keep)) for name in columns])

    def _check_columns(self, columns: Sequence[str]) -> None:
        _check_names(columns)
        given = set(columns)
        policy = self._policy
        missing = [
            name
            for name, item in policy.fields.items()
            if name not in given and (item.required or policy.unlisted == "keep")
        ]
        if missing:
            raise InputError(
                f"the column '{missing[0]}' is missing",
                why="The policy requires it"
                if policy.fields[missing[0]].required
                else "Under `unlisted: keep` a misspelt column would pass in clear, so all fields must be there.",
                fix="Compare the header of the data with the fields of the policy.",
            )
        if policy.unlisted == "refuse":
            unknown = sorted(given - policy.fields.keys())
            if unknown:
                raise InputError(
                    f"the policy does not list the column '{unknown[0]}'",
                    fix="Add it to the policy's fields, or change `unlisted`.",
                )
        for name in given:
            rule = policy.fields[name].rule if name in policy.fields else None
            if isinstance(rule, DateShift) and rule.by not in given:
                raise InputError(f"'{name}' shifts by the column '{rule.by}', which is missing")

    def _key(self, purpose: str | None, use: str) -> bytes:
        assert purpose is not None  # the policy refuses a keyed rule without one
        if (purpose, use) not in self._held:
            self._held[purpose, use] = self._keys(purpose, use)
        return self._held[purpose, use]

    def _column(self, name: str, item: Field) -> Column | None:
        rule = item.rule
        if isinstance(rule, Text):
            return _text_column(name, item, FreeText(rule, lambda one: self._cell(one, item.purpose)))
        if isinstance(rule, Remove):
            return None
        if isinstance(rule, Keep):
            return _keep
        if isinstance(rule, Suppress):
            return _suppress
        if isinstance(rule, Replace):
            return self._replace_column(rule)
        if isinstance(rule, DateShift):
            return _shift_column(name, item, rule, date_shifter(rule, self._key(item.purpose, "pseudonym")))
        if isinstance(rule, Token):
            return _token_column(name, item, Tokeniser(rule, self._key(item.purpose, "token")))
        if isinstance(rule, Round) and rule.mode == "controlled":
            return _controlled_column(name, item, rule)
        return _by_cell(name, self._cell(rule, item.purpose), reject=item.on_invalid == "reject")

    def _replace_column(self, rule: Replace) -> Column:
        # A missing value is replaced too: that it is missing may tell something.
        cell = self._cell(rule, None)
        return lambda values, batch: [cell("") for _ in values]

    def _cell(self, rule: Rule, purpose: str | None) -> Cell:
        match rule:
            case Keep():
                return lambda value: value
            case Suppress() | Remove():
                return lambda value: None
            case Mask():
                return masker(rule)
            case Replace():
                return self._replacer(rule)
            case GeneraliseDate():
                return generalise_date(rule)
            case GeneraliseAge():
                return generalise_age(rule, self._policy.reference_date)
            case GeneraliseAddress():
                return generalise_address(rule)
            case GeneraliseAmount():
                return generalise_amount(rule)
            case Round():
                return rounder(rule, self._random)
            case Noise():
                return noise(rule, self._random)
            case TopBottom():
                return top_bottom(rule)
            case Pseudonym():
                return pseudonymiser(rule, self._key(purpose, "pseudonym"))
            case Encrypt():
                return Cipher(rule, self._key(purpose, "encrypt"), self._random).encrypt
            case Token():
                return Tokeniser(rule, self._key(purpose, "token")).encrypt
            case DateShift():
                raise AssertionError("a date shift works on columns")

    def _replacer(self, rule: Replace) -> Cell:
        if rule.with_ is not None:
            fixed = rule.with_
            return lambda value: fixed
        choices, random = rule.one_of, self._random
        # 64 random bits over at most 256 choices: the bias is under 2^-56.
        return lambda value: choices[int.from_bytes(random(8), "big") % len(choices)]


def _check_names(columns: Sequence[str]) -> None:
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise InputError(f"a batch has 1 to {MAX_COLUMNS} columns, this one {len(columns)}")
    seen: set[str] = set()
    for name in columns:
        if len(name) > MAX_NAME_CHARS:
            raise InputError(f"a column name has at most {MAX_NAME_CHARS} characters")
        if name in seen:
            raise InputError(f"the column '{name}' is there twice")
        seen.add(name)


def _run(columns: Sequence[str], rows: Sequence[Sequence[Value]], plan: list[tuple[str, Column]]) -> Result:
    if len(rows) > MAX_ROWS:
        raise InputError(f"a batch has at most {MAX_ROWS} rows, this one {len(rows)}", code="too_large")
    width = len(columns)
    rejected: list[Rejection] = []
    whole: list[Sequence[Value]] = []
    numbers: list[int] = []
    for number, row in enumerate(rows):
        if len(row) != width:
            rejected.append(Rejection(number, "", "wrong_width"))
            continue
        whole.append(row)
        numbers.append(number)
    by_name: dict[str, Sequence[Value]] = dict(
        zip(columns, zip(*whole, strict=True) if whole else [()] * width, strict=True)
    )
    batch = _Batch(by_name, numbers=numbers)
    for name, values in by_name.items():
        if not all(value is None or type(value) is str for value in values):
            for position, value in enumerate(values):
                if value is not None and type(value) is not str:
                    batch.fail(position, name, "not_text")
            by_name[name] = [value if type(value) is str else None for value in values]
    done = [column(by_name[name], batch) for name, column in plan]
    out = [list(row) for row in zip(*done, strict=True)] if done else [[] for _ in whole]
    if batch.failed:
        out = [row for position, row in enumerate(out) if position not in batch.failed]
        rejected += batch.failed.values()
    if rejected:
        rejected.sort(key=lambda r: r.row)
    return Result([name for name, _ in plan], out, rejected)


def _keep(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
    return values


def _suppress(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
    return [None] * len(values)


def _by_cell(name: str, cell: Cell, *, reject: bool, most: int = MAX_VALUE_CHARS) -> Column:
    def column(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
        out: list[Value] = []
        for position, value in enumerate(values):
            if not value:  # missing stays missing
                out.append(value)
                continue
            try:
                if len(value) > most:
                    raise BadValue("too_long")
                out.append(cell(value))
            except BadValue as error:
                out.append(None)
                if reject:
                    batch.fail(position, name, error.code)
        return out

    return column


def _text_column(name: str, item: Field, text: FreeText) -> Column:
    reject = item.on_invalid == "reject"

    def column(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
        known = {other: batch.columns[other] for other in text.known_fields if other in batch.columns}
        out: list[Value] = []
        for position, value in enumerate(values):
            if not value:
                out.append(value)
                continue
            try:
                out.append(text.replace(value, {other: column[position] for other, column in known.items()}))
            except BadValue as error:
                out.append(None)
                if reject:
                    batch.fail(position, name, error.code)
        return out

    return column


def _token_column(name: str, item: Field, tokeniser: Tokeniser) -> Column:
    reject = item.on_invalid == "reject"

    def column(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
        where = [position for position, value in enumerate(values) if value]
        out = list(values)
        tokens = tokeniser.encrypt_many([values[position] or "" for position in where])
        for position, token in zip(where, tokens, strict=True):
            if isinstance(token, str):
                out[position] = token
                continue
            out[position] = None
            if reject:
                batch.fail(position, name, token.code)
        return out

    return column


def _shift_column(name: str, item: Field, rule: DateShift, shift_of: Callable[[str], int]) -> Column:
    reject = item.on_invalid == "reject"

    def column(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
        out: list[Value] = []
        for position, (value, subject) in enumerate(zip(values, batch.columns[rule.by], strict=True)):
            if not value:
                out.append(value)
                continue
            try:
                if not subject:
                    raise BadValue("no_subject")
                out.append(shift(parse_date(value), shift_of(subject)))
            except BadValue as error:
                out.append(None)
                if reject:
                    batch.fail(position, name, error.code)
        return out

    return column


def _controlled_column(name: str, item: Field, rule: Round) -> Column:
    def column(values: Sequence[Value], batch: _Batch) -> Sequence[Value]:
        out: list[Value] = list(values)
        where: list[int] = []
        numbers: list[Decimal] = []
        for position, value in enumerate(values):
            if not value:
                continue
            try:
                numbers.append(parse_amount(value))
                where.append(position)
            except BadValue as error:
                out[position] = None
                if item.on_invalid == "reject":
                    batch.fail(position, name, error.code)
        for position, rounded in zip(where, round_controlled(rule, numbers), strict=True):
            out[position] = rounded
        return out

    return column
