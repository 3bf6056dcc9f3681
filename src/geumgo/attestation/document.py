"""Verification of an AWS Nitro attestation document.

The steps carry the numbers of the specification (aws-nitro-enclaves-nsm-api,
`docs/attestation_process.md`): (1) decode, (2) syntax, (3) certificates, (4) signature. What comes after,
(5), is the verifier's own question: nonce, freshness and use in :func:`geumgo.attestation.verify`,
measurements in :class:`geumgo.attestation.Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass

from geumgo.attestation._chain import verify_chain
from geumgo.attestation.errors import BadSignature, MalformedEvidence
from geumgo.attestation.roots import TrustRoot, TrustRoots
from geumgo.codec.cose import Algorithm, CoseError
from geumgo.nitro import AttestationDocument, DocumentError

__all__ = ("VerifiedDocument", "verify_document")


@dataclass(frozen=True, slots=True)
class VerifiedDocument:
    """A document that an NSM under a trusted root signed.

    Attributes:
        document: what it says.
        root: the root that its chain starts at.
        simulated: whether the root was passed in as a simulator's, or a certificate of the chain says so.
    """

    document: AttestationDocument
    root: TrustRoot
    simulated: bool


def verify_document(document: bytes, roots: TrustRoots, *, now_ms: int) -> VerifiedDocument:
    """Verify a document at a time.

    Args:
        document: the COSE_Sign1, tagged or not.
        roots: who may have issued it.
        now_ms: the time at which every certificate must be valid, milliseconds since 1970. The document's
            own timestamp is not compared with it; see `verify` for freshness.

    Raises:
        MalformedEvidence: steps 1 and 2.
        UntrustedRoot, ExpiredCertificate, BadCertificate: step 3.
        BadSignature: step 4, and at once for what claims another algorithm than ES384.
    """
    # (1) CBOR -> COSE_Sign1 -> payload, (2) the syntactic rules.
    try:
        parsed = AttestationDocument.parse(document)
    except DocumentError as error:
        raise MalformedEvidence(
            error.what, fix="This is not what an NSM returns; nothing was verified."
        ) from None
    # (4), first half: the algorithm is fixed. Emulators that do not sign say so here, so say it clearly.
    if parsed.cose.algorithm != Algorithm.ES384:
        raise BadSignature(
            f"the document claims signature algorithm {parsed.cose.algorithm}; the NSM signs with -35 (ES384)",
            why="QEMU's nitro-enclave machine, for one, does not sign its documents (algorithm -1).",
            fix="Use hardware, or a software NSM whose root is passed in explicitly.",
        )
    # (3) Certificates.
    chain = verify_chain(parsed.certificate, parsed.cabundle, roots, now_ms=now_ms)
    # (4) ES384 over ["Signature1", protected, h'', payload] by the leaf's key.
    try:
        parsed.cose.verify(chain.key, Algorithm.ES384)
    except CoseError:
        raise BadSignature(
            "the document's signature does not verify",
            why="The document was changed on its way, or was not made by the NSM that its certificate names.",
            fix="Ask the enclave for new evidence; if it stays, the path to it tampers with evidence.",
        ) from None
    return VerifiedDocument(
        document=parsed, root=chain.root, simulated=chain.root.simulated or chain.simulated
    )
