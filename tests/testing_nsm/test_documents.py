"""Documents of the software NSM: shaped as real ones, verifiable, marked, renewed in time."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from geumgo.attestation import (
    SIMULATOR_OID,
    Evidence,
    ExpiredCertificate,
    Policy,
    PolicyDenied,
    Statement,
    TrustRoots,
    UntrustedRoot,
    Use,
    verify,
    verify_document,
    verify_standalone,
)
from geumgo.nitro import AttestationDocument, NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

HOUR = 3_600_000
DAY = 24 * HOUR


def certificates(document: bytes) -> list[x509.Certificate]:
    """Root to leaf."""
    parsed = AttestationDocument.parse(document)
    return [x509.load_der_x509_certificate(der) for der in (*parsed.cabundle, parsed.certificate)]


def common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_evidence_verifies_under_its_own_root(client: NsmClient, roots: TrustRoots, clock: Any) -> None:
    statement = Statement(Use.SEAL, "s", b"k" * 32, "demo", bytes(48))
    document = client.attest(public_key=statement.key, user_data=statement.digest(), nonce=b"n" * 32)
    evidence = Evidence("nitro", document, statement.to_bytes())
    claims = verify(evidence, roots, now_ms=clock.ms, nonce=b"n" * 32, use=Use.SEAL)
    assert (claims.simulated, claims.debug, claims.issued_ms) == (True, False, clock.ms)
    assert claims.measurements["pcr0"] == "01" * 48
    wanted = {"pcr0": frozenset({"01" * 48})}
    Policy(wanted, allow_simulated=True).require(claims, now_ms=clock.ms)
    with pytest.raises(PolicyDenied) as caught:
        Policy(wanted).require(claims, now_ms=clock.ms)
    assert caught.value.code == "simulated_evidence"


def test_aws_does_not_vouch_for_it(client: NsmClient, clock: Any) -> None:
    with pytest.raises(UntrustedRoot):
        verify_document(client.attest(), TrustRoots.aws_nitro(), now_ms=clock.ms)


def test_it_is_simulated_even_where_its_root_is_passed_in_as_hardwares(
    client: NsmClient, authority: NsmAuthority, clock: Any
) -> None:
    roots = TrustRoots.from_pem(authority.root_pem, simulated=False)
    assert verify_document(client.attest(), roots, now_ms=clock.ms).simulated


def test_another_authority_does_not_vouch_for_it(client: NsmClient, clock: Any) -> None:
    other = TrustRoots.from_pem(NsmAuthority.generate(clock=clock).root_pem, simulated=True)
    with pytest.raises(UntrustedRoot):
        verify_document(client.attest(), other, now_ms=clock.ms)


def test_a_debug_enclave_is_debug_in_its_evidence(
    authority: NsmAuthority, roots: TrustRoots, clock: Any
) -> None:
    nsm = SoftwareNsm(authority, dict.fromkeys((0, 1, 2, 8), bytes(48)), clock=clock)
    claims = verify_standalone(NsmClient(nsm).attest(), roots, now_ms=clock.ms, nonce=None)
    assert claims.debug
    assert claims.measurements["pcr4"].strip("0")  # as measured on hardware, PCR4 stays


def test_the_bytes_are_laid_out_as_hardware_does(client: NsmClient) -> None:
    document = client.attest(nonce=b"n")
    assert document.startswith(bytes.fromhex("8444a1013822a059"))
    payload = cbor2.loads(cbor2.loads(document)[2])
    assert list(payload) == [
        "module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce",
    ]  # fmt: skip
    assert (payload["public_key"], payload["user_data"], payload["nonce"]) == (None, None, b"n")
    assert list(payload["pcrs"]) == list(range(16))
    assert cbor2.dumps(cbor2.loads(document)) == document
    assert cbor2.dumps(payload) == cbor2.loads(document)[2]


def test_it_has_a_real_documents_shape(client: NsmClient, fixtures: Any) -> None:
    """Field by field: same keys, same types, a size that differs by names and extensions only."""
    real = cbor2.loads((fixtures / "aws_nitro_document.cbor").read_bytes())
    made = cbor2.loads(client.attest(nonce=bytes(32), user_data=bytes(32)))
    assert made[0] == real[0]
    assert made[1] == real[1]
    assert len(made[3]) == len(real[3])
    theirs, ours = cbor2.loads(real[2]), cbor2.loads(made[2])
    assert list(ours) == list(theirs)
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]
    assert len(ours["module_id"]) == len(theirs["module_id"])
    assert abs(len(made[2]) - len(real[2])) < 600


def test_names(client: NsmClient, nsm: SoftwareNsm) -> None:
    root, region, zone, instance, leaf = map(common_name, certificates(client.attest()))
    tail = "ap-northeast-2.aws.nitro-enclaves"
    assert root == "aws.nitro-enclaves"
    assert region.split(".", 1)[1] == tail
    assert len(region.split(".")[0]) == 16
    assert zone.split(".", 1)[1] == f"zonal.{tail}"
    assert instance == f"i-1234567890abcdef0.{tail}"
    assert leaf == f"{nsm.module_id}.ap-northeast-2.aws"


def test_nobody_takes_them_for_amazons(client: NsmClient) -> None:
    for certificate in certificates(client.attest()):
        assert "Amazon" not in certificate.subject.rfc4514_string()
        assert "OU=Simulator,O=Geumgo" in certificate.subject.rfc4514_string()


def test_every_certificate_carries_the_mark_and_it_is_not_critical(client: NsmClient) -> None:
    for certificate in certificates(client.attest()):
        assert certificate.extensions.get_extension_for_oid(SIMULATOR_OID).critical is False


def test_lifetimes(client: NsmClient) -> None:
    root, region, zone, instance, leaf = (
        certificate.not_valid_after_utc - certificate.not_valid_before_utc
        for certificate in certificates(client.attest())
    )
    assert root == dt.timedelta(days=10958, hours=1)
    assert region == dt.timedelta(days=20, hours=1)
    assert zone == dt.timedelta(days=6, seconds=-1)
    assert instance == dt.timedelta(days=1)
    assert leaf == dt.timedelta(hours=3, seconds=3)


def test_extensions(client: NsmClient) -> None:
    chain = certificates(client.attest())
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints) for c in chain]
    assert [(e.value.ca, e.value.path_length, e.critical) for e in constraints] == [
        (True, None, True),
        (True, 2, True),
        (True, 1, True),
        (True, 0, True),
        (False, None, True),
    ]
    usages = [c.extensions.get_extension_for_class(x509.KeyUsage) for c in chain]
    assert [usage.critical for usage in usages] == [True, True, True, True, False]
    *_, instance, leaf = (usage.value for usage in usages)
    assert (instance.key_cert_sign, instance.digital_signature, instance.crl_sign) == (True, False, False)
    assert (leaf.digital_signature, leaf.content_commitment, leaf.key_cert_sign) == (True, True, False)

    def has(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> bool:
        return any(isinstance(extension.value, kind) for extension in certificate.extensions)

    assert [has(c, x509.AuthorityKeyIdentifier) for c in chain] == [False, True, True, False, False]
    assert [has(c, x509.SubjectKeyIdentifier) for c in chain] == [True, True, True, False, False]
    assert [has(c, x509.CRLDistributionPoints) for c in chain] == [False, True, True, False, False]


def test_everything_is_p384_with_sha384(client: NsmClient) -> None:
    for certificate in certificates(client.attest()):
        assert certificate.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.3"
        assert certificate.public_key().curve.name == "secp384r1"  # type: ignore[union-attr]


def test_the_leafs_number_is_made_as_real_ones_are(client: NsmClient, nsm: SoftwareNsm, clock: Any) -> None:
    serial = f"{certificates(client.attest())[-1].serial_number:032x}"
    assert serial == nsm.module_id.split("-enc")[1] + "00000000" + f"{clock.ms // 1000:08x}"


def test_a_leaf_signs_many_documents_and_is_replaced_in_time(
    client: NsmClient, roots: TrustRoots, clock: Any
) -> None:
    leaves = set()
    for _ in range(4 * 6):
        document = client.attest()
        leaves.add(AttestationDocument.parse(document).certificate)
        # Whoever gets it has two hours.
        verify_document(document, roots, now_ms=clock.ms)
        verify_document(document, roots, now_ms=clock.ms + 2 * HOUR)
        clock.ms += HOUR // 6
    assert len(leaves) == 4


def test_documents_expire_with_their_leaf(client: NsmClient, roots: TrustRoots, clock: Any) -> None:
    document = client.attest()
    verify_document(document, roots, now_ms=clock.ms + 3 * HOUR)
    verify_document(document, roots, now_ms=clock.ms - 3000)
    for at in (clock.ms + 3 * HOUR + 1, clock.ms - 3001):
        with pytest.raises(ExpiredCertificate):
            verify_document(document, roots, now_ms=at)


def test_the_chain_is_renewed_link_by_link(client: NsmClient, roots: TrustRoots, clock: Any) -> None:
    seen: list[set[bytes]] = [set(), set(), set(), set(), set()]
    for _ in range(40):
        document = client.attest()
        verify_document(document, roots, now_ms=clock.ms + 2 * HOUR)
        chain = certificates(document)
        for kinds, certificate in zip(seen, chain, strict=True):
            kinds.add(certificate.fingerprint(hashes.SHA256()))
        for above, below in pairwise(chain):
            assert below.not_valid_after_utc <= above.not_valid_after_utc
        clock.ms += DAY
    assert [len(kinds) for kinds in seen] == [1, 3, 8, 40, 40]


def test_a_clock_that_goes_back_gets_certificates_of_its_own(
    client: NsmClient, roots: TrustRoots, clock: Any
) -> None:
    client.attest()
    clock.ms -= HOUR // 2
    verify_document(client.attest(), roots, now_ms=clock.ms)


def test_two_enclaves_have_two_leaves(authority: NsmAuthority, clock: Any) -> None:
    one, other = (NsmClient(SoftwareNsm(authority, {}, clock=clock)).attest() for _ in range(2))
    assert certificates(one)[-1].public_key() != certificates(other)[-1].public_key()
    assert certificates(one)[0] == certificates(other)[0]
