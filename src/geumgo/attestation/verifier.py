"""Verification of evidence: is it authentic, fresh, an answer to my question, and for my use?"""

from __future__ import annotations

from geumgo.attestation.claims import Claims
from geumgo.attestation.document import VerifiedDocument, verify_document
from geumgo.attestation.errors import (
    StaleEvidence,
    WrongConfiguration,
    WrongNonce,
    WrongStatement,
    WrongUse,
)
from geumgo.attestation.evidence import Evidence
from geumgo.attestation.roots import TrustRoots
from geumgo.attestation.statement import Statement, Use

__all__ = ("DEFAULT_MAX_AGE_MS", "MAX_CLOCK_SKEW_MS", "check_age", "verify", "verify_standalone")

DEFAULT_MAX_AGE_MS = 300_000
"""Age that evidence may have: five minutes, enough for slow networks, little enough for a replay to matter."""

MAX_CLOCK_SKEW_MS = 3_000
"""How far in the future evidence may be from: as much as the NSM dates its certificate back, so that a
clock that is further behind fails on the certificate anyway."""


def verify(
    evidence: Evidence,
    roots: TrustRoots,
    *,
    now_ms: int,
    nonce: bytes | None,
    use: Use,
    max_age_ms: int = DEFAULT_MAX_AGE_MS,
    configuration: bytes | None = None,
) -> Claims:
    """Verify evidence and return its claims. Whether they are wanted is the policy's decision.

    Args:
        evidence: what the enclave showed.
        roots: who may have issued it.
        now_ms: the verifier's time, milliseconds since 1970.
        nonce: the verifier's own; None if it asked without, and then only its age speaks for it.
        use: what the key is wanted for; evidence for any other is refused.
        max_age_ms: age that the evidence may have.
        configuration: SHA-384 of the measured configuration that is expected; None accepts any, which is
            right where the policy names the image, as that contains the configuration.

    Raises:
        VerificationError: one of its subclasses, by what does not hold.
    """
    verified = verify_document(evidence.document, roots, now_ms=now_ms)  # steps (1) to (4)
    # (5) What the document must say to answer this verifier.
    statement = _attested_statement(evidence, verified, use)
    if configuration is not None and (statement is None or statement.configuration != configuration):
        raise WrongConfiguration(
            "the enclave runs with another measured configuration than expected",
            fix="Compare the image's /etc/geumgo/measured.json with the one that you expect.",
        )
    _check_answer(verified, nonce, now_ms=now_ms, max_age_ms=max_age_ms)
    return Claims.of_document(verified, statement)


def verify_standalone(
    document: bytes,
    roots: TrustRoots,
    *,
    now_ms: int,
    nonce: bytes | None,
    max_age_ms: int = DEFAULT_MAX_AGE_MS,
) -> Claims:
    """Verify a Nitro document that comes without a statement, for programs that are not of Geumgo.

    Its key vouches for nothing that this function knows of: what `user_data` and `public_key` mean is
    between the program in the enclave and its verifier. Arguments and errors as in :func:`verify`.
    """
    verified = verify_document(document, roots, now_ms=now_ms)
    _check_answer(verified, nonce, now_ms=now_ms, max_age_ms=max_age_ms)
    return Claims.of_document(verified)


def check_age(issued_ms: int, *, now_ms: int, max_age_ms: int) -> None:
    """Check that something was issued at most `max_age_ms` ago and not in the future.

    Raises:
        StaleEvidence: it is too old, or more than :data:`MAX_CLOCK_SKEW_MS` from the future.
    """
    age = now_ms - issued_ms
    if age > max_age_ms:
        raise StaleEvidence(
            f"the evidence is {age / 1000:.0f} s old; at most {max_age_ms / 1000:.0f} s are allowed",
            fix="Ask the enclave for new evidence, or check this machine's clock.",
        )
    if age < -MAX_CLOCK_SKEW_MS:
        raise StaleEvidence(
            f"the evidence is from {-age / 1000:.0f} s in the future",
            fix="Check this machine's clock; it is behind the enclave's.",
        )


def _check_answer(verified: VerifiedDocument, nonce: bytes | None, *, now_ms: int, max_age_ms: int) -> None:
    if nonce is not None and verified.document.nonce != nonce:
        raise WrongNonce(
            "the evidence does not carry the nonce that was asked for",
            why="It answers somebody else's question, or is a replay.",
            fix="Ask again with a new random nonce, and verify the answer to that.",
        )
    check_age(verified.document.timestamp_ms, now_ms=now_ms, max_age_ms=max_age_ms)


def _attested_statement(evidence: Evidence, verified: VerifiedDocument, use: Use) -> Statement | None:
    document = verified.document
    if evidence.statement is None:
        # AWS KMS reads neither statement nor user data; a document for it may go without.
        if use is Use.KMS and document.user_data is None:
            return None
        raise WrongUse(
            f"the evidence has no statement, so it does not vouch for use {use.value!r}",
            fix="Ask the enclave for evidence of that use.",
        )
    statement = Statement.parse(evidence.statement)
    if document.user_data != statement.digest():
        raise WrongStatement(
            "the document does not carry the digest of this statement",
            why="The statement was changed or belongs to other evidence.",
            fix="Ask the enclave for new evidence; take document and statement from one answer.",
        )
    if document.public_key != statement.key:
        raise WrongStatement("the statement names another key than the document carries")
    if statement.use is not use:
        raise WrongUse(
            f"the evidence vouches for use {statement.use.value!r}, not {use.value!r}",
            fix="Ask the enclave for evidence of the use that you want.",
        )
    return statement
