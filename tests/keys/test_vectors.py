"""docs/spec/vectors/sealed-request.json: made by a second implementation of the specification, opened by ours.

The second implementation below is written from docs/spec/sealed-request.md and RFC 9180 alone, with ephemeral
keys that it chooses, so that the file is the same each time. ``python tests/keys/test_vectors.py`` writes it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from geumgo.keys import (
    SUITE,
    AnswerError,
    AnswerOpener,
    OperationFailed,
    PoolKeyPair,
    RoutingHeader,
    SealError,
    open_request,
)

FILE = Path(__file__).resolve().parents[2] / "docs" / "spec" / "vectors" / "sealed-request.json"
NOW = 1_800_000_000_000


def u(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


# RFC 9180: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002, mode base 0x00.

KEM_ID = b"KEM" + u(0x20, 2)
HPKE_ID = b"HPKE" + u(0x20, 2) + u(1, 2) + u(2, 2)


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return hmac.digest(prk, u(size, 2) + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:size]


def derive_key_pair(ikm: bytes) -> X25519PrivateKey:
    prk = labeled_extract(KEM_ID, b"", b"dkp_prk", ikm)
    return X25519PrivateKey.from_private_bytes(labeled_expand(KEM_ID, prk, b"sk", b"", 32))


def hpke_seal(ephemeral: X25519PrivateKey, recipient: bytes, info: bytes, plaintext: bytes) -> bytes:
    enc = ephemeral.public_key().public_bytes_raw()
    dh = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    prk = labeled_extract(KEM_ID, b"", b"eae_prk", dh)
    shared = labeled_expand(KEM_ID, prk, b"shared_secret", enc + recipient, 32)
    context = b"\0" + labeled_extract(HPKE_ID, b"", b"psk_id_hash", b"")
    context += labeled_extract(HPKE_ID, b"", b"info_hash", info)
    secret = labeled_extract(HPKE_ID, shared, b"secret", b"")
    key = labeled_expand(HPKE_ID, secret, b"key", context, 32)
    nonce = labeled_expand(HPKE_ID, secret, b"base_nonce", context, 12)
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")


# docs/spec/sealed-request.md


def named(text: str) -> bytes:
    return u(len(text), 1) + text.encode()


def make_request(pool: bytes, caller: str, signer: Ed25519PrivateKey, case: dict[str, Any]) -> dict[str, Any]:
    key_id = hashlib.sha256(pool).digest()
    policy, body = bytes.fromhex(case["policy"]), bytes.fromhex(case["body"])
    request_id = bytes.fromhex(case["request_id"])
    reply = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["reply_private_key"]))
    header = u(case["sequence"], 8) + u(int(case["last"]), 1) + u(case["deadline_ms"], 8) + request_id
    header += hashlib.sha256(policy).digest() + reply.public_key().public_bytes_raw()
    header += named(case["operation"]) + named(caller)
    to_be_signed = b"geumgo/sig/v1" + key_id + header + hashlib.sha256(body).digest()
    signature = signer.sign(to_be_signed)
    plaintext = u(len(header), 2) + header + u(len(policy), 4) + policy + u(len(body), 4) + body + signature
    clear = b"\x01" + key_id + request_id + u(case["deadline_ms"], 8) + named(case["operation"])
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["ephemeral_private_key"]))
    request = clear + hpke_seal(ephemeral, pool, b"geumgo/req/v1" + key_id, plaintext)
    return {
        **case,
        "reply_public_key": reply.public_key().public_bytes_raw().hex(),
        "header": header.hex(),
        "to_be_signed": to_be_signed.hex(),
        "signature": signature.hex(),
        "plaintext": plaintext.hex(),
        "request": request.hex(),
        "request_sha256": hashlib.sha256(request).hexdigest(),
    }


def make_answer(request: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    if case["kind"] == "answer":
        plaintext = b"\0" + bytes.fromhex(case["body"])
    else:
        plaintext = b"\x01" + u(int(case["retryable"]), 1) + named(case["code"]) + case["detail"].encode()
    info = b"geumgo/res/v1" + bytes.fromhex(request["request_sha256"])
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["ephemeral_private_key"]))
    answer = b"\x01" + hpke_seal(ephemeral, bytes.fromhex(request["reply_public_key"]), info, plaintext)
    return {**case, "plaintext": plaintext.hex(), "answer": answer.hex()}


def key(label: str) -> bytes:
    return hashlib.sha256(b"geumgo test vector: " + label.encode()).digest()


def make() -> dict[str, Any]:
    seed = key("pool seed")
    private = derive_key_pair(seed)
    pool = private.public_key().public_bytes_raw()
    signer = Ed25519PrivateKey.from_private_bytes(key("caller"))
    cases = [
        (
            "one batch",
            "deidentify",
            0,
            True,
            b"compiled policy",
            b'{"columns":["name"],"rows":[["\xed\x99\x8d"]]}',
        ),
        ("third of a stream", "deidentify", 2, False, b"", b""),
        ("largest numbers and names", "o" * 64, 2**64 - 1, True, b"\0" * 3, b"\xff" * 40),
    ]
    requests = []
    for name, operation, sequence, last, policy, body in cases:
        request = make_request(
            pool,
            "records",
            signer,
            {
                "name": name,
                "operation": operation,
                "request_id": key(f"{name} id")[:16].hex(),
                "sequence": sequence,
                "last": last,
                "deadline_ms": NOW + 30_000,
                "policy": policy.hex(),
                "body": body.hex(),
                "reply_private_key": key(f"{name} reply").hex(),
                "ephemeral_private_key": key(f"{name} ephemeral").hex(),
            },
        )
        answers = [
            {"kind": "answer", "body": b'{"rows":[]}'.hex()},
            {"kind": "answer", "body": ""},
            {
                "kind": "failure",
                "code": "invalid_request",
                "retryable": False,
                "detail": "행 3에 이름이 없습니다",
            },
            {"kind": "failure", "code": "busy", "retryable": True, "detail": ""},
        ]
        request["answers"] = [
            make_answer(request, {**answer, "ephemeral_private_key": key(f"{name} answer {n}").hex()})
            for n, answer in enumerate(answers)
        ]
        requests.append(request)
    return {
        "description": "Sealed requests and answers, docs/spec/sealed-request.md. Binary values are in hex.",
        "suite": SUITE,
        "now_ms": NOW,
        "pool": {
            "seed": seed.hex(),
            "private_key": private.private_bytes_raw().hex(),
            "public_key": pool.hex(),
            "key_id": hashlib.sha256(pool).hexdigest(),
        },
        "caller": {
            "name": "records",
            "private_key": key("caller").hex(),
            "public_key": signer.public_key().public_bytes_raw().hex(),
        },
        "requests": requests,
        "refused": make_refused(requests, pool, signer),
    }


def make_refused(
    requests: list[dict[str, Any]], pool: bytes, signer: Ed25519PrivateKey
) -> list[dict[str, Any]]:
    good = bytes.fromhex(requests[0]["request"])
    base = {name: value for name, value in requests[0].items() if name != "name"}
    stranger = Ed25519PrivateKey.from_private_bytes(key("stranger"))
    plaintext = bytes.fromhex(requests[0]["plaintext"])
    clear = good[: 58 + len("deidentify")]
    info = b"geumgo/req/v1" + hashlib.sha256(pool).digest()
    ephemeral = X25519PrivateKey.from_private_bytes(key("refused"))

    def reseal(changed: bytes) -> bytes:
        return clear + hpke_seal(ephemeral, pool, info, changed)

    other_policy = plaintext.replace(b"compiled policy", b"another policy!")
    cases: list[tuple[str, bytes, str, int]] = [
        ("empty", b"", "malformed", NOW),
        ("another version", b"\x02" + good[1:], "malformed", NOW),
        ("another key id", good[:1] + bytes(32) + good[33:], "reattest", NOW),
        ("relabelled operation", good.replace(b"\x0adeidentify", b"\x0areidentify"), "malformed", NOW),
        ("relabelled request id", good[:33] + bytes(16) + good[49:], "malformed", NOW),
        ("relabelled deadline", good[:49] + u(NOW + 60_000, 8) + good[57:], "malformed", NOW),
        ("last byte flipped", good[:-1] + bytes([good[-1] ^ 1]), "malformed", NOW),
        ("last byte missing", good[:-1], "malformed", NOW),
        ("another policy in the seal", reseal(other_policy), "malformed", NOW),
        ("another signature", reseal(plaintext[:-1] + bytes([plaintext[-1] ^ 1])), "unknown_caller", NOW),
        ("a byte after the signature", reseal(plaintext + b"\0"), "malformed", NOW),
        ("signed by a stranger", b"", "unknown_caller", NOW),
        ("at the deadline", good, "deadline_exceeded", NOW + 30_000),
    ]
    refused = []
    for name, request, code, now in cases:
        if name == "signed by a stranger":
            request = bytes.fromhex(make_request(pool, "records", stranger, base)["request"])
        refused.append({"name": name, "request": request.hex(), "now_ms": now, "code": code})
    return refused


def encode() -> str:
    return json.dumps(make(), indent=1, ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def vectors() -> Any:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_file_is_what_the_second_implementation_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == encode(), (
        "run python tests/keys/test_vectors.py and look at the diff"
    )


def test_second_implementation_follows_rfc_9180() -> None:
    """RFC 9180 appendix A.1.1 gives the shared DH steps for AES-128-GCM; here the key pair and encapsulation."""
    ikm = bytes.fromhex("7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234")
    ephemeral = derive_key_pair(ikm)
    assert ephemeral.public_key().public_bytes_raw().hex() == (
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
    )


def test_pool(vectors: Any) -> None:
    pair = PoolKeyPair.from_seed(bytes.fromhex(vectors["pool"]["seed"]))
    assert pair.private.private_bytes_raw().hex() == vectors["pool"]["private_key"]
    assert (pair.public.raw.hex(), pair.key_id.hex()) == (
        vectors["pool"]["public_key"],
        vectors["pool"]["key_id"],
    )
    assert vectors["suite"] == SUITE


def callers(vectors: Any) -> dict[str, bytes]:
    return {vectors["caller"]["name"]: bytes.fromhex(vectors["caller"]["public_key"])}


def test_requests_open(vectors: Any) -> None:
    pair = PoolKeyPair.from_seed(bytes.fromhex(vectors["pool"]["seed"]))
    for case in vectors["requests"]:
        request = bytes.fromhex(case["request"])
        opened = open_request(request, pair, callers(vectors), now_ms=vectors["now_ms"])
        assert opened.operation == RoutingHeader.parse(request).operation == case["operation"]
        assert (opened.sequence, opened.last, opened.deadline_ms) == (
            case["sequence"],
            case["last"],
            case["deadline_ms"],
        )
        found = {
            "request_id": opened.request_id,
            "policy": opened.policy,
            "body": opened.body,
            "reply_public_key": opened.reply_key,
            "request_sha256": opened.digest,
        }
        assert {name: value.hex() for name, value in found.items()} == {name: case[name] for name in found}


def test_answers_open(vectors: Any) -> None:
    for case in vectors["requests"]:
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["reply_private_key"]))
        digest = bytes.fromhex(case["request_sha256"])
        opener = AnswerOpener(private, digest, bytes.fromhex(case["request_id"]))
        other = AnswerOpener(private, hashlib.sha256(digest).digest(), bytes(16))
        for answer in case["answers"]:
            data = bytes.fromhex(answer["answer"])
            with pytest.raises(AnswerError):
                other.open(data)
            if answer["kind"] == "answer":
                assert opener.open(data).hex() == answer["body"]
                continue
            with pytest.raises(OperationFailed) as caught:
                opener.open(data)
            assert (caught.value.code, caught.value.detail, caught.value.retryable) == (
                answer["code"],
                answer["detail"],
                answer["retryable"],
            )


def test_refused(vectors: Any) -> None:
    pair = PoolKeyPair.from_seed(bytes.fromhex(vectors["pool"]["seed"]))
    for case in vectors["refused"]:
        with pytest.raises(SealError) as caught:
            open_request(bytes.fromhex(case["request"]), pair, callers(vectors), now_ms=case["now_ms"])
        assert caught.value.code == case["code"], case["name"]


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(encode(), encoding="utf-8")
