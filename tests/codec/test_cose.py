"""COSE_Sign1: vectors of the COSE working group, a real document, and everything that must not pass."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.codec.cose import Algorithm, CoseError, CoseSign1, CoseSignatureError

CURVES = {Algorithm.ES256: ec.SECP256R1, Algorithm.ES384: ec.SECP384R1, Algorithm.ES512: ec.SECP521R1}
KEYS = {algorithm: ec.generate_private_key(curve()) for algorithm, curve in CURVES.items()}
CONTENT = b"This is the content."


@dataclass(frozen=True)
class Vector:
    """One of github.com/cose-wg/Examples, ecdsa-examples/."""

    algorithm: Algorithm
    x: str
    y: str
    message: str

    def key(self) -> ec.EllipticCurvePublicKey:
        def number(text: str) -> int:
            return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")

        return ec.EllipticCurvePublicNumbers(
            number(self.x), number(self.y), CURVES[self.algorithm]()
        ).public_key()


VECTORS = {
    "ecdsa-sig-01": Vector(
        Algorithm.ES256,
        "usWxHK2PmfnHKwXPS54m0kTcGJ90UiglWiGahtagnv8",
        "IBOL-C3BttVivg-lSreASjpkttcsz-1rb7btKLv8EX4",
        "D28445A201260300A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DC"
        "A25DAB3C2E56A551CE5705B793914348E172727F48461FABBBA2E343492DDECAC3983686250BC68E9F1A7A07D41225B59F",
    ),
    "ecdsa-sig-02": Vector(
        Algorithm.ES384,
        "kTJyP2KSsBBhnb4kjWmMF7WHVsY55xUPgb7k64rDcjatChoZ1nvjKmYmPh5STRKc",
        "mM0weMVU2DKsYDxDJkEP9hZiRZtB8fPfXbzINZj_fF7YQRynNWedHEyzAJOX2e8s",
        "D28444A1013822A104445033383454546869732069732074686520636F6E74656E742E5860B8F85EFF78C88F5351CED2F1887B"
        "79B296490795594B62E41E22529BB90208B7D8CDDD4A46D0E9C986464D83D0A5D1EDF39B3E2C5750364230D0E8D76460D8808E"
        "76C83830FBBD1978CC174066EB437F17887979ECF027DCC9D51BAF6C4FD8C0",
    ),
    "ecdsa-sig-03": Vector(
        Algorithm.ES512,
        "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
        "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
        "D28444A1013823A104581E62696C626F2E62616767696E7340686F626269746F6E2E6578616D706C6554546869732069732074"
        "686520636F6E74656E742E5884000F348009BADC7DA478150AA7FA06DFD812CDF826344F17C7330563573D8F97F7A966924C3D"
        "88B108907235476E3F6BEA9F3890027792B0F94E905C217227CF064E00A6BC6A5187D0DF9B1DB7675AECFC678CE4692A8121EB"
        "8170F3592A859D518FD3B823091AAB22E6C41EB97ED92127CE8C46DCC715A247CB78921FAD1E19133AFC30",
    ),
}


@pytest.fixture(scope="session")
def real_document() -> bytes:
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = root / "fixtures" / "aws_nitro_document.cbor"
    if not path.is_file():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return path.read_bytes()


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_the_working_groups_vectors_verify(vector: Vector) -> None:
    data = bytes.fromhex(vector.message)
    message = CoseSign1.parse(data, allow_unprotected=True)
    assert message.verify(vector.key(), vector.algorithm) == CONTENT
    assert message.tagged
    assert message.encode() == data


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_unprotected_headers_are_refused_unless_the_format_has_them(vector: Vector) -> None:
    with pytest.raises(CoseError, match="unprotected"):
        CoseSign1.parse(bytes.fromhex(vector.message))


def test_an_algorithm_that_is_not_protected_is_none() -> None:
    # cose-wg/Examples, sign1-tests/sign-pass-01.json: the algorithm is in the unprotected header.
    data = bytes.fromhex(
        "D28441A0A201260442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA25D"
        "AB3C2E56A551CE5705B793914348E11A02E5F0344BF2D4EE5C7FD75A68A9F5E0B3CC1F1FC1409C189566586FF9D610"
    )
    with pytest.raises(CoseError):
        CoseSign1.parse(data, allow_unprotected=True)


def test_es512_on_p256_is_refused() -> None:
    # cose-wg/Examples, ecdsa-examples/ecdsa-sig-04.json: valid there, but a curve has one algorithm here.
    data = bytes.fromhex(
        "D28444A1013823A10442313154546869732069732074686520636F6E74656E742E5840EAE868ECC176883766C5DC5BA5B8DCA2"
        "5DAB3C2E56A551CE5705B793914348E14A37288571498A1B64BA08D2063B8749D75CDC9D7F61EB752D23819473F6BD65"
    )
    message = CoseSign1.parse(data, allow_unprotected=True)
    with pytest.raises(CoseError):
        message.verify(VECTORS["ecdsa-sig-01"].key(), Algorithm.ES512)


def test_a_real_document_verifies_with_its_certificates_key(real_document: bytes) -> None:
    message = CoseSign1.parse(real_document)
    certificate = x509.load_der_x509_certificate(cbor2.loads(message.payload)["certificate"])
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert message.verify(key, Algorithm.ES384) == message.payload
    assert (message.algorithm, message.tagged, len(message.signature)) == (-35, False, 96)
    assert message.encode() == real_document
    tagged = CoseSign1.parse(b"\xd2" + real_document)
    assert tagged.tagged
    assert tagged.verify(key, Algorithm.ES384) == message.payload


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("tagged", [False, True])
def test_what_is_signed_verifies(algorithm: Algorithm, tagged: bool) -> None:
    key = KEYS[algorithm]
    data = CoseSign1.sign(CONTENT, key, algorithm, tagged=tagged).encode()
    message = CoseSign1.parse(data)
    assert message.verify(key.public_key(), algorithm) == CONTENT
    assert message.tagged is tagged
    assert len(message.signature) == 2 * algorithm.coordinate_size
    assert message.protected == cbor2.dumps({1: int(algorithm)})


def test_the_protected_header_of_es384_has_the_bytes_that_nitro_writes() -> None:
    assert CoseSign1.sign(b"", KEYS[Algorithm.ES384], Algorithm.ES384).protected.hex() == "a1013822"


def test_what_a_signer_elsewhere_is_given() -> None:
    """RFC 9052 §4.4: a signer that is handed these bytes makes a signature that verifies."""
    key, algorithm = KEYS[Algorithm.ES256], Algorithm.ES256
    unsigned = CoseSign1(bytes.fromhex("a10126"), b"p", b"", int(algorithm))
    signed = unsigned.to_be_signed(b"aad")
    assert signed.hex() == "846a5369676e61747572653143a101264361616441" + b"p".hex()
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(algorithm.hash)))
    message = replace(unsigned, signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    assert message.verify(key.public_key(), algorithm, external_aad=b"aad") == b"p"


def test_external_data_is_signed_along() -> None:
    key = KEYS[Algorithm.ES256]
    message = CoseSign1.sign(CONTENT, key, Algorithm.ES256, external_aad=b"for you")
    assert message.verify(key.public_key(), Algorithm.ES256, external_aad=b"for you") == CONTENT
    for other in (b"", b"for me"):
        with pytest.raises(CoseSignatureError):
            message.verify(key.public_key(), Algorithm.ES256, external_aad=other)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("expected", list(Algorithm))
def test_only_the_expected_algorithm_is_accepted(algorithm: Algorithm, expected: Algorithm) -> None:
    message = CoseSign1.sign(CONTENT, KEYS[algorithm], algorithm)
    if algorithm is expected:
        message.verify(KEYS[algorithm].public_key(), expected)
        return
    with pytest.raises(CoseSignatureError):
        message.verify(KEYS[algorithm].public_key(), expected)
    with pytest.raises(CoseSignatureError):
        message.verify(KEYS[expected].public_key(), expected)


def test_another_key_does_not_verify() -> None:
    message = CoseSign1.sign(CONTENT, KEYS[Algorithm.ES256], Algorithm.ES256)
    with pytest.raises(CoseSignatureError) as caught:
        message.verify(ec.generate_private_key(ec.SECP256R1()).public_key(), Algorithm.ES256)
    assert caught.value.code == "bad_signature"


def test_a_key_on_another_curve_is_an_error_of_ours() -> None:
    with pytest.raises(CoseError):
        CoseSign1.sign(CONTENT, KEYS[Algorithm.ES256], Algorithm.ES384)
    with pytest.raises(CoseError):
        CoseSign1.sign(CONTENT, KEYS[Algorithm.ES384], Algorithm.ES384).verify(
            KEYS[Algorithm.ES256].public_key(), Algorithm.ES384
        )
    with pytest.raises(CoseError):
        Algorithm.of_key(ec.generate_private_key(ec.SECP256K1()))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_curve_has_one_algorithm(algorithm: Algorithm) -> None:
    assert Algorithm.of_key(KEYS[algorithm]) is algorithm
    assert Algorithm.of_key(KEYS[algorithm].public_key()) is algorithm


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(64), id="zeros, as QEMU writes them"),
        pytest.param(bytes(96), id="zeros of the right length"),
        pytest.param(b"\xff" * 96, id="out of range"),
        pytest.param(b"\x01" * 95, id="too short"),
        pytest.param(b"\x01" * 97, id="too long"),
    ],
)
def test_a_signature_that_is_none_is_refused(signature: bytes) -> None:
    message = replace(CoseSign1.sign(CONTENT, KEYS[Algorithm.ES384], Algorithm.ES384), signature=signature)
    with pytest.raises(CoseSignatureError):
        message.verify(KEYS[Algorithm.ES384].public_key(), Algorithm.ES384)


def test_a_der_signature_is_refused() -> None:
    key = KEYS[Algorithm.ES256]
    good = CoseSign1.sign(CONTENT, key, Algorithm.ES256)
    to_be_signed = cbor2.dumps(["Signature1", good.protected, b"", CONTENT])
    der = replace(good, signature=key.sign(to_be_signed, ec.ECDSA(Algorithm.ES256.hash)))
    with pytest.raises(CoseSignatureError):
        der.verify(key.public_key(), Algorithm.ES256)


PROTECTED = bytes.fromhex("a1013822")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="empty array"),
        pytest.param([PROTECTED, {}, b""], id="three elements"),
        pytest.param([PROTECTED, {}, b"", b"", b""], id="five elements"),
        pytest.param({0: PROTECTED, 1: {}, 2: b"", 3: b""}, id="a map"),
        pytest.param([PROTECTED.hex(), {}, b"", b""], id="protected is text"),
        pytest.param([{1: -35}, {}, b"", b""], id="protected is a map"),
        pytest.param([PROTECTED, [], b"", b""], id="unprotected is an array"),
        pytest.param([PROTECTED, None, b"", b""], id="unprotected is null"),
        pytest.param([PROTECTED, {}, None, b""], id="detached payload"),
        pytest.param([PROTECTED, {}, "", b""], id="payload is text"),
        pytest.param([PROTECTED, {}, b"", ""], id="signature is text"),
        pytest.param([b"", {}, b"", b""], id="no protected header"),
        pytest.param([b"\xa0", {}, b"", b""], id="no algorithm"),
        pytest.param([b"\x80", {}, b"", b""], id="protected header is an array"),
        pytest.param([b"\xa1\x01\x65ES384", {}, b"", b""], id="algorithm by name"),
        pytest.param([b"\xa1\x01\xf5", {}, b"", b""], id="algorithm is true"),
        pytest.param([PROTECTED + b"\x00", {}, b"", b""], id="bytes after the protected header"),
        pytest.param([bytes.fromhex("a20138220138 22".replace(" ", "")), {}, b"", b""], id="algorithm twice"),
        pytest.param([bytes.fromhex("a2013822028101"), {}, b"", b""], id="critical headers"),
        pytest.param([PROTECTED, {1: -7}, b"", b""], id="algorithm in both headers"),
        pytest.param(cbor2.CBORTag(98, [PROTECTED, {}, b"", b""]), id="tag of COSE_Sign"),
        pytest.param(cbor2.CBORTag(18, cbor2.CBORTag(18, [PROTECTED, {}, b"", b""])), id="tagged twice"),
        pytest.param([PROTECTED, {}, cbor2.CBORTag(18, b""), b""], id="tag inside"),
    ],
)
def test_what_is_no_cose_sign1_is_refused(value: Any) -> None:
    with pytest.raises(CoseError) as caught:
        CoseSign1.parse(cbor2.dumps(value), allow_unprotected=True)
    assert caught.value.code == "malformed"


def test_trailing_bytes_and_size_are_refused() -> None:
    data = CoseSign1.sign(CONTENT, KEYS[Algorithm.ES256], Algorithm.ES256).encode()
    with pytest.raises(CoseError):
        CoseSign1.parse(data + b"\x00")
    with pytest.raises(CoseError) as caught:
        CoseSign1.parse(data, max_size=len(data) - 1)
    assert caught.value.code == "too_large"


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\x84\x44\xa1\x01\x38\x22" + tail))
def test_any_bytes_give_a_message_or_our_error(data: bytes) -> None:
    try:
        message = CoseSign1.parse(data, allow_unprotected=True)
    except CoseError:
        return
    with pytest.raises(CoseError):
        message.verify(KEYS[Algorithm.ES384].public_key(), Algorithm.ES384)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_flipped_bit_is_noticed(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    data = CoseSign1.sign(b"payload", key, algorithm).encode()
    for place in range(len(data)):
        for bit in (1, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= bit
            with pytest.raises(CoseError):
                CoseSign1.parse(bytes(damaged)).verify(key.public_key(), algorithm)
