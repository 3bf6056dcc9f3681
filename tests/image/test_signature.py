"""The signature section and PCR8 (nitro.md §1.4, §1.5), and PCRs of texts."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from geumgo.codec.cose import Algorithm, CoseSign1
from geumgo.image import (
    EifError,
    ImageError,
    Part,
    SectionType,
    describe,
    measure,
    pcr_of_certificate,
    pcr_of_text,
    read_eif,
    verify,
    write_eif,
)
from geumgo.image._signature import parse_signature

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NOW_MS = int(dt.datetime(2026, 6, 1, tzinfo=dt.UTC).timestamp() * 1000)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def certificate(key: Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "금고 signer")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(START)
        .not_valid_after(START + dt.timedelta(days=365))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384())
    )


def pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def section(cert: bytes, cose: bytes, *, as_ints: bool = True) -> bytes:
    shape: Callable[[bytes], Any] = list if as_ints else bytes
    return cbor2.dumps([{"signing_certificate": shape(cert), "signature": shape(cose)}])


def cose(key: ec.EllipticCurvePrivateKey, pcr0: bytes, *, index: int = 0, as_ints: bool = True) -> bytes:
    payload = cbor2.dumps({"register_index": index, "register_value": list(pcr0) if as_ints else pcr0})
    return CoseSign1.sign(payload, key, Algorithm.of_key(key)).encode()


@pytest.fixture
def sign(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> Callable[..., Path]:
    """Write a small image with a signature section."""

    def write(
        data: bytes | None = None, *, key: ec.EllipticCurvePrivateKey | None = None, **options: Any
    ) -> Path:
        plain = write_eif(tmp_path / "plain.eif", make_parts())
        key = key or ec.generate_private_key(ec.SECP384R1())
        if data is None:
            pcr0 = options.pop("pcr0", bytes.fromhex(plain.pcr0))
            data = section(pem(certificate(key)), cose(key, pcr0, **options))
        write_eif(tmp_path / "signed.eif", [*make_parts(), Part(SectionType.SIGNATURE, data)])
        return tmp_path / "signed.eif"

    return write


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("as_ints", [True, False])
def test_signed_image(sign: Callable[..., Path], curve: ec.EllipticCurve, as_ints: bool) -> None:
    key = ec.generate_private_key(curve)
    path = sign(key=key, as_ints=as_ints)
    signature = read_eif(path).signature
    assert signature is not None
    der = signature.certificate
    assert x509.load_der_x509_certificate(der).serial_number == 5
    expected = hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    measured = measure(read_eif(path))
    assert measured.pcr8 == expected == measured.to_json()["PCR8"]
    assert measured.pcrs()[8].hex() == expected
    found = verify(path, now_ms=NOW_MS)
    assert found.signed
    assert found.signature_ok
    assert found.certificate is not None
    assert found.certificate["Algorithm"] == "ecdsa-with-SHA384"
    assert found.certificate["NotBefore"].startswith("2026-01-01")
    shown = found.to_json()
    assert (shown["IsSigned"], shown["SignatureCheck"]) == (True, True)


def test_signing_changes_no_other_register(sign: Callable[..., Path], tmp_path: Path) -> None:
    signed = measure(read_eif(sign()))
    plain = measure(read_eif(tmp_path / "plain.eif"))
    assert (signed.pcr0, signed.pcr1, signed.pcr2) == (plain.pcr0, plain.pcr1, plain.pcr2)


def test_byte_strings_are_read_like_lists_of_integers() -> None:
    cert = pem(certificate(ec.generate_private_key(ec.SECP384R1())))
    assert parse_signature(section(cert, b"c", as_ints=False)) == parse_signature(section(cert, b"c"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pcr0": bytes(48)}, "over another PCR0"),
        ({"index": 1}, "not over PCR0"),
        ({"pcr0": b""}, "another PCR0"),
    ],
)
def test_signature_over_something_else(
    sign: Callable[..., Path], options: dict[str, Any], words: str
) -> None:
    path = sign(**options)
    with pytest.raises(EifError, match=words) as caught:
        verify(path, now_ms=NOW_MS)
    assert caught.value.code == "bad_signature"
    found = describe(path)
    assert not found.signature_ok
    assert any(words in warning for warning in found.warnings)
    assert found.to_json()["SignatureCheck"] is False


def test_signature_of_another_key(sign: Callable[..., Path], tmp_path: Path) -> None:
    sign()
    pcr0 = bytes.fromhex(measure(read_eif(tmp_path / "plain.eif")).pcr0)
    other = certificate(ec.generate_private_key(ec.SECP384R1()))
    for key in (ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())):
        path = sign(section(pem(other), cose(key, pcr0)))
        with pytest.raises(EifError, match="does not hold"):
            verify(path, now_ms=NOW_MS)


def test_keys_that_nitro_has_not(sign: Callable[..., Path]) -> None:
    edwards = certificate(ed25519.Ed25519PrivateKey.generate())
    path = sign(section(pem(edwards), b"x"))
    with pytest.raises(EifError, match="P-256"):
        verify(path, now_ms=NOW_MS)
    assert measure(read_eif(path)).pcr8 is not None


@pytest.mark.parametrize("days", [-1, 366])
def test_certificate_dates(sign: Callable[..., Path], days: int) -> None:
    at = START + dt.timedelta(days=days)
    with pytest.raises(EifError) as caught:
        verify(sign(), now_ms=int(at.timestamp() * 1000))
    assert caught.value.code == "certificate_expired"


GOOD = pem(certificate(ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        cbor2.dumps([]),
        cbor2.dumps({}),
        cbor2.dumps([1]),
        cbor2.dumps([{}]),
        section(b"", b""),
        section(b"not PEM", b""),
        section(b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", b""),
        section(b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", b""),
        section(b"-----BEGIN CERTIFICATE-----\n \n-----END CERTIFICATE-----\n", b""),
        cbor2.dumps([{"signing_certificate": [256], "signature": []}]),
        cbor2.dumps([{"signing_certificate": [True], "signature": []}]),
        cbor2.dumps([{"signing_certificate": GOOD.decode(), "signature": b""}]),
        cbor2.dumps([{"signing_certificate": GOOD, "signature": None}]),
        section(GOOD, b"") + b"\0",
    ],
)
def test_malformed_sections(sign: Callable[..., Path], data: bytes) -> None:
    with pytest.raises(EifError):
        sign(data)
    with pytest.raises(EifError):
        parse_signature(data)


def test_certificate_that_is_pem_but_no_certificate(sign: Callable[..., Path]) -> None:
    path = sign(section(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", b"x"))
    with pytest.raises(EifError, match="can't be read"):
        verify(path, now_ms=NOW_MS)


@given(st.binary(max_size=200))
def test_garbage_never_leaks_a_foreign_error(data: bytes) -> None:
    for candidate in (data, section(GOOD, data), section(data, b"x")):
        with contextlib.suppress(ImageError):
            parse_signature(candidate)


def test_registers_of_texts_and_certificates(known_values: dict[str, Any]) -> None:
    checked = 0
    for value in known_values["pcr"]:
        if value.get("input"):
            assert pcr_of_text(value["input"]) == value["value"]
            checked += 1
    assert checked >= 3
    der = x509.load_pem_x509_certificate(GOOD).public_bytes(serialization.Encoding.DER)
    expected = hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    assert pcr_of_certificate(GOOD) == expected
    with pytest.raises(EifError):
        pcr_of_certificate(b"nothing")
