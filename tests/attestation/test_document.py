"""Verification of a document: real ones, every rule of the chain, every byte of the signature."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.attestation import (
    BadCertificate,
    BadSignature,
    ExpiredCertificate,
    MalformedEvidence,
    TrustRoots,
    UntrustedRoot,
    VerificationError,
    simulator_extension,
    verify_document,
)

CLOCK = 1668034320696  # the real document's own timestamp
FIRST = int(dt.datetime(2022, 11, 9, 22, 51, 57, tzinfo=dt.UTC).timestamp()) * 1000
LAST = int(dt.datetime(2022, 11, 10, 1, 52, 0, tzinfo=dt.UTC).timestamp()) * 1000
TODAY = int(dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    "now_ms", [CLOCK, FIRST, LAST], ids=["its own time", "first instant", "last instant"]
)
def test_the_real_document_verifies_while_its_leaf_is_valid(real_document: bytes, now_ms: int) -> None:
    verified = verify_document(real_document, TrustRoots.aws_nitro(), now_ms=now_ms)
    assert verified.document.module_id == "i-04fd167167daacf3b-enc01845e97d0b3eb4e"
    assert verified.root.sha256 == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    assert not verified.simulated


@pytest.mark.parametrize(
    ("now_ms", "state"),
    [
        pytest.param(FIRST - 1000, "not valid yet", id="a second before"),
        pytest.param(FIRST - 1, "not valid yet", id="a millisecond before"),
        pytest.param(LAST + 1, "expired", id="a millisecond after"),
        pytest.param(LAST + 1000, "expired", id="a second after"),
        pytest.param(TODAY, "expired", id="today"),
        pytest.param(0, "not valid yet", id="1970"),
        pytest.param(1 << 62, "expired", id="a time without a calendar"),
        pytest.param(-1, "not valid yet", id="before 1970"),
    ],
)
def test_the_real_document_fails_outside(real_document: bytes, now_ms: int, state: str) -> None:
    with pytest.raises(ExpiredCertificate, match=state) as caught:
        verify_document(real_document, TrustRoots.aws_nitro(), now_ms=now_ms)
    assert caught.value.code == "expired_certificate"
    assert "Ask the enclave for new evidence" in caught.value.fix


def test_the_real_document_verifies_tagged(real_document: bytes) -> None:
    verify_document(b"\xd2" + real_document, TrustRoots.aws_nitro(), now_ms=CLOCK)


def test_the_real_document_with_a_bad_signature_fails_for_that_alone(fixtures: Path) -> None:
    document = (fixtures / "aws_nitro_document_bad_sig.cbor").read_bytes()
    with pytest.raises(BadSignature) as caught:
        verify_document(document, TrustRoots.aws_nitro(), now_ms=CLOCK)
    assert caught.value.code == "bad_signature"


def test_the_fixtures_root_is_the_pinned_one(fixtures: Path) -> None:
    pem = (fixtures / "aws_nitro_root_cert.pem").read_bytes()
    assert TrustRoots.from_pem(pem, simulated=False) == TrustRoots.aws_nitro()


def test_the_real_document_under_another_root_is_refused(real_document: bytes, platform: Any) -> None:
    roots = platform.trusted(platform.document())
    with pytest.raises(UntrustedRoot) as caught:
        verify_document(real_document, roots, now_ms=CLOCK)
    assert caught.value.code == "untrusted_root"


def test_a_chain_that_keeps_every_rule_verifies(platform: Any, now_ms: int) -> None:
    document = platform.document()
    verified = verify_document(document, platform.trusted(document), now_ms=now_ms)
    assert not verified.simulated


def test_aws_does_not_vouch_for_other_platforms(platform: Any, now_ms: int) -> None:
    with pytest.raises(UntrustedRoot):
        verify_document(platform.document(), TrustRoots.aws_nitro(), now_ms=now_ms)


def test_one_of_several_roots_is_enough(platform: Any, now_ms: int) -> None:
    document = platform.document()
    verify_document(document, TrustRoots.aws_nitro() | platform.trusted(document), now_ms=now_ms)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")

BROKEN: dict[str, tuple[int, dict[str, Any]]] = {
    "region is no authority": (1, {"ca": False, "path_length": None}),
    "zone is no authority": (2, {"ca": False, "path_length": None}),
    "instance is no authority": (3, {"ca": False, "path_length": None}),
    "root is no authority": (0, {"ca": False}),
    "instance has no basic constraints": (3, {"ca": None}),
    "region may not sign certificates": (1, {"signs_certificates": False}),
    "instance may not sign certificates": (3, {"signs_certificates": False}),
    "root may not sign certificates": (0, {"signs_certificates": False}),
    "zone has no key usage": (2, {"usage": False}),
    "leaf is an authority": (4, {"ca": True, "signs_certificates": True}),
    "leaf may not sign": (4, {"signs": False}),
    "leaf has no key usage": (4, {"usage": False}),
    "region allows no depth": (1, {"path_length": 0}),
    "region allows one level": (1, {"path_length": 1}),
    "zone allows no authority": (2, {"path_length": 0}),
    "region names another issuer": (1, {"issuer_name": "somebody"}),
    "leaf names another issuer": (4, {"issuer_name": "zone"}),
    "an unknown critical extension on the leaf": (4, {"more": ((UNKNOWN, True),)}),
    "an unknown critical extension on the root": (0, {"more": ((UNKNOWN, True),)}),
    "name constraints, which are not understood": (
        1,
        {"more": ((x509.NameConstraints([x509.DNSName("a.example")], None), True),)},
    ),
}


@pytest.mark.parametrize(("index", "change"), BROKEN.values(), ids=BROKEN.keys())
def test_a_chain_that_breaks_a_rule_fails(
    platform: Any, now_ms: int, index: int, change: dict[str, Any]
) -> None:
    document = platform.with_(index, **change).document()
    with pytest.raises(BadCertificate) as caught:
        verify_document(document, platform.trusted(document), now_ms=now_ms)
    assert caught.value.code == "bad_certificate"


@pytest.mark.parametrize("index", range(1, 5))
def test_a_certificate_that_another_key_signed_fails(
    platform: Any, now_ms: int, index: int, other_key: Any
) -> None:
    document = platform.with_(index, issuer_key=other_key).document()
    with pytest.raises(BadCertificate):
        verify_document(document, platform.trusted(document), now_ms=now_ms)


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"after": dt.datetime(2026, 3, 1, 11, 59, 59, tzinfo=dt.UTC)}, id="expired"),
        pytest.param({"before": dt.datetime(2026, 3, 1, 12, 0, 1, tzinfo=dt.UTC)}, id="not valid yet"),
    ],
)
def test_every_certificate_must_be_valid_now(
    platform: Any, now_ms: int, index: int, change: dict[str, Any]
) -> None:
    document = platform.with_(index, **change).document()
    name = "certificate" if index == 4 else rf"cabundle\[{index}\]"
    with pytest.raises(ExpiredCertificate, match=name):
        verify_document(document, platform.trusted(document), now_ms=now_ms)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP521R1])
def test_the_leafs_key_is_on_p384(platform: Any, now_ms: int, curve: Any, other_key: Any) -> None:
    document = platform.with_(4, key=ec.generate_private_key(curve())).document(signer=other_key)
    with pytest.raises(BadCertificate, match="P-384"):
        verify_document(document, platform.trusted(document), now_ms=now_ms)


def test_the_leafs_key_is_no_rsa_key(platform: Any, now_ms: int, rsa_key: Any, other_key: Any) -> None:
    document = platform.with_(4, key=rsa_key).document(signer=other_key)
    with pytest.raises(BadCertificate, match="P-384"):
        verify_document(document, platform.trusted(document), now_ms=now_ms)


def test_a_document_that_another_key_signed_fails(platform: Any, now_ms: int, other_key: Any) -> None:
    for signer in (other_key, platform.links[3].key, platform.links[0].key):
        document = platform.document(signer=signer)
        with pytest.raises(BadSignature):
            verify_document(document, platform.trusted(document), now_ms=now_ms)


def _bundles(chain: list[bytes]) -> dict[str, list[bytes]]:
    root, region, zone, instance = chain
    return {
        "root missing": [region, zone, instance],
        "region missing": [root, zone, instance],
        "instance missing": [root, region, zone],
        "root only": [root],
        "reversed": [instance, zone, region, root],
        "two swapped": [root, zone, region, instance],
        "one twice": [root, region, region, zone, instance],
        "root twice": [root, root, region, zone, instance],
    }


@pytest.mark.parametrize("case", _bundles([b""] * 4))
def test_the_bundle_is_the_chain_in_order(platform: Any, now_ms: int, case: str) -> None:
    *chain, leaf = platform.certificates()
    roots = platform.trusted(platform.saying(cabundle=chain, certificate=leaf).document())
    document = platform.saying(cabundle=_bundles(chain)[case], certificate=leaf).document()
    with pytest.raises((BadCertificate, UntrustedRoot)):
        verify_document(document, roots, now_ms=now_ms)


def test_a_stranger_in_the_bundle_is_noticed(platform: Any, now_ms: int, real_document: bytes) -> None:
    *chain, leaf = platform.certificates()
    roots = platform.trusted(platform.saying(cabundle=chain, certificate=leaf).document())
    stranger = platform.with_(1, name="stranger").certificates()[1]
    document = platform.saying(cabundle=[chain[0], stranger, *chain[1:]], certificate=leaf).document()
    with pytest.raises(BadCertificate):
        verify_document(document, roots, now_ms=now_ms)


def test_a_self_made_chain_behind_the_real_root_fails(platform: Any, real_document: bytes) -> None:
    """Who has AWS's published root can put it first; nothing below it is signed by its key."""
    root = cbor2.loads(cbor2.loads(real_document)[2])["cabundle"][0]
    *chain, leaf = platform.with_(1, issuer_name="aws.nitro-enclaves").certificates()
    document = platform.saying(cabundle=[root, *chain[1:]], certificate=leaf, timestamp=CLOCK).document()
    at = int(dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC).timestamp()) * 1000
    with pytest.raises(BadCertificate):
        verify_document(document, TrustRoots.aws_nitro(), now_ms=at)


def test_real_certificates_do_not_lend_themselves_to_another_signer(
    platform: Any, real_document: bytes, other_key: Any
) -> None:
    real = cbor2.loads(cbor2.loads(real_document)[2])
    document = platform.saying(cabundle=real["cabundle"], certificate=real["certificate"]).document(
        signer=other_key
    )
    with pytest.raises(BadSignature):
        verify_document(document, TrustRoots.aws_nitro(), now_ms=CLOCK)


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("marked", [None, 0, 1, 2, 3, 4])
def test_simulated_if_the_root_or_any_certificate_says_so(
    platform: Any, now_ms: int, simulated: bool, marked: int | None
) -> None:
    if marked is not None:
        platform = platform.with_(marked, more=((simulator_extension(), False),))
    document = platform.document()
    verified = verify_document(document, platform.trusted(document, simulated=simulated), now_ms=now_ms)
    assert verified.simulated is (simulated or marked is not None)


UNSIGNED: dict[str, list[Any]] = {
    "as QEMU makes it": [bytes.fromhex("a10120"), {}, None, bytes(64)],
    "with the real algorithm": [bytes.fromhex("a1013822"), {}, None, bytes(64)],
    "with a signature of zeros": [bytes.fromhex("a1013822"), {}, None, bytes(96)],
    "with no signature": [bytes.fromhex("a1013822"), {}, None, b""],
    "with another algorithm": [bytes.fromhex("a10126"), {}, None, bytes(64)],
}


@pytest.mark.parametrize("message", UNSIGNED.values(), ids=UNSIGNED.keys())
@pytest.mark.parametrize("chain", ["zeros", "the platform's"])
def test_unsigned_documents_never_verify(
    platform: Any, now_ms: int, message: list[Any], chain: str, real_document: bytes
) -> None:
    fields = cbor2.loads(cbor2.loads(platform.document())[2])
    roots = platform.trusted(platform.document())
    if chain == "zeros":
        fields |= {"certificate": bytes(64), "cabundle": [bytes(64)]}
    else:
        roots = platform.trusted(cbor2.dumps([*message[:2], cbor2.dumps(fields), b""]), simulated=True)
    document = cbor2.dumps([*message[:2], cbor2.dumps(fields), message[3]])
    for accepted in (roots, roots | TrustRoots.aws_nitro()):
        with pytest.raises((BadSignature, UntrustedRoot)):
            verify_document(document, accepted, now_ms=now_ms)


def test_qemus_document_is_called_unsigned(platform: Any, now_ms: int) -> None:
    fields = cbor2.loads(cbor2.loads(platform.document())[2]) | {
        "certificate": bytes(64),
        "cabundle": [bytes(64)],
    }
    document = cbor2.dumps([bytes.fromhex("a10120"), {}, cbor2.dumps(fields), bytes(64)])
    with pytest.raises(BadSignature, match="-1") as caught:
        verify_document(document, TrustRoots.aws_nitro(), now_ms=now_ms)
    assert "QEMU" in caught.value.diagnostics()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"certificate": b"\x30\x00"}, id="an empty sequence"),
        pytest.param({"certificate": b"leaf"}, id="no DER"),
        pytest.param({"certificate": b"-----BEGIN CERTIFICATE-----\n"}, id="PEM"),
    ],
)
def test_a_certificate_that_is_none_is_malformed(platform: Any, now_ms: int, change: dict[str, Any]) -> None:
    document = platform.saying(**change).document()
    with pytest.raises(MalformedEvidence):
        verify_document(document, platform.trusted(document), now_ms=now_ms)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xd2", b"{}", bytes(5000), b"\xff" * 100], ids=len)
def test_what_is_no_document_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        verify_document(data, TrustRoots.aws_nitro(), now_ms=CLOCK)
    assert caught.value.code == "malformed"
    assert caught.value.fix


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_single_flipped_byte_fails(flippable: tuple[bytes, TrustRoots, int], data: st.DataObject) -> None:
    document, roots, now_ms = flippable
    damaged = bytearray(document)
    damaged[data.draw(st.integers(0, len(document) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        verify_document(bytes(damaged), roots, now_ms=now_ms)


def test_the_frames_bytes_fail_under_every_change(flippable: tuple[bytes, TrustRoots, int]) -> None:
    """The CBOR frame is not signed as such; each of its bytes is tried with every value."""
    document, roots, now_ms = flippable
    for place in [*range(9), len(document) - 98, len(document) - 97]:
        for value in set(range(256)) - {document[place]}:
            damaged = bytearray(document)
            damaged[place] = value
            with pytest.raises(VerificationError):
                verify_document(bytes(damaged), roots, now_ms=now_ms)


def test_a_real_document_with_a_flipped_byte_fails(real_document: bytes) -> None:
    generator = random.Random(20221109)
    for place in generator.sample(range(len(real_document)), 60):
        damaged = bytearray(real_document)
        damaged[place] ^= 1 << generator.randrange(8)
        with pytest.raises(VerificationError):
            verify_document(bytes(damaged), TrustRoots.aws_nitro(), now_ms=CLOCK)


def test_every_cut_fails(platform: Any, now_ms: int) -> None:
    document = platform.document()
    roots = platform.trusted(document)
    for size in range(0, len(document), 53):
        with pytest.raises(VerificationError):
            verify_document(document[:size], roots, now_ms=now_ms)
    with pytest.raises(VerificationError):
        verify_document(document + b"\x00", roots, now_ms=now_ms)


@pytest.fixture(scope="module")
def flippable(platform: Any) -> tuple[bytes, TrustRoots, int]:
    document = platform.document()
    at = int(dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC).timestamp()) * 1000
    return document, platform.trusted(document), at


@pytest.mark.filterwarnings("ignore")
def test_a_certificate_whose_number_is_not_positive_is_malformed(
    damaged_certificates: Callable[[int, int, int], bytes], flippable: tuple[bytes, TrustRoots, int]
) -> None:
    # Byte 15 is the first of the serial number; its highest bit is the sign. cryptography only warns.
    fields = cbor2.loads(cbor2.loads(flippable[0])[2])
    assert fields["certificate"][13] == 2  # INTEGER
    with pytest.raises(MalformedEvidence):
        verify_document(damaged_certificates(4, 15, 0x80), flippable[1], now_ms=flippable[2])


def test_a_certificate_whose_signature_leaves_out_bits_is_malformed(
    damaged_certificates: Callable[[int, int, int], bytes], flippable: tuple[bytes, TrustRoots, int]
) -> None:
    # cryptography reads such a BIT STRING as the whole signature, so one certificate would have two encodings.
    for index, der in enumerate(cbor2.loads(cbor2.loads(flippable[0])[2])["cabundle"][1:], start=1):
        unused = len(der) - len(x509.load_der_x509_certificate(der).signature) - 1
        with pytest.raises(VerificationError):
            verify_document(damaged_certificates(index, unused, 1), flippable[1], now_ms=flippable[2])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4), st.data())
def test_damaged_certificates_give_errors_of_ours_only(
    damaged_certificates: Callable[[int, int, int], bytes],
    flippable: tuple[bytes, TrustRoots, int],
    index: int,
    data: st.DataObject,
) -> None:
    """The document is signed anew, so that the damage reaches the certificate's parser."""
    place, mask = data.draw(st.integers(0, 2000)), data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        verify_document(damaged_certificates(index, place, mask), flippable[1], now_ms=flippable[2])


@pytest.fixture(scope="module")
def damaged_certificates(
    platform: Any, flippable: tuple[bytes, TrustRoots, int]
) -> Callable[[int, int, int], bytes]:
    fields = cbor2.loads(cbor2.loads(flippable[0])[2])
    chain = [*fields["cabundle"], fields["certificate"]]

    def make(index: int, place: int, mask: int) -> bytes:
        certificates = [bytearray(certificate) for certificate in chain]
        certificates[index][place % len(certificates[index])] ^= mask
        *bundle, leaf = (bytes(certificate) for certificate in certificates)
        return platform.saying(cabundle=bundle, certificate=leaf).document()

    return make
