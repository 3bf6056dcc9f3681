"""Trust roots: passed in, pinned, and honest about simulators."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from geumgo.attestation import RootsInvalid, TrustRoot, TrustRoots
from geumgo.attestation import roots as module
from geumgo.attestation._aws_root import AWS_NITRO_ROOT_PEM

DER = x509.load_pem_x509_certificate(AWS_NITRO_ROOT_PEM.encode()).public_bytes(Encoding.DER)


@pytest.fixture(scope="session")
def pems(platform: Any) -> list[str]:
    """Three certificates."""
    certificates = (x509.load_der_x509_certificate(der) for der in platform.certificates()[:3])
    return [certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates]


def test_awss_root_is_the_published_one() -> None:
    roots = TrustRoots.aws_nitro()
    (root,) = roots.roots
    assert root.sha256 == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    assert hashlib.sha1(root.der).hexdigest() == "1dbabcf791d295c4672097a96c0bd1d4ff966446"
    assert len(root.der) == 533
    assert not root.simulated
    assert not roots.simulated


def test_a_changed_embedded_root_is_noticed(monkeypatch: pytest.MonkeyPatch, pems: list[str]) -> None:
    monkeypatch.setattr(module, "AWS_NITRO_ROOT_PEM", pems[0])
    with pytest.raises(RootsInvalid, match="pinned"):
        TrustRoots.aws_nitro()


def test_simulated_has_no_default() -> None:
    parameter = inspect.signature(TrustRoots.from_pem).parameters["simulated"]
    assert parameter.default is inspect.Parameter.empty
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("kind", [str, str.encode])
def test_pem_as_text_or_bytes(kind: Any, pems: list[str]) -> None:
    assert len(TrustRoots.from_pem(kind(pems[0]), simulated=True).roots) == 1


def test_several_in_one_file(pems: list[str]) -> None:
    roots = TrustRoots.from_pem("".join(pems), simulated=False)
    assert len(roots.roots) == 3
    assert all(roots.find(root.der) is root for root in roots.roots)


def test_the_same_twice_is_one(pems: list[str]) -> None:
    assert len(TrustRoots.from_pem(pems[0] * 3, simulated=False).roots) == 1


def test_roots_are_joined(pems: list[str]) -> None:
    joined = TrustRoots.aws_nitro() | TrustRoots.from_pem(pems[0], simulated=True)
    assert [root.simulated for root in joined.roots] == [False, True]
    assert joined.simulated
    assert joined | joined == joined


@pytest.mark.parametrize("first", [False, True])
def test_a_root_that_either_calls_simulated_is_simulated(first: bool, pems: list[str]) -> None:
    joined = TrustRoots.from_pem(pems[0], simulated=first) | TrustRoots.from_pem(pems[0], simulated=not first)
    assert [root.simulated for root in joined.roots] == [True]


def test_a_root_is_found_byte_for_byte() -> None:
    roots = TrustRoots.aws_nitro()
    assert roots.find(DER) == TrustRoot(DER, False)
    assert roots.find(DER[:-1]) is None
    assert roots.find(DER + b"\x00") is None
    assert roots.find(DER[:-1] + bytes([DER[-1] ^ 1])) is None


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param("", id="nothing"),
        pytest.param("hello", id="text"),
        pytest.param(DER, id="DER"),
        pytest.param(AWS_NITRO_ROOT_PEM.replace("MII", "MIJ"), id="damaged"),
        pytest.param("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", id="empty armour"),
        pytest.param("x" * (65 << 10), id="too long"),
        pytest.param("\ud800", id="no Unicode"),
    ],
)
def test_what_is_no_certificate_is_an_error_of_ours(pem: str | bytes) -> None:
    with pytest.raises(RootsInvalid) as caught:
        TrustRoots.from_pem(pem, simulated=False)
    assert caught.value.fix


def test_too_many_roots_are_refused(pems: list[str], platform: Any) -> None:
    many = "".join(
        x509.load_der_x509_certificate(platform.certificates()[0]).public_bytes(Encoding.PEM).decode()
        for _ in range(33)
    )
    with pytest.raises(RootsInvalid, match="33"):
        TrustRoots.from_pem(many, simulated=False)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(RootsInvalid):
        TrustRoots.from_pem(b"-----BEGIN CERTIFICATE-----\n" + data, simulated=False)
