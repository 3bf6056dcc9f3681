"""A compiled policy: what each field of a record becomes, checked and frozen.

Format: docs/spec/compiled-policy.md. The bytes come from an untrusted caller, so everything that the
compiler checked is checked here again, and a policy has exactly one encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from geumgo.codec import cbor
from geumgo.deid._entities import ENTITIES
from geumgo.deid._errors import PolicyError
from geumgo.deid._limits import MAX_FIELDS, MAX_NAME_CHARS, MAX_POLICY_BYTES
from geumgo.deid._options import Options, did_you_mean, plain
from geumgo.deid._rules import (
    DateShift,
    Encrypt,
    GeneraliseAge,
    Keep,
    Place,
    Pseudonym,
    Replace,
    Rule,
    Token,
    read_rule,
    rule_to_map,
)

__all__ = ("VERSION", "CompiledPolicy", "Field", "Text")

VERSION = 1
"""Version of the policy language and of its compiled form."""

_MAX_DEPTH = 8
"""Nesting of a compiled policy: policy, fields, field, entities, rule, list, pair."""

_ON_INVALID = ("reject", "suppress")
_UNLISTED = ("suppress", "remove", "keep", "refuse")


@dataclass(frozen=True, slots=True)
class Text:
    """Free text: identifiers are found and each is replaced by its entity's rule."""

    min_score: Decimal
    entities: Mapping[str, Rule]
    others: Rule
    known_values: Mapping[str, Rule]

    def rules(self) -> tuple[Rule, ...]:
        """Return every rule that may act on a part of the text."""
        return (*self.entities.values(), self.others, *self.known_values.values())

    def to_map(self) -> dict[str, Any]:
        """Return the plain map of a compiled policy."""
        return {
            "technique": "text",
            "min_score": plain(self.min_score),
            "entities": {name: rule_to_map(rule) for name, rule in self.entities.items()},
            "others": rule_to_map(self.others),
            "known_values": {name: rule_to_map(rule) for name, rule in self.known_values.items()},
        }


@dataclass(frozen=True, slots=True)
class Field:
    """What happens to one field.

    Attributes:
        rule: the technique with its options.
        purpose: whose keys a keyed technique uses; None where nothing is keyed.
        encrypted: the value arrives as an envelope, which the enclave opens first.
        required: a batch without this column is refused.
        on_invalid: `reject` leaves the record out, `suppress` only this value.
    """

    rule: Rule | Text
    purpose: str | None
    encrypted: bool
    required: bool
    on_invalid: str

    def rules(self) -> tuple[Rule, ...]:
        """Return the rule, or for free text every rule that may act on a part of it."""
        return self.rule.rules() if isinstance(self.rule, Text) else (self.rule,)

    def to_map(self) -> dict[str, Any]:
        """Return the plain map of a compiled policy."""
        out = self.rule.to_map() if isinstance(self.rule, Text) else rule_to_map(self.rule)
        if self.purpose is not None:
            out["purpose"] = self.purpose
        out |= {"encrypted": self.encrypted, "required": self.required, "on_invalid": self.on_invalid}
        return out


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """A policy that passed every check; made by :meth:`from_map` or :meth:`from_bytes` only.

    Attributes:
        name: what people call it.
        unlisted: what happens to columns that the policy does not name: `suppress`, `remove`, `keep`
            or `refuse`.
        reference_date: the day on which ages are counted, if any field needs one.
        fields: rules by field name.
    """

    name: str
    unlisted: str
    reference_date: date | None
    fields: Mapping[str, Field]
    _encoded: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> CompiledPolicy:
        """Return the policy that `data` holds.

        Raises:
            PolicyError: it is too large, not deterministic CBOR, or breaks any rule of the language.
        """
        if len(data) > MAX_POLICY_BYTES:
            raise PolicyError(
                f"a compiled policy of {len(data)} bytes is over the limit of {MAX_POLICY_BYTES}"
            )
        try:
            value = cbor.loads(data, max_depth=_MAX_DEPTH, max_size=MAX_POLICY_BYTES)
        except cbor.CborError as error:
            raise PolicyError(f"the compiled policy can't be read: {error.what}") from None
        policy = cls.from_map(value)
        if policy._encoded != bytes(data):
            raise PolicyError(
                "the compiled policy is not in its one canonical encoding",
                fix="Compile it with geumgo.client.policy.compile_policy.",
            )
        return policy

    @classmethod
    def from_map(cls, value: Any) -> CompiledPolicy:
        """Return the policy that a plain map describes; defaults are filled in.

        Raises:
            PolicyError: with the path of the first thing that is wrong.
        """
        options = Options(value, ())
        if options.take("version") != VERSION or isinstance(options.take("version"), bool):
            raise options.fail(
                "version", f"the policy version must be {VERSION}", fix=f"Write `version: {VERSION}`."
            )
        name = options.text("name", least=1, most=MAX_NAME_CHARS, required=True)
        assert name is not None
        unlisted = options.choice("unlisted", _UNLISTED, "suppress")
        reference = options.day("reference_date")
        raw = options.take("fields")
        if not isinstance(raw, Mapping) or not raw:
            raise options.fail(
                "fields", "needs a map of fields", fix="Write `fields:` and a line for each column."
            )
        if len(raw) > MAX_FIELDS:
            raise options.fail("fields", f"{len(raw)} fields are over the limit of {MAX_FIELDS}")
        options.done()
        named = {_field_name(key): _read_field(key, item) for key, item in raw.items()}
        _check_together(named, reference)
        encoded = cbor.dumps(
            {"version": VERSION, "name": name, "unlisted": unlisted}
            | ({"reference_date": reference.isoformat()} if reference is not None else {})
            | {"fields": {key: item.to_map() for key, item in named.items()}}
        )
        if len(encoded) > MAX_POLICY_BYTES:
            raise PolicyError(
                f"the policy compiles to {len(encoded)} bytes, over the limit of {MAX_POLICY_BYTES}"
            )
        return cls(name, unlisted, reference, MappingProxyType(named), encoded)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompiledPolicy) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)

    def to_bytes(self) -> bytes:
        """Return the deterministic CBOR of this policy."""
        return self._encoded

    @property
    def digest(self) -> bytes:
        """SHA-256 of the compiled bytes, 32 bytes: what a measured configuration lists."""
        return hashlib.sha256(self._encoded).digest()

    @property
    def purposes(self) -> frozenset[str]:
        """Purposes whose keys this policy uses."""
        return frozenset(f.purpose for f in self.fields.values() if f.purpose is not None)

    @property
    def deterministic(self) -> bool:
        """Whether any technique gives equal values equal results under a key, so that guesses can be tested."""
        return any(_is_deterministic(rule) for f in self.fields.values() for rule in f.rules())

    @property
    def reversible(self) -> bool:
        """Whether `reidentify` can bring any field back."""
        return any(isinstance(f.rule, Encrypt | Token) for f in self.fields.values())

    @property
    def encrypted_fields(self) -> frozenset[str]:
        """Fields that arrive as envelopes."""
        return frozenset(name for name, f in self.fields.items() if f.encrypted)

    @property
    def keeps(self) -> frozenset[str]:
        """Fields that pass unchanged, whole; `*` stands for all unlisted columns."""
        kept = {name for name, f in self.fields.items() if isinstance(f.rule, Keep)}
        return frozenset(kept | ({"*"} if self.unlisted == "keep" else set()))


def _field_name(key: Any) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_NAME_CHARS or not key.isprintable():
        raise PolicyError(
            f"a field name must be 1 to {MAX_NAME_CHARS} printable characters", path=("fields",)
        )
    return key


def _read_field(key: str, raw: Any) -> Field:
    options = Options(raw, ("fields", key))
    encrypted, required = options.flag("encrypted"), options.flag("required")
    on_invalid = options.choice("on_invalid", _ON_INVALID, "reject")
    purpose = options.text("purpose", least=1, most=MAX_NAME_CHARS)
    rule: Rule | Text
    if raw.get("technique") == "text":
        options.take("technique")
        rule = _read_text(options)
    else:
        rule = read_rule(options, Place(key))
    options.done()
    out = Field(rule, purpose, encrypted, required, on_invalid)
    keyed = [r.technique for r in out.rules() if _is_keyed(r)]
    if keyed and purpose is None:
        raise PolicyError(
            f"'{keyed[0]}' needs a purpose, whose key it uses",
            path=("fields", key),
            fix="Add `purpose: …` to the field or at the top of the policy.",
        )
    if purpose is not None and not keyed:
        raise options.fail("purpose", "nothing in this field uses a key, so it takes no purpose")
    return out


def _read_text(options: Options) -> Text:
    score = options.decimal("min_score")
    score = Decimal("0.5") if score is None else score
    if not 0 < score <= 1 or len(str(score)) > 6:
        raise options.fail("min_score", "must be above 0 and at most 1, with up to four decimals")
    entities = _read_rules(options, "entities", scope=lambda name: name)
    for name in entities:
        if name not in ENTITIES:
            raise PolicyError(
                f"there is no entity '{name[:64]}'",
                path=(*options.path, "entities", name),
                fix=did_you_mean(name, ENTITIES),
            )
    others: Rule = Replace("[{entity}]", ())
    if options.has("others"):
        inner = Options(options.take("others"), (*options.path, "others"))
        others = read_rule(inner, Place("text", in_text=True))
        inner.done()
    known = _read_rules(options, "known_values", scope=lambda name: name)
    return Text(score, MappingProxyType(entities), others, MappingProxyType(known))


def _read_rules(options: Options, name: str, *, scope: Any) -> dict[str, Rule]:
    raw = options.take(name)
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or len(raw) > MAX_FIELDS:
        raise options.fail(name, f"must be a map of at most {MAX_FIELDS} rules")
    rules: dict[str, Rule] = {}
    for key, item in raw.items():
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_NAME_CHARS:
            raise options.fail(name, f"names here must be 1 to {MAX_NAME_CHARS} characters")
        inner = Options(item, (*options.path, name, key))
        rules[key] = read_rule(inner, Place(scope(key), in_text=True))
        inner.done()
    return rules


def _is_keyed(rule: Rule) -> bool:
    return isinstance(rule, Pseudonym | Encrypt | Token | DateShift)


def _is_deterministic(rule: Rule) -> bool:
    return isinstance(rule, Pseudonym | Token | DateShift) or (
        isinstance(rule, Encrypt) and rule.mode == "deterministic"
    )


def _check_together(named: Mapping[str, Field], reference: date | None) -> None:
    for key, item in named.items():
        rule = item.rule
        for one in item.rules():
            if isinstance(one, GeneraliseAge) and one.source != "age" and reference is None:
                raise PolicyError(
                    "an age needs the day on which it is counted",
                    path=("fields", key),
                    why="The enclave takes no date from outside, so that a record gives the same age each time.",
                    fix="Add `reference_date: YYYY-MM-DD` at the top of the policy.",
                )
        if isinstance(rule, DateShift) and rule.by not in named:
            raise PolicyError(
                f"there is no field '{rule.by[:64]}' to shift by",
                path=("fields", key, "by"),
                fix=did_you_mean(rule.by, named),
            )
        if isinstance(rule, Text):
            for other in rule.known_values:
                if other not in named or other == key:
                    raise PolicyError(
                        f"there is no other field '{other[:64]}'",
                        path=("fields", key, "known_values", other),
                        fix=did_you_mean(other, [name for name in named if name != key]),
                    )
