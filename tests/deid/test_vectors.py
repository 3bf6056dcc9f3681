"""docs/spec/vectors/compiled-policy.json: made by a second implementation of the specification, met by ours.

The second implementation follows docs/spec/compiled-policy.md with the standard library and bare AES.
``python tests/deid/test_vectors.py`` writes the file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as Aes
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from geumgo.client.policy import compile_policy
from geumgo.deid import CompiledPolicy, Engine

FILE = Path(__file__).resolve().parents[2] / "docs" / "spec" / "vectors" / "compiled-policy.json"
KEY = bytes(range(32))
NONCE = bytes(range(16))
ALPHABETS = {
    "digits": "0123456789",
    "upper": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "alphanumeric": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
}

POLICIES = [
    "version: 1\nname: smallest\nfields: {x: suppress}\n",
    """version: 1
name: 고객
purpose: customers
reference_date: 2026-01-01
fields:
  이름: {technique: mask, as: name}
  rrn: {technique: token, encrypted: true}
  birth_date: {technique: generalise, as: age, top: 80}
  income: {technique: generalise, as: amount, bounds: [0, 0.5, 1000]}
  memo: {technique: text, entities: {PHONE: {technique: token, scope: phone}}, known_values: {이름: suppress}}
""",
]
CASES: list[dict[str, Any]] = [
    {"field": "name", "rule": {"technique": "pseudonym"}, "value": "홍길동"},
    {
        "field": "name",
        "rule": {"technique": "pseudonym", "format": "hex", "length": 64},
        "value": " 홍  길동 ",
    },
    {"field": "phone", "rule": {"technique": "pseudonym", "normalise": "digits"}, "value": "010-1234-5678"},
    {
        "field": "code",
        "rule": {"technique": "pseudonym", "normalise": "alphanumeric", "prefix": "c"},
        "value": "m-12",
    },
    {"field": "rrn", "rule": {"technique": "token"}, "value": "900101-1234568"},
    {"field": "phone", "rule": {"technique": "token", "keep_first": 3}, "value": "010-1234-5678"},
    {
        "field": "card",
        "rule": {"technique": "token", "keep_first": 6, "keep_last": 4},
        "value": "4111111111111111",
    },
    {"field": "passport", "rule": {"technique": "token", "alphabet": "upper"}, "value": "M123A4567"},
    {
        "field": "id",
        "rule": {"technique": "token", "alphabet": "alphanumeric", "scope": "이름"},
        "value": "aB3-xyZ9",
    },
    {
        "field": "long",
        "rule": {"technique": "token"},
        "value": "01234567890123456789012345678901234567890123456789",
    },
    {"field": "wide", "rule": {"technique": "token"}, "value": "９００１０１－１２３４５６８"},
    {"field": "name", "rule": {"technique": "encrypt", "mode": "deterministic"}, "value": "홍길동"},
    {"field": "name", "rule": {"technique": "encrypt"}, "value": "홍길동"},
    {"field": "name", "rule": {"technique": "encrypt", "pad": 1}, "value": ""},
    {
        "field": "day",
        "rule": {"technique": "date_shift", "by": "id", "days": 30},
        "value": "2026-01-01",
        "subject": "7",
    },
]


# ---- the second implementation ------------------------------------------------------------------------


def label(use: str, scope: str) -> bytes:
    return b"geumgo/deid/" + use.encode() + b"/v1\0" + len(scope.encode()).to_bytes(2, "big") + scope.encode()


def pseudonym(rule: dict[str, Any], scope: str, value: str) -> str:
    kind = rule.get("normalise", "text")
    if kind == "text":
        value = " ".join(value.split())
    elif kind == "digits":
        value = "".join(c for c in value if c in "0123456789")
    elif kind == "alphanumeric":
        value = "".join(c for c in value if c.isalnum()).upper()
    mac = hmac.digest(KEY, label("pseudonym", scope) + value.encode(), "sha256")
    text = mac.hex() if rule.get("format") == "hex" else base64.b32encode(mac).decode().lower()
    return str(rule.get("prefix", "")) + text[: rule.get("length", 20)]


def token(rule: dict[str, Any], scope: str, value: str) -> str:
    spec = importlib.util.spec_from_file_location("slow", Path(__file__).with_name("test_ff1.py"))
    assert spec is not None
    assert spec.loader is not None
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    name = rule.get("alphabet", "digits")
    alphabet = ALPHABETS[name]
    narrow = value.translate({ord("０") + i: str(i) for i in range(10)})
    symbols = [c for c in narrow if c in alphabet]
    first, last = rule.get("keep_first", 0), rule.get("keep_last", 0)
    head, middle, tail = symbols[:first], symbols[first : len(symbols) - last], symbols[len(symbols) - last :]
    bound = label("token", scope) + name.encode() + b"\0"
    if head or tail:
        bound += "".join(head).encode() + b"\0" + "".join(tail).encode()
    tweak = hashlib.sha256(bound).digest()[:8]
    numerals = slow.slow_ff1(KEY, len(alphabet), tweak, [alphabet.index(c) for c in middle])
    new = iter([*head, *(alphabet[n] for n in numerals), *tail])
    out = ""
    for old, c in zip(value, narrow, strict=True):
        if c not in alphabet:
            out += old
        else:
            symbol = next(new)
            out += symbol if old == c else chr(ord(symbol) + 0xFEE0)
    return out


def siv(key: bytes, plaintext: bytes, associated: list[bytes]) -> bytes:
    """AES-SIV, RFC 5297 §2.4 and §2.6."""

    def cmac(data: bytes) -> bytes:
        mac = CMAC(algorithms.AES(key[:32]))
        mac.update(data)
        return mac.finalize()

    def xor(a: bytes, b: bytes) -> bytes:
        return bytes(x ^ y for x, y in zip(a, b, strict=True))

    def double(block: bytes) -> bytes:
        number = int.from_bytes(block, "big") << 1
        return ((number & (1 << 128) - 1) ^ (0x87 if number >> 128 else 0)).to_bytes(16, "big")

    d = cmac(bytes(16))
    for item in associated:
        d = xor(double(d), cmac(item))
    if len(plaintext) >= 16:
        last = plaintext[:-16] + xor(plaintext[-16:], d)
    else:
        last = xor(double(d), (plaintext + b"\x80").ljust(16, b"\0"))
    v = cmac(last)
    counter = int.from_bytes(v, "big") & ~((1 << 63) | (1 << 31))
    stream = Aes(algorithms.AES(key[32:]), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    return v + stream.update(plaintext) + stream.finalize()


def encrypt(rule: dict[str, Any], scope: str, value: str) -> str:
    info = b"geumgo/deid/siv/v1"
    one = hmac.digest(KEY, info + b"\1", "sha256")
    key = one + hmac.digest(KEY, one + info + b"\2", "sha256")
    plaintext = value.encode() + b"\x80"
    plaintext += bytes(-len(plaintext) % rule.get("pad", 16))
    if rule.get("mode") == "deterministic":
        prefix, sealed = "g1d.", siv(key, plaintext, [label("encrypt", scope)])
    else:
        prefix, sealed = "g1r.", NONCE + siv(key, plaintext, [label("encrypt", scope), NONCE])
    return prefix + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def date_shift(rule: dict[str, Any], subject: str, value: str) -> str:
    from datetime import date, timedelta

    days = rule["days"]
    mac = hmac.digest(KEY, label("date_shift", rule["by"]) + subject.encode(), "sha256")
    number = int.from_bytes(mac, "big") % (2 * days)
    shift = number - days if number < days else number - days + 1
    return (date.fromisoformat(value) + timedelta(days=shift)).isoformat()


def result(case: dict[str, Any]) -> str:
    rule, scope = case["rule"], case["rule"].get("scope", case["field"])
    match rule["technique"]:
        case "pseudonym":
            return pseudonym(rule, scope, case["value"])
        case "token":
            return token(rule, scope, case["value"])
        case "encrypt":
            return encrypt(rule, scope, case["value"])
        case _:
            return date_shift(rule, case["subject"], case["value"])


def document() -> dict[str, Any]:
    return {
        "description": "Compiled policies and keyed techniques, docs/spec/compiled-policy.md. Bytes are in hex.",
        "policies": [
            {"yaml": text, "compiled": made.to_bytes().hex(), "sha256": made.digest.hex()}
            for text in POLICIES
            for made in [compile_policy(text)]
        ],
        "key": KEY.hex(),
        "nonce": NONCE.hex(),
        "values": [case | {"result": result(case)} for case in CASES],
    }


# ---- the tests ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors() -> Any:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_the_file_is_what_the_second_implementation_makes(vectors):
    assert vectors == document(), "run python tests/deid/test_vectors.py and look at the diff"


def test_policies(vectors):
    for vector in vectors["policies"]:
        policy = CompiledPolicy.from_bytes(bytes.fromhex(vector["compiled"]))
        assert policy.digest.hex() == vector["sha256"]
        assert compile_policy(vector["yaml"]) == policy


@pytest.mark.parametrize("index", range(len(CASES)))
def test_values(vectors, index):
    vector = vectors["values"][index]
    rule = vector["rule"] | {"purpose": "p"}
    policy = CompiledPolicy.from_map(
        {
            "version": 1,
            "name": "v",
            "fields": {vector["field"]: rule}
            | ({"id": {"technique": "keep"}} if "subject" in vector else {}),
        }
    )
    key, nonce = bytes.fromhex(vectors["key"]), bytes.fromhex(vectors["nonce"])
    engine = Engine(policy, lambda purpose, use: key, random=lambda size: nonce[:size])
    columns = [vector["field"], *(["id"] if "subject" in vector else [])]
    if vector["value"]:
        made = engine.deidentify(
            columns, [[vector["value"], *([vector["subject"]] if "subject" in vector else [])]]
        )
        assert made.rows[0][0] == vector["result"]
    if rule["technique"] in ("encrypt", "token"):
        assert engine.reidentify(columns, [[vector["result"]]]).rows == [[vector["value"]]]


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
