"""Compiled policies: one encoding, every rule checked again, and no foreign exception from any bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.codec import cbor
from geumgo.deid import ENTITIES, TECHNIQUES, CompiledPolicy, PolicyError, Text
from geumgo.deid._limits import MAX_FIELDS, MAX_POLICY_BYTES

FIELDS: dict[str, Any] = {
    "keep": {"technique": "keep"},
    "suppress": {"technique": "suppress", "encrypted": True},
    "remove": {"technique": "remove", "required": True},
    "mask": {"technique": "mask", "positions": [[1, 2], [4, 6]], "classes": ["digits"]},
    "name": {"technique": "mask", "as": "name", "length": 2},
    "replace": {"technique": "replace", "with": "x", "on_invalid": "suppress"},
    "one": {"technique": "replace", "one_of": ["a", "b"]},
    "date": {"technique": "generalise", "as": "date", "to": "month"},
    "age": {"technique": "generalise", "as": "age", "band": 5, "top": 80, "bottom": 20},
    "address": {"technique": "generalise", "as": "address", "to": "sido"},
    "amount": {"technique": "generalise", "as": "amount", "bounds": [0, "0.5", 1000]},
    "width": {"technique": "generalise", "as": "amount", "width": "0.5", "top": 10},
    "round": {"technique": "round", "to": 1000, "mode": "controlled"},
    "noise": {"technique": "noise", "scale": "2.5", "minimum": 0},
    "top": {"technique": "top_bottom", "top": 100},
    "pseudonym": {"technique": "pseudonym", "purpose": "p"},
    "encrypt": {"technique": "encrypt", "purpose": "p"},
    "token": {"technique": "token", "purpose": "q", "keep_first": 3},
    "shift": {"technique": "date_shift", "by": "keep", "purpose": "p"},
    "memo": {
        "technique": "text",
        "min_score": "0.6",
        "purpose": "p",
        "entities": {"RRN": {"technique": "mask"}, "PHONE": {"technique": "token", "scope": "token"}},
        "others": {"technique": "suppress"},
        "known_values": {"name": {"technique": "pseudonym"}},
    },
}


def everything(**top: Any) -> dict[str, Any]:
    return {"version": 1, "name": "all", "reference_date": "2026-01-01", "fields": FIELDS} | top


def test_every_technique_is_in_the_example_above():
    assert {rule["technique"] for rule in FIELDS.values()} == TECHNIQUES


def test_round_trip():
    policy = CompiledPolicy.from_map(everything())
    data = policy.to_bytes()
    again = CompiledPolicy.from_bytes(data)
    assert again == policy
    assert hash(again) == hash(policy)
    assert again.to_bytes() == data
    assert again.digest == hashlib.sha256(data).digest()
    assert again.fields.keys() == FIELDS.keys()
    assert CompiledPolicy.from_map(cbor.loads(data)).to_bytes() == data
    assert policy != "policy"


def test_order_of_fields_and_spelling_of_defaults_do_not_matter():
    one = CompiledPolicy.from_map(everything())
    two = CompiledPolicy.from_map(everything(fields=dict(reversed(FIELDS.items())), unlisted="suppress"))
    assert one == two
    loose = {"x": {"technique": "mask", "keep_first": 0, "with": "*", "classes": ["letters", "digits"]}}
    tight = {"x": {"technique": "mask"}}
    assert CompiledPolicy.from_map(everything(fields=loose)) == CompiledPolicy.from_map(
        everything(fields=tight)
    )


def test_what_a_policy_says_of_itself(policy):
    whole = CompiledPolicy.from_map(everything())
    assert whole.purposes == {"p", "q"}
    assert whole.encrypted_fields == {"suppress"}
    assert whole.keeps == {"keep"}
    assert whole.deterministic
    assert whole.reversible
    plain = policy({"x": {"technique": "mask"}})
    assert (plain.purposes, plain.encrypted_fields, plain.keeps) == (frozenset(), frozenset(), frozenset())
    assert not plain.deterministic
    assert not plain.reversible
    assert policy({"x": {"technique": "mask"}}, unlisted="keep").keeps == {"*"}


@pytest.mark.parametrize(
    ("rule", "deterministic", "reversible"),
    [
        ({"technique": "pseudonym"}, True, False),
        ({"technique": "token"}, True, True),
        ({"technique": "encrypt"}, False, True),
        ({"technique": "encrypt", "mode": "deterministic"}, True, True),
        ({"technique": "date_shift", "by": "id"}, True, False),
        ({"technique": "text", "others": {"technique": "token"}}, True, False),
        ({"technique": "text", "entities": {"RRN": {"technique": "pseudonym"}}}, True, False),
        ({"technique": "text", "known_values": {"id": {"technique": "pseudonym"}}}, True, False),
    ],
)
def test_what_open_operations_ask(policy, rule, deterministic, reversible):
    made = policy({"id": {"technique": "keep"}, "x": rule | {"purpose": "p"}})
    assert (made.deterministic, made.reversible) == (deterministic, reversible)


def test_tables_can_not_be_changed():
    policy = CompiledPolicy.from_map(everything())
    with pytest.raises(TypeError):
        policy.fields["keep"] = policy.fields["mask"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        policy.unlisted = "keep"  # type: ignore[misc]
    memo = policy.fields["memo"].rule
    assert isinstance(memo, Text)
    with pytest.raises(TypeError):
        memo.entities["RRN"] = memo.others  # type: ignore[index]


def field(**rule: Any) -> dict[str, Any]:
    return everything(fields={"id": {"technique": "keep"}, "x": rule})


LONG = "x" * 300

BAD = [
    pytest.param([], "", "map", id="no map"),
    pytest.param({1: 2}, "", "text", id="names that are no text"),
    pytest.param(everything(version=2), "version", "version", id="another version"),
    pytest.param(everything(version=True), "version", "version", id="true for a version"),
    pytest.param({"name": "x", "fields": FIELDS}, "", "version", id="no version"),
    pytest.param(everything(name=""), "name", "characters", id="empty name"),
    pytest.param(everything(name="a\nb"), "name", "control", id="name with a line feed"),
    pytest.param(everything(unlisted="drop"), "unlisted", "drop", id="unknown default"),
    pytest.param(everything(reference_date="2026-02-30"), "reference_date", "calendar", id="no calendar date"),
    pytest.param(everything(fields={}), "fields", "fields", id="no fields"),
    pytest.param(everything(fields=[]), "fields", "fields", id="fields as a list"),
    pytest.param(everything(extra=1), "extra", "option", id="unknown option at the top"),
    pytest.param(everything(fields={"": {"technique": "keep"}}), "fields", "name", id="empty field name"),
    pytest.param(everything(fields={"a\n": {"technique": "keep"}}), "fields", "printable", id="unprintable name"),
    pytest.param(everything(fields={LONG: {"technique": "keep"}}), "fields", "name", id="long field name"),
    pytest.param(everything(fields={"x": "keep"}), "fields.x", "map", id="rule that is no map"),
    pytest.param(field(), "fields.x", "technique", id="no technique"),
    pytest.param(field(technique="hash"), "fields.x.technique", "not offered", id="plain hash"),
    pytest.param(field(technique="masc"), "fields.x.technique", "masc", id="unknown technique"),
    pytest.param(field(technique=["mask"]), "fields.x.technique", "not a value", id="technique as a list"),
    pytest.param(field(technique="mask", keep=1), "fields.x.keep", "no option", id="unknown option"),
    pytest.param(field(technique="mask", keep_last=65), "fields.x.keep_last", "between", id="keep too many"),
    pytest.param(field(technique="mask", keep_last=True), "fields.x.keep_last", "whole", id="true for a number"),
    pytest.param(field(technique="mask", keep_last="4"), "fields.x.keep_last", "whole", id="text for a number"),
    pytest.param(field(technique="mask", positions=[[2, 1]]), "fields.x.positions", "ascend", id="positions backwards"),
    pytest.param(field(technique="mask", positions=[[1, 3], [3, 4]]), "fields.x.positions", "ascend", id="overlap"),
    pytest.param(field(technique="mask", positions=["1-2"]), "fields.x.positions", "pairs", id="positions as text"),
    pytest.param(field(technique="mask", positions=7), "fields.x.positions", "list", id="positions as a number"),
    pytest.param(
        field(technique="mask", positions=[[1, 2]], keep_last=1), "fields.x.positions", "exclude", id="both ways"
    ),
    pytest.param(field(technique="mask", positions=[[1, 2]], length=1), "fields.x.length", "hides", id="length too"),
    pytest.param(field(technique="mask", classes=["vowels"]), "fields.x.classes", "digits", id="unknown class"),
    pytest.param(field(technique="mask", classes=["digits"] * 2), "fields.x.classes", "twice", id="class twice"),
    pytest.param(field(technique="mask", classes=[]), "fields.x.classes", "list", id="no class"),
    pytest.param(field(technique="mask", **{"as": "name", "keep_last": 1}), "fields.x.keep_last", "no option", id="as"),
    pytest.param(field(technique="mask", **{"with": "**"}), "fields.x.with", "1 to 1", id="two characters"),
    pytest.param(field(technique="replace"), "fields.x", "either", id="replace by nothing"),
    pytest.param(field(technique="replace", one_of=["a"], **{"with": "b"}), "fields.x.one_of", "either", id="both"),
    pytest.param(field(technique="replace", one_of="ab"), "fields.x.one_of", "list", id="one of a text"),
    pytest.param(field(technique="replace", one_of=["a", 1]), "fields.x.one_of", "text", id="one of a number"),
    pytest.param(field(technique="replace", one_of=["\ud800"]), "fields.x.one_of", "control", id="surrogate"),
    pytest.param(field(technique="replace", **{"with": LONG}), "fields.x.with", "256", id="long replacement"),
    pytest.param(field(technique="generalise"), "fields.x", "'as'", id="generalise what"),
    pytest.param(field(technique="generalise", **{"as": "date"}), "fields.x", "'to'", id="date to what"),
    pytest.param(field(technique="generalise", **{"as": "age", "band": 1}), "fields.x.band", "between", id="band 1"),
    pytest.param(field(technique="generalise", **{"as": "age", "top": 85}), "fields.x.top", "multiple", id="top 85"),
    pytest.param(
        field(technique="generalise", **{"as": "age", "top": 20, "bottom": 20}), "fields.x.bottom", "under", id="ages"
    ),
    pytest.param(field(technique="generalise", **{"as": "amount"}), "fields.x", "width", id="amount of no width"),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "width": 0}), "fields.x.width", "above zero", id="width 0"
    ),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "width": 1.5}), "fields.x.width", "number", id="a float"
    ),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "width": 10**18}), "fields.x.width", "number", id="huge"
    ),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "width": 7, "top": 10}), "fields.x.top", "multiple", id="edge"
    ),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "bounds": [1, 1]}), "fields.x.bounds", "above", id="bounds"
    ),
    pytest.param(
        field(technique="generalise", **{"as": "amount", "bounds": []}), "fields.x.bounds", "list", id="no bounds"
    ),
    pytest.param(field(technique="round"), "fields.x", "'to'", id="round to what"),
    pytest.param(field(technique="round", to="1e3"), "fields.x.to", "number", id="an exponent"),
    pytest.param(field(technique="round", to=1, mode="banker"), "fields.x.mode", "banker", id="unknown mode"),
    pytest.param(field(technique="noise"), "fields.x", "'scale'", id="noise of no scale"),
    pytest.param(field(technique="noise", scale=1, minimum=2, maximum=1), "fields.x.minimum", "over", id="limits"),
    pytest.param(field(technique="top_bottom"), "fields.x", "needs", id="no top, no bottom"),
    pytest.param(field(technique="top_bottom", top=1, bottom=1), "fields.x.bottom", "under", id="top under bottom"),
    pytest.param(field(technique="top_bottom", top=1, label=1), "fields.x.label", "true or false", id="label 1"),
    pytest.param(field(technique="pseudonym"), "fields.x", "purpose", id="pseudonym without a purpose"),
    pytest.param(
        field(technique="pseudonym", purpose="p", length=8), "fields.x.length", "between", id="short pseudonym"
    ),
    pytest.param(field(technique="pseudonym", purpose="p", scope=""), "fields.x.scope", "characters", id="no scope"),
    pytest.param(field(technique="pseudonym", purpose=""), "fields.x.purpose", "characters", id="empty purpose"),
    pytest.param(field(technique="mask", purpose="p"), "fields.x.purpose", "no purpose", id="purpose for a mask"),
    pytest.param(field(technique="encrypt", purpose="p", pad=0), "fields.x.pad", "between", id="pad 0"),
    pytest.param(field(technique="token", purpose="p", min_length=5), "fields.x.min_length", "100000", id="100,000"),
    pytest.param(
        field(technique="token", purpose="p", alphabet="upper", min_length=3), "fields.x.min_length", "46656", id="36^3"
    ),
    pytest.param(
        field(technique="token", purpose="p", min_length=9, max_length=8), "fields.x.max_length", "under", id="max"
    ),
    pytest.param(field(technique="token", purpose="p", max_length=57), "fields.x.max_length", "between", id="57"),
    pytest.param(field(technique="date_shift", purpose="p"), "fields.x", "'by'", id="shift by what"),
    pytest.param(field(technique="date_shift", purpose="p", by="ID"), "fields.x.by", "no field", id="shift by nobody"),
    pytest.param(field(technique="mask", encrypted="yes"), "fields.x.encrypted", "true or false", id="encrypted yes"),
    pytest.param(field(technique="mask", on_invalid="keep"), "fields.x.on_invalid", "keep", id="keep what is invalid"),
    pytest.param(field(technique="text", min_score=2), "fields.x.min_score", "above 0", id="score 2"),
    pytest.param(field(technique="text", min_score="0.123456"), "fields.x.min_score", "above 0", id="precise score"),
    pytest.param(field(technique="text", entities=[]), "fields.x.entities", "map", id="entities as a list"),
    pytest.param(
        field(technique="text", entities={"SSN": {"technique": "mask"}}), "fields.x.entities.SSN", "SSN", id="SSN"
    ),
    pytest.param(
        field(technique="text", entities={"RRN": {"technique": "encrypt"}}, purpose="p"),
        "fields.x.entities.RRN.technique", "free text", id="encrypt in text",
    ),
    pytest.param(
        field(technique="text", others={"technique": "remove"}), "fields.x.others.technique", "free text", id="remove"
    ),
    pytest.param(
        field(technique="text", others={"technique": "date_shift", "by": "id"}),
        "fields.x.others.technique", "free text", id="shift in text",
    ),
    pytest.param(
        field(technique="text", others={"technique": "round", "to": 1, "mode": "controlled"}),
        "fields.x.others.mode", "column", id="controlled rounding in text",
    ),
    pytest.param(field(technique="text", others={"technique": "token"}), "fields.x", "purpose", id="keyed text"),
    pytest.param(
        field(technique="text", known_values={"who": {"technique": "mask"}}),
        "fields.x.known_values.who", "no other field", id="known values of nobody",
    ),
    pytest.param(
        field(technique="text", known_values={"x": {"technique": "mask"}}),
        "fields.x.known_values.x", "no other field", id="known values of itself",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "path", "words"), BAD)
def test_bad_policies_are_refused_at_their_place(value, path, words):
    with pytest.raises(PolicyError) as caught:
        CompiledPolicy.from_map(value)
    error = caught.value
    assert ".".join(map(str, error.path)) == path
    assert words in error.problem
    assert error.code == "bad_policy"
    if not isinstance(value, dict) or "\ud800" in repr(value) or "\\ud800" in repr(value):
        return
    with pytest.raises(PolicyError):
        CompiledPolicy.from_bytes(cbor2.dumps(value, canonical=True))


def test_an_age_needs_a_reference_date(policy):
    with pytest.raises(PolicyError, match="age"):
        policy({"x": {"technique": "generalise", "as": "age"}})
    policy({"x": {"technique": "generalise", "as": "age", "source": "age"}})


def test_limits():
    many = {f"f{n}": {"technique": "keep"} for n in range(MAX_FIELDS + 1)}
    with pytest.raises(PolicyError, match="limit"):
        CompiledPolicy.from_map(everything(fields=many))
    del many["f0"]
    assert len(CompiledPolicy.from_map(everything(fields=many)).fields) == MAX_FIELDS
    with pytest.raises(PolicyError, match="limit"):
        CompiledPolicy.from_bytes(bytes(MAX_POLICY_BYTES + 1))
    large = {f"f{n}": {"technique": "replace", "one_of": ["x" * 256] * 256} for n in range(5)}
    with pytest.raises(PolicyError, match="limit"):
        CompiledPolicy.from_map(everything(fields=large))


# From bytes


def test_only_the_canonical_encoding_is_taken():
    policy = CompiledPolicy.from_map(everything())
    value = cbor2.loads(policy.to_bytes())
    reordered = cbor2.dumps(dict(reversed(value.items())))
    sparse = cbor2.dumps({"version": 1, "name": "x", "fields": {"x": {"technique": "mask"}}}, canonical=True)
    for data in (reordered, sparse, policy.to_bytes() + b"\0"):
        with pytest.raises(PolicyError):
            CompiledPolicy.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xbf\xff",
        b"\xa0",
        b"\x81" * 100 + b"\xa0",
        b"\xa1\x61a\xa1\x61a" * 3,
        cbor2.dumps({"version": 1.0, "name": "x", "fields": {"x": {"technique": "keep"}}}),
        cbor2.dumps({"version": 1, "name": b"x", "fields": {b"x": {"technique": "keep"}}}),
        cbor2.dumps({"version": 1, "name": "x", "fields": {1: {"technique": "keep"}}}),
        cbor2.dumps({"version": 1, "name": "x", "fields": {None: None}}),
        cbor2.dumps(cbor2.CBORTag(258, [1, 2])),
        cbor2.dumps({"version": cbor2.undefined}),
    ],
)
def test_bytes_that_are_no_policy(data):
    with pytest.raises(PolicyError):
        CompiledPolicy.from_bytes(data)


BYTES = CompiledPolicy.from_map(everything()).to_bytes()


def only_our_errors(data: bytes) -> None:
    try:
        policy = CompiledPolicy.from_bytes(data)
    except PolicyError:
        return
    assert policy.to_bytes() == data


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(BYTES) - 1), st.integers(0, 255))
def test_any_changed_byte(at, value):
    only_our_errors(BYTES[:at] + bytes([value]) + BYTES[at + 1 :])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(BYTES)), st.integers(0, len(BYTES)), st.binary(max_size=8))
def test_any_cut_and_paste(a, b, middle):
    only_our_errors(BYTES[: min(a, b)] + middle + BYTES[max(a, b) :])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes(data):
    only_our_errors(data)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(), st.text(max_size=8), st.binary(max_size=4),
    st.sampled_from(sorted({*TECHNIQUES, *ENTITIES, "digits", "age", "p", "x", "0.5", "2026-01-01", "suppress"})),
)  # fmt: skip
OPTIONS = sorted(
    {key for rule in FIELDS.values() for key in rule}
    | {
        "keep_last",
        "alphabet",
        "min_length",
        "max_length",
        "mode",
        "format",
        "prefix",
        "normalise",
        "scope",
        "pad",
    }
    | {"days", "distribution", "decimals", "maximum", "bottom", "label", "source"}
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(OPTIONS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.one_of(
            trees,
            st.dictionaries(st.sampled_from(OPTIONS), trees, max_size=5),
            st.tuples(
                st.sampled_from(sorted(FIELDS)), st.dictionaries(st.sampled_from(OPTIONS), trees, max_size=2)
            ).map(lambda pair: FIELDS[pair[0]] | pair[1]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_rules(rules):
    """Whatever the rules, a policy is made or a PolicyError is raised, from the map and from bytes."""
    value = everything(fields=rules | {"keep": {"technique": "keep"}, "name": {"technique": "keep"}})
    try:
        policy = CompiledPolicy.from_map(value)
    except PolicyError:
        pass
    else:
        assert CompiledPolicy.from_bytes(policy.to_bytes()) == policy
    try:
        data = cbor2.dumps(value, canonical=True)
    except Exception:  # lone surrogates and the like, which CBOR can't carry
        return
    only_our_errors(data)
