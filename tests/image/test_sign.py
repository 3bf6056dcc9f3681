"""Signing images (nitro.md §1.5): vectors, both ways of signing, what is refused, and AWS's known defects."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.image import (
    Architecture,
    EifError,
    ImageError,
    Part,
    SectionType,
    SigningError,
    attach_signature,
    build_from_directory,
    describe,
    measure,
    pcr_of_certificate,
    read_eif,
    sign_eif,
    signing_request,
    verify,
    write_eif,
)
from geumgo.image import _sign as room

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NOW_MS = int(dt.datetime(2026, 6, 1, tzinfo=dt.UTC).timestamp() * 1000)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
PROTECTED = {"ES256": "a10126", "ES384": "a1013822", "ES512": "a1013823"}
WIDTH = {"ES256": 32, "ES384": 48, "ES512": 66}
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def certificate(key: Key, *, padding: int = 0) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "금고 signer")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(START)
        .not_valid_after(START + dt.timedelta(days=365))
    )
    if padding:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(padding))
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384())
    return made.public_bytes(serialization.Encoding.PEM)


def private(key: Key, password: bytes | None = None) -> bytes:
    hidden: Any = (
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@dataclass(frozen=True)
class Signer:
    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    @classmethod
    def on(cls, curve: ec.EllipticCurve, *, padding: int = 0) -> Signer:
        key = ec.generate_private_key(curve)
        return cls(key, certificate(key, padding=padding))

    def sign(self, image: Path, output: Path, **options: Any) -> Any:
        options = {"now_ms": NOW_MS, "private_key_pem": private(self.key), **options}
        return sign_eif(image, output, certificate_pem=self.certificate, **options)


SIGNERS = {name: Signer.on(curve) for name, curve in CURVES.items()}
P384 = SIGNERS["ES384"]


def section_of(path: Path) -> bytes:
    eif = read_eif(path)
    (section,) = eif.of_kind(SectionType.SIGNATURE)
    return bytes(eif.data(section).read_at(0, section.size))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "signed.eif"


@pytest.mark.parametrize("name", CURVES)
def test_what_is_written_is_aws_format(small: Path, out: Path, name: str) -> None:
    """Read again with nothing of ours: the table, the CRC, the CBOR, the COSE message, its ECDSA."""
    signer = SIGNERS[name]
    plain = measure(read_eif(small))
    measured = signer.sign(small, out)
    data = out.read_bytes()
    (count,) = struct.unpack_from(">H", data, 0x1A)
    offsets = struct.unpack_from(">32Q", data, 0x1C)
    sizes = struct.unpack_from(">32Q", data, 0x11C)
    assert count == 6
    assert offsets[count - 1] + 12 + sizes[count - 1] == len(data)  # last, and nothing after it
    assert not any(offsets[count:])
    assert not any(sizes[count:])
    kind, flags, size = struct.unpack_from(">HHQ", data, offsets[count - 1])
    assert (kind, flags, size) == (4, 0, sizes[count - 1])
    (crc,) = struct.unpack_from(">I", data, 0x220)
    assert crc == zlib.crc32(data[0x224:], zlib.crc32(data[:0x220]))
    section = data[-size:]
    assert section.startswith(b"\x81\xa2\x73signing_certificate\x99")  # an array of integers, not a string
    ((pairs,),) = (cbor2.loads(section),)
    assert list(pairs) == ["signing_certificate", "signature"]
    assert bytes(pairs["signing_certificate"]) == signer.certificate
    message = bytes(pairs["signature"])
    assert message[0] == 0x84  # untagged
    protected, unprotected, payload, raw = cbor2.loads(message)
    assert (protected.hex(), unprotected) == (PROTECTED[name], {})
    assert payload.startswith(b"\xa2\x6eregister_index\x00\x6eregister_value\x98\x30")
    assert cbor2.loads(payload) == {"register_index": 0, "register_value": list(bytes.fromhex(plain.pcr0))}
    assert len(raw) == 2 * WIDTH[name]
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    verify_raw(signer.key.public_key(), raw, to_be_signed, name)
    assert measured == measure(read_eif(out))
    assert (measured.pcr0, measured.pcr1, measured.pcr2) == (plain.pcr0, plain.pcr1, plain.pcr2)
    der = base64.b64decode(b"".join(signer.certificate.splitlines()[1:-1]))
    assert measured.pcr8 == hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).hexdigest()
    found = verify(out, now_ms=NOW_MS)
    assert found.signature_ok
    assert not found.warnings


def verify_raw(key: ec.EllipticCurvePublicKey, raw: bytes, signed: bytes, name: str) -> None:
    half = len(raw) // 2
    hash_ = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}[name]
    der = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    key.verify(der, signed, ec.ECDSA(hash_))


VECTOR_KEY = ec.derive_private_key(0x6765756D676F, ec.SECP256R1())
VECTOR_CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIBETCBt6ADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBnZlY3RvcjAg
Fw0yNjAxMDEwMDAwMDBaGA8yMTI1MTIwODAwMDAwMFowETEPMA0GA1UEAwwGdmVj
dG9yMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2H/LgZKTX7mIEiYGOKY34WO+
P2YShmrR9eol/gEKGsEUzggB3oJqSpB4s58NQIZZcYM5TroW5dHen6GilQnpjTAK
BggqhkjOPQQDAgNJADBGAiEA9tqP8Sr06LmRowtHX5cITi9nA1rYIlxlOnbhqTH+
z3kCIQDwk9an04Us+oMeEDVUKP4kMWMlu0j6DhJZJUGLP17sRA==
-----END CERTIFICATE-----
"""


def test_vector(tmp_path: Path, out: Path) -> None:
    """The derived image of nitro.md §1.4, signed with a fixed key: RFC 6979 makes it one file."""
    parts = [
        Part(SectionType.KERNEL, b"KERNEL-BYTES"),
        Part(SectionType.CMDLINE, b"console=ttyS0"),
        Part(SectionType.METADATA, b'{"ImageName":"t"}'),
        Part(SectionType.RAMDISK, b"RAMDISK-0"),
        Part(SectionType.RAMDISK, b"RAMDISK-1"),
    ]
    write_eif(tmp_path / "v.eif", parts)
    assert hashlib.sha256((tmp_path / "v.eif").read_bytes()).hexdigest().startswith("2ad616348c11c8e3")
    request = signing_request(tmp_path / "v.eif", certificate_pem=VECTOR_CERTIFICATE, now_ms=NOW_MS)
    assert request.to_be_signed.hex() == (
        "846a5369676e61747572653143a10126405880a26e72656769737465725f696e646578006e72656769737465725f7661"
        "6c75659830185618c318b4182b187918cb187d18c91877185b1858187a188d18c5182018ac1838185418ad18a0187f18"
        "8918b2181f18f60818b9184f186818a9181818f3181c08185c18c618d2186d18f918221849181818c0183718fb18a018"
        "371833"
    )
    assert request.digest.hex() == "9a43cb2b1ce990af8ec18ce1e0c455419dc9a4b8a652b6c8668e8224ca91b7ad"
    measured = Signer(VECTOR_KEY, VECTOR_CERTIFICATE).sign(tmp_path / "v.eif", out)
    assert measured.pcr0.startswith("56c3b42b79cb7dc9")
    assert (
        measured.pcr8
        == "f4ebf3c98b8cf45f7dea8863933d86838680bf9a7ad41d4c5f07d880172dffcf35b23bbd9f3364400de74a2a3b24dbf8"
    )
    assert (
        hashlib.sha256(out.read_bytes()).hexdigest()
        == "2db768687da50c8881b47df4b74b1e5c11f0fc4674f99ad1259e59108c646952"
    )


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("form", ["der", "raw"])
def test_offline(small: Path, out: Path, name: str, form: str) -> None:
    signer = SIGNERS[name]
    request = signing_request(small, certificate_pem=signer.certificate, now_ms=NOW_MS)
    assert (request.algorithm.name, request.hash_name[4:]) == (name, name[2:])
    assert request.digest == hashlib.new(f"sha{name[2:]}", request.to_be_signed).digest()
    assert request.measurements.pcr8 == pcr_of_certificate(signer.certificate)
    # A device that takes the digest, as HSMs do.
    hash_ = request.algorithm.hash
    signature = signer.key.sign(request.digest, ec.ECDSA(Prehashed(hash_)))
    if form == "raw":
        signature = b"".join(part.to_bytes(WIDTH[name], "big") for part in decode_dss_signature(signature))
    measured = attach_signature(
        small, out, certificate_pem=signer.certificate, signature=signature, now_ms=NOW_MS
    )
    assert measured == request.measurements
    assert verify(out, now_ms=NOW_MS).signature_ok


def test_both_ways_make_the_same_file(small: Path, out: Path, tmp_path: Path) -> None:
    P384.sign(small, out)
    request = signing_request(small, certificate_pem=P384.certificate, now_ms=NOW_MS)
    signature = P384.key.sign(
        request.to_be_signed, ec.ECDSA(request.algorithm.hash, deterministic_signing=True)
    )
    other = tmp_path / "other.eif"
    attach_signature(small, other, certificate_pem=P384.certificate, signature=signature, now_ms=NOW_MS)
    P384.sign(small, tmp_path / "again.eif")
    assert out.read_bytes() == other.read_bytes() == (tmp_path / "again.eif").read_bytes()


def test_openssl_that_can_not_sign_deterministically(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ec.ECDSA

    def old(algorithm: Any, deterministic_signing: bool = False) -> ec.ECDSA:
        if deterministic_signing:
            raise UnsupportedAlgorithm("old")
        return real(algorithm)

    monkeypatch.setattr(room.ec, "ECDSA", old)
    P384.sign(small, out)
    assert verify(out, now_ms=NOW_MS).signature_ok


# ---- signing again: AWS's tool leaves the old size in the table (eif#54)


@pytest.mark.parametrize(("first", "second"), [("ES256", "ES512"), ("ES512", "ES256"), ("ES384", "ES384")])
def test_signing_again_replaces(small: Path, out: Path, tmp_path: Path, first: str, second: str) -> None:
    SIGNERS[first].sign(small, out)
    before = out.stat().st_size
    measured = SIGNERS[second].sign(out, out)  # in place
    assert verify(out, now_ms=NOW_MS).signature_ok
    assert measured.pcr8 == pcr_of_certificate(SIGNERS[second].certificate)
    assert (out.stat().st_size == before) == (first == second)
    SIGNERS[second].sign(small, tmp_path / "direct.eif")
    assert out.read_bytes() == (tmp_path / "direct.eif").read_bytes()


def test_a_stale_size_in_the_table_is_refused(small: Path, out: Path) -> None:
    """What the reference tool makes when the new signature has another length."""
    SIGNERS["ES256"].sign(small, out)
    old = len(section_of(out))
    SIGNERS["ES512"].sign(out, out)
    data = bytearray(out.read_bytes())
    struct.pack_into(">Q", data, 0x11C + 8 * 5, old)
    struct.pack_into(">I", data, 0x220, zlib.crc32(data[0x224:], zlib.crc32(data[:0x220])))
    out.write_bytes(data)
    with pytest.raises(EifError, match="by its own header"):
        verify(out, now_ms=NOW_MS)
    with pytest.raises(EifError, match="by its own header"):
        P384.sign(out, out)
    assert out.read_bytes() == data


def test_a_damaged_or_misplaced_signature_is_replaced(
    tmp_path: Path, out: Path, make_parts: Callable[..., list[Part]]
) -> None:
    parts = make_parts()
    P384.sign(write(tmp_path / "a.eif", parts), out)
    good = out.read_bytes()
    wrong = cbor2.dumps(
        [{"signing_certificate": list(SIGNERS["ES256"].certificate), "signature": list(b"no")}]
    )
    parts.insert(2, Part(SectionType.SIGNATURE, wrong))
    P384.sign(write(tmp_path / "b.eif", parts), out)
    assert out.read_bytes() == good
    kinds = [section.kind for section in read_eif(out).sections]
    assert kinds[-1] is SectionType.SIGNATURE
    assert kinds.count(SectionType.SIGNATURE) == 1


def write(path: Path, parts: list[Part], **options: Any) -> Path:
    write_eif(path, parts, **options)
    return path


@pytest.mark.parametrize("version", [3, 4])
def test_the_rest_of_the_header_stays(
    tmp_path: Path, out: Path, make_parts: Callable[..., list[Part]], version: int
) -> None:
    parts = [part for part in make_parts() if version == 4 or part.kind is not SectionType.METADATA]
    options = {"architecture": Architecture.AARCH64, "default_memory": 7 << 20, "default_cpus": 3}
    path = write(tmp_path / "x.eif", parts, version=version, **options)
    P384.sign(path, out)
    header = read_eif(out).header
    assert (header.version, header.architecture) == (version, Architecture.AARCH64)
    assert (header.default_memory, header.default_cpus) == (7 << 20, 3)


def test_versions_without_signatures(
    tmp_path: Path, out: Path, make_parts: Callable[..., list[Part]]
) -> None:
    parts = [part for part in make_parts() if part.kind is not SectionType.METADATA]
    with pytest.raises(EifError, match="version 2 can't be signed") as caught:
        P384.sign(write(tmp_path / "x.eif", parts, version=2), out)
    assert caught.value.code == "unsupported_version"


def test_unusual_images_are_not_signed(small: Path, out: Path) -> None:
    data = bytearray(small.read_bytes()) + b"tail"
    struct.pack_into(">I", data, 0x220, zlib.crc32(data[0x224:], zlib.crc32(data[:0x220])))
    small.write_bytes(data)
    with pytest.raises(EifError, match="4 bytes follow the last section") as caught:
        P384.sign(small, out)
    assert caught.value.code == "unusual_eif"
    assert not out.exists()


def test_no_section_is_left(tmp_path: Path, out: Path, make_parts: Callable[..., list[Part]]) -> None:
    parts = make_parts()
    parts += [Part(SectionType.RAMDISK, b"x")] * (32 - len(parts))
    with pytest.raises(EifError, match="at most 32 sections"):
        P384.sign(write(tmp_path / "x.eif", parts), out)
    assert not out.exists()


# ---- refused signers


@pytest.mark.parametrize(
    ("days", "words"), [(-1, "is not valid before 2026-01-01"), (366, "expired at 2027-01-01")]
)
def test_dates(small: Path, out: Path, days: int, words: str) -> None:
    now = int((START + dt.timedelta(days=days)).timestamp() * 1000)
    with pytest.raises(EifError, match=words) as caught:
        P384.sign(small, out, now_ms=now)
    assert caught.value.code == "certificate_expired"
    assert "refuses to start" in caught.value.why
    assert "--now" in caught.value.fix
    for call in (
        lambda: signing_request(small, certificate_pem=P384.certificate, now_ms=now),
        lambda: attach_signature(
            small, out, certificate_pem=P384.certificate, signature=b"x" * 96, now_ms=now
        ),
    ):
        with pytest.raises(EifError, match=words):
            call()
    assert not out.exists()


@pytest.mark.parametrize("now_ms", [-(10**30), 10**30])
def test_times_beyond_all_calendars(small: Path, out: Path, now_ms: int) -> None:
    with pytest.raises(EifError, match="ms since 1970"):
        P384.sign(small, out, now_ms=now_ms)


def test_the_clock_is_the_default(small: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - dt.timedelta(days=2))
    for days, good in ((1, True), (-1, False)):
        made = builder.not_valid_after(now + dt.timedelta(days=days)).sign(key, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM)
        if good:
            signing_request(small, certificate_pem=pem)
        else:
            with pytest.raises(EifError, match="expired"):
                signing_request(small, certificate_pem=pem)


EDWARDS = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
K1 = ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize("key", [EDWARDS, RSA, K1], ids=["ed25519", "rsa", "secp256k1"])
def test_other_kinds_of_keys(small: Path, out: Path, key: Key) -> None:
    with pytest.raises(SigningError, match="not on P-256") as caught:
        signing_request(small, certificate_pem=certificate(key), now_ms=NOW_MS)
    assert "secp384r1" in caught.value.fix
    with pytest.raises(SigningError):
        P384.sign(small, out, private_key_pem=private(key))


def test_another_key(small: Path, out: Path) -> None:
    for other in (ec.generate_private_key(ec.SECP384R1()), SIGNERS["ES256"].key):
        with pytest.raises(SigningError) as caught:
            P384.sign(small, out, private_key_pem=private(other))
        assert caught.value.code == "key_mismatch"
    assert not out.exists()


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "can't be read"),
        (b"arn:aws:kms:eu-west-1:123456789012:key/x", "can't be read"),
        (private(P384.key, b"secret"), "encrypted"),
        (P384.certificate, "can't be read"),
    ],
)
def test_unreadable_keys_are_errors_never_an_unsigned_image(
    small: Path, out: Path, pem: bytes, words: str
) -> None:
    out.write_bytes(b"before")
    with pytest.raises(SigningError, match=words) as caught:
        P384.sign(small, out, private_key_pem=pem)
    assert "signing-request" in caught.value.fix
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize(
    "pem",
    [b"", b"x", private(P384.key), b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"],
)
def test_unreadable_certificates(small: Path, out: Path, pem: bytes) -> None:
    with pytest.raises(SigningError):
        Signer(P384.key, pem).sign(small, out)
    assert not out.exists()


def test_only_the_certificate_goes_into_the_image(small: Path, out: Path) -> None:
    """AWS's tool copies the whole file, and with it a key that stands in it, into the image."""
    chain = b"subject=CN = x\n" + private(P384.key) + P384.certificate + SIGNERS["ES256"].certificate
    Signer(P384.key, chain).sign(small, out)
    assert bytes(cbor2.loads(section_of(out))[0]["signing_certificate"]) == P384.certificate
    assert verify(out, now_ms=NOW_MS).measurements.pcr8 == pcr_of_certificate(chain)


def test_the_section_has_a_limit(small: Path, out: Path) -> None:
    with pytest.raises(EifError, match="32768 is the limit") as caught:
        Signer.on(ec.SECP384R1(), padding=13_000).sign(small, out)
    assert caught.value.code == "too_large"
    assert not out.exists()
    Signer.on(ec.SECP384R1(), padding=9_000).sign(small, out)
    assert 20_000 < len(section_of(out)) <= 32768
    assert verify(out, now_ms=NOW_MS).signature_ok


def test_an_image_that_changes_meanwhile(small: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = room.encode_signature

    def change(signature: Any) -> bytes:
        with small.open("r+b") as file:
            file.seek(560)
            file.write(b"k")
        return real(signature)

    monkeypatch.setattr(room, "encode_signature", change)
    with pytest.raises(EifError) as caught:
        P384.sign(small, out)
    assert caught.value.code == "image_changed"
    assert list(out.parent.iterdir()) == [small]


def test_files_that_are_not_there(small: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        P384.sign(tmp_path / "absent", out)
    with pytest.raises(ImageError):
        P384.sign(small, small / "below" / "a-file")


# ---- signatures made elsewhere


def attach(small: Path, out: Path, signature: bytes) -> GeumgoError:
    with pytest.raises(SigningError) as caught:
        attach_signature(small, out, certificate_pem=P384.certificate, signature=signature, now_ms=NOW_MS)
    assert caught.value.code == "bad_signature"
    assert not out.exists()
    return caught.value


def test_a_signature_of_something_else(small: Path, out: Path) -> None:
    request = signing_request(small, certificate_pem=P384.certificate, now_ms=NOW_MS)
    sign = P384.key.sign
    other = ec.generate_private_key(ec.SECP384R1())
    for signature in (
        sign(b"something else", ec.ECDSA(hashes.SHA384())),
        sign(request.to_be_signed, ec.ECDSA(hashes.SHA256())),
        other.sign(request.to_be_signed, ec.ECDSA(hashes.SHA384())),
        bytes(96),
        b"\xff" * 96,
    ):
        assert "another than when the request was made" in attach(small, out, signature).why


def test_a_digest_that_was_hashed_again(small: Path, out: Path) -> None:
    request = signing_request(small, certificate_pem=P384.certificate, now_ms=NOW_MS)
    signature = P384.key.sign(request.digest, ec.ECDSA(hashes.SHA384()))
    assert "hashed the digest once more" in attach(small, out, signature).why


def test_signatures_in_other_clothes(small: Path, out: Path) -> None:
    request = signing_request(small, certificate_pem=P384.certificate, now_ms=NOW_MS)
    signature = P384.key.sign(request.to_be_signed, ec.ECDSA(hashes.SHA384()))
    for wrong in (
        b"",
        base64.b64encode(signature),
        signature.hex().encode(),
        signature + b"\n",
        signature[:-1],
        b"\x30\x80" + bytes(2000),
    ):
        error = attach(small, out, wrong)
        assert "base64" in error.fix
        assert "DER" in error.why


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_of_a_signature_passes(small: Path, out: Path, data: st.DataObject) -> None:
    request = signing_request(small, certificate_pem=P384.certificate, now_ms=NOW_MS)
    signature = bytearray(
        P384.key.sign(request.to_be_signed, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    )
    at = data.draw(st.integers(0, len(signature) - 1))
    signature[at] ^= data.draw(st.integers(1, 255))
    attach(small, out, bytes(signature))


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_of_a_signed_image_verifies(small: Path, out: Path, data: st.DataObject) -> None:
    """With the CRC made right again, what is changed is refused or is not what is signed."""
    if not out.exists():
        P384.sign(small, out)
    good = out.read_bytes()
    before = measure(read_eif(out))
    image = bytearray(good)
    at = data.draw(st.integers(0, len(image) - 1).filter(lambda at: not 0x220 <= at < 0x224))
    image[at] ^= data.draw(st.integers(1, 255))
    struct.pack_into(">I", image, 0x220, zlib.crc32(image[0x224:], zlib.crc32(image[:0x220])))
    changed = out.with_suffix(".changed")
    changed.write_bytes(image)
    with contextlib.suppress(ImageError):
        found = verify(changed, now_ms=NOW_MS)
        # Metadata, header and certificate are not signed (PCR8 tells the certificate); what is measured is.
        assert found.measurements.pcr0 == before.pcr0 or not found.signed
        assert found.signed or found.measurements.pcr8 is None


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_leaks_a_foreign_error(small: Path, out: Path, a: bytes, b: bytes, c: bytes) -> None:
    for pem in (a, P384.certificate):
        with pytest.raises(ImageError):
            sign_eif(small, out, certificate_pem=pem, private_key_pem=b, now_ms=NOW_MS)
        with pytest.raises(ImageError):
            attach_signature(small, out, certificate_pem=pem, signature=c, now_ms=NOW_MS)


# ---- further defects of the reference tools


def test_name_and_version_are_two_things(tmp_path: Path, out: Path) -> None:
    """`eif_build --version` is ignored, and the name written in its place."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").write_text("x")
    path = tmp_path / "x.eif"
    build_from_directory(tmp_path / "root", cmd=["/app"], env={}, output=path, name="a", version="2.1")
    P384.sign(path, out)
    found = describe(out)
    assert (found.name, found.image_version) == ("a", "2.1")
    assert json.loads(read_eif(out).metadata or b"") == json.loads(read_eif(path).metadata or b"")
