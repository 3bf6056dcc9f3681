"""The measured configuration: what it says, and every way in which it may not say it."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.keys import Caller, ConfigurationError, MeasuredConfiguration, Operation, SealError
from geumgo.keys.configuration import MAX_CONFIGURATION

ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/pool"
OTHER_ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/crm"
DIGEST = "0" * 64


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrapped(purpose: str, **changes: Any) -> dict[str, Any]:
    context = {"geumgo:pool": "demo", "geumgo:purpose": purpose}
    return {"key_id": ARN, "ciphertext": b64(b"wrapped"), "context": context, **changes}


BASE: dict[str, Any] = {
    "version": 1,
    "pool": "demo",
    "operations": {
        "deidentify": {"callers": ["records", "crm"]},
        "reidentify": {"callers": ["dpo"]},
        "decrypt": {"callers": ["dpo"]},
        "echo": {"open": True, "callers": []},
    },
    "callers": {
        "records": {"public_key": b64(b"r" * 32), "purposes": ["customers"], "policies": "any"},
        "crm": {
            "public_key": b64(b"c" * 32),
            "purposes": ["customers"],
            "policies": [DIGEST],
            "keys": [{"key_id": OTHER_ARN, "context": {"app": "crm"}}],
        },
        "dpo": {
            "public_key": b64(b"d" * 32),
            "purposes": ["customers"],
            "policies": "any",
            "keys": [{"key_id": OTHER_ARN, "context": {"app": "crm"}}],
        },
    },
    "kms": {"endpoint": "https://localhost:8443", "region": "ap-northeast-2", "ca": ""},
    "pool_key": wrapped("seed"),
    "purposes": {"customers": wrapped("customers")},
    "egress": ["localhost:8443"],
}


def parse(value: Any) -> MeasuredConfiguration:
    return MeasuredConfiguration.from_json(json.dumps(value).encode())


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return BASE with the value at a dotted path replaced, or removed where it is `...`."""
    result = copy.deepcopy(BASE)
    *parents, last = path.split("/")
    place: Any = result
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


def test_base_is_good() -> None:
    configuration = parse(BASE)
    assert configuration.callers["crm"].keys[0].context == {"app": "crm"}
    assert configuration.caller_keys() == {"records": b"r" * 32, "crm": b"c" * 32, "dpo": b"d" * 32}
    assert configuration.operations["echo"].open
    assert configuration.kms is not None
    assert configuration.kms.host_port() == ("localhost", 8443)


def test_json_is_deterministic_and_round_trips() -> None:
    configuration = parse(BASE)
    data = configuration.to_json()
    assert MeasuredConfiguration.from_json(data) == configuration
    assert MeasuredConfiguration.from_json(data).to_json() == data
    shuffled = dict(reversed(BASE.items()))
    shuffled["callers"] = dict(reversed(BASE["callers"].items()))
    assert parse(shuffled).to_json() == data


def test_digest_is_of_the_files_bytes() -> None:
    pretty, compact = json.dumps(BASE, indent=4).encode(), json.dumps(BASE).encode()
    for data in (pretty, compact):
        assert MeasuredConfiguration.from_json(data).digest() == hashlib.sha384(data).digest()
    made = MeasuredConfiguration(version=1, pool="demo")
    assert made.digest() == hashlib.sha384(made.to_json()).digest()


def test_smallest() -> None:
    configuration = parse({"version": 1, "pool": "one"})
    assert configuration.pool_key is None
    assert configuration.kms is None


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        pytest.param("version", 2, "version 2", id="another version"),
        pytest.param("version", ..., "version", id="no version"),
        pytest.param("version", "1", "int", id="a version in text"),
        pytest.param("pool", "", "pool", id="no pool name"),
        pytest.param("pool", "de mo", "pool", id="a space in a name"),
        pytest.param("extra", 1, "extra", id="an unknown field"),
        pytest.param("operations/echo/opne", True, "opne", id="an unknown field of an operation"),
        pytest.param("operations/de cide", {}, "operations", id="a bad operation name"),
        pytest.param("operations/deidentify", {"callers": ["nobody"]}, "nobody", id="an unknown caller"),
        pytest.param("operations/deidentify", {"callers": ["crm", "crm"]}, "twice", id="a caller twice"),
        pytest.param("operations/echo", {"open": True, "callers": ["crm"]}, "open", id="open with callers"),
        pytest.param("operations/decrypt", {"open": True}, "open", id="open decrypt"),
        pytest.param("operations/reidentify", {"open": True}, "open", id="open reidentify"),
        pytest.param("callers/crm/public_key", b64(b"c" * 31), "31 bytes", id="a short key"),
        pytest.param("callers/crm/public_key", b64(b"r" * 32), "same public key", id="a shared key"),
        pytest.param("callers/crm/public_key", "***", "base64", id="a key that is not base64"),
        pytest.param("callers/crm/purposes", ["marketing"], "marketing", id="an unknown purpose"),
        pytest.param("callers/crm/purposes", ["customers", "customers"], "twice", id="a purpose twice"),
        pytest.param("callers/crm/policies", "any", "any policy", id="any policy with encrypted fields"),
        pytest.param("callers/crm/policies", "all", "policies", id="another word than any"),
        pytest.param("callers/crm/policies", ["F" * 64], "SHA-256", id="upper-case digest"),
        pytest.param("callers/crm/policies", ["0" * 63], "SHA-256", id="a short digest"),
        pytest.param("callers/crm/keys", {"key_id": ARN}, "keys", id="keys that are no list"),
        pytest.param("callers/crm/keys", [{"key_id": ARN}], "pool's own", id="the pool's key granted"),
        pytest.param("callers/crm/keys", [{"key_id": ""}], "key_id", id="an empty key id"),
        pytest.param(
            "callers/crm/keys",
            [{"key_id": OTHER_ARN, "context": {str(n): "x" for n in range(9)}}],
            "entries",
            id="nine entries",
        ),
        pytest.param("kms", None, "kms is null", id="wrapped keys without kms"),
        pytest.param("kms/endpoint", "http://localhost:8443", "https", id="plain HTTP"),
        pytest.param("kms/endpoint", "https://u:p@localhost:8443", "https", id="a password in the URL"),
        pytest.param("kms/endpoint", "https://localhost:8443/kms", "https", id="a path"),
        pytest.param("kms/endpoint", "https://localhost:8443?x", "https", id="a query"),
        pytest.param("kms/endpoint", "https://localhost:99999", "URL", id="a port that is none"),
        pytest.param("kms/endpoint", "https://[::1", "URL", id="a broken address"),
        pytest.param("kms/endpoint", "https://other:8443", "egress", id="an endpoint that egress lacks"),
        pytest.param("kms/region", "Seoul!", "region", id="a bad region"),
        pytest.param("kms/ca", "PEM", "kms.ca", id="a CA that is none"),
        pytest.param("pool_key/context", {}, "geumgo:pool", id="a seed without context"),
        pytest.param("pool_key", wrapped("customers"), "geumgo:purpose", id="a purpose key as the seed"),
        pytest.param("purposes/customers", wrapped("seed"), "geumgo:purpose", id="the seed as a purpose key"),
        pytest.param("purposes/seed", wrapped("seed"), "seed", id="a purpose called seed"),
        pytest.param("pool_key/ciphertext", "", "ciphertext", id="nothing wrapped"),
        pytest.param("pool_key/ciphertext", b64(bytes(6145)), "ciphertext", id="too much wrapped"),
        pytest.param("pool_key/key_id", "a\nb", "key_id", id="a line break"),
        pytest.param("egress", ["localhost:8443", "localhost:8443"], "twice", id="egress twice"),
        pytest.param("egress", ["localhost:8443", "example.com"], "host:port", id="egress without port"),
        pytest.param("egress", ["localhost:8443", "example.com:0"], "host:port", id="port 0"),
        pytest.param("egress", ["localhost:8443", "*.com:1"], "host:port", id="a wildcard"),
        pytest.param("egress", [], "egress", id="no egress"),
    ],
)
def test_refused(path: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(changed(path, value))
    assert says in str(caught.value)
    assert caught.value.code == "configuration"


def test_keys_without_kms() -> None:
    value = changed("kms", None)
    value.update(pool_key=None, purposes={}, operations={"decrypt": {"callers": ["dpo"]}})
    value["callers"] = {"dpo": {**BASE["callers"]["dpo"], "purposes": []}}
    with pytest.raises(ConfigurationError) as caught:
        parse(value)
    assert "callers.dpo.keys" in str(caught.value)


def test_duplicate_keys_are_two_readings() -> None:
    data = b'{"version":1,"pool":"a","operations":{},"pool":"b"}'
    with pytest.raises(ConfigurationError) as caught:
        MeasuredConfiguration.from_json(data)
    assert "twice" in str(caught.value)
    nested = b'{"version":1,"pool":"a","operations":{"echo":{"open":true},"echo":{"open":false}}}'
    with pytest.raises(ConfigurationError):
        MeasuredConfiguration.from_json(nested)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"version":NaN,"pool":"a"}',
        b'{"version":1,"pool":"a"} x',
        b'\xef\xbb\xbf{"version":1,"pool":"a"}',
        b"[" * 200_000,
        b" " * (MAX_CONFIGURATION + 1),
    ],
)
def test_not_a_configuration(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        MeasuredConfiguration.from_json(data)


@settings(max_examples=200, deadline=None)
@given(
    path=st.sampled_from(
        [
            "pool",
            "operations",
            "callers",
            "callers/crm",
            "callers/crm/keys",
            "kms",
            "pool_key",
            "purposes",
            "egress",
        ]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_anything_in_any_place_is_accepted_or_our_error(path: str, value: Any) -> None:
    try:
        parse(changed(path, value)).to_json()
    except ConfigurationError:
        return


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        MeasuredConfiguration.from_json(data)


def test_authorize() -> None:
    configuration = parse(BASE)
    digest = bytes.fromhex(DIGEST)
    assert configuration.authorize("deidentify", "crm", digest).keys[0].key_id == OTHER_ARN
    assert configuration.authorize("deidentify", "records", b"x" * 32).purposes == ("customers",)
    assert configuration.authorize("decrypt", "dpo").policies == "any"
    assert configuration.authorize("echo", "crm") is configuration.callers["crm"]


@pytest.mark.parametrize(
    ("operation", "caller", "digest", "code"),
    [
        ("nothing", "crm", None, "unknown_operation"),
        ("deidentify", "nobody", None, "unknown_caller"),
        ("deidentify", "dpo", b"x" * 32, "forbidden"),
        ("reidentify", "crm", bytes.fromhex(DIGEST), "forbidden"),
        ("deidentify", "crm", b"x" * 32, "forbidden"),
    ],
)
def test_authorize_refuses(operation: str, caller: str, digest: bytes | None, code: str) -> None:
    with pytest.raises(SealError) as caught:
        parse(BASE).authorize(operation, caller, digest)
    assert caught.value.code == code


def test_an_operation_of_ones_own() -> None:
    configuration = MeasuredConfiguration(
        version=1,
        pool="hello",
        operations={"greet": Operation(callers=("ada",))},
        callers={"ada": Caller(public_key=b"a" * 32)},
    )
    configuration.check()
    assert configuration.authorize("greet", "ada").public_key == b"a" * 32


def test_example_of_the_documentation() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "spec" / "measured-configuration.md"
    example = re.search(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    MeasuredConfiguration.from_json(example[1].encode())
