"""Why evidence was not accepted."""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = (
    "BadCertificate",
    "BadSignature",
    "ExpiredCertificate",
    "MalformedEvidence",
    "PolicyInvalid",
    "RootsInvalid",
    "StaleEvidence",
    "StatementInvalid",
    "UntrustedRoot",
    "VerificationError",
    "WrongConfiguration",
    "WrongNonce",
    "WrongStatement",
    "WrongUse",
)

_FIX = "Send nothing to who showed it. Ask for new evidence; if it stays so, find out who answers there."
"""What to do about evidence that is not acceptable, where nothing better is known."""


class VerificationError(GeumgoError):
    """Raised when evidence does not prove what it was asked to prove.

    VerificationError
      MalformedEvidence    malformed            it can't be read
      UntrustedRoot        untrusted_root       another root issued it
      ExpiredCertificate   expired_certificate  a certificate is not valid at this time
      BadCertificate       bad_certificate      the chain breaks a rule
      BadSignature         bad_signature        the document is not signed by the chain's leaf
      WrongUse             wrong_use            it vouches for another use
      WrongStatement       wrong_statement      the statement is not the one that was attested
      WrongConfiguration   wrong_configuration  another measured configuration than expected
      WrongNonce           wrong_nonce          it answers another question
      StaleEvidence        stale_evidence       it is too old, or from the future
      PolicyDenied         code of the first reason   authentic, but the policy does not want it
    """

    code = "bad_evidence"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(what, why=why, fix=fix or _FIX, code=code, retryable=retryable)


class MalformedEvidence(VerificationError):
    """Raised when evidence or a statement can't be read."""

    code = "malformed"


class StatementInvalid(MalformedEvidence):
    """Raised when a statement would break, or breaks, the rules of its format."""


class UntrustedRoot(VerificationError):
    """Raised when the chain does not start at a root that was passed in."""

    code = "untrusted_root"


class ExpiredCertificate(VerificationError):
    """Raised when a certificate of the chain is expired, or not valid yet, at the time of the check."""

    code = "expired_certificate"


class BadCertificate(VerificationError):
    """Raised when the chain breaks a rule: a signature, a name, CA, path length or key usage."""

    code = "bad_certificate"


class BadSignature(VerificationError):
    """Raised when the document is not signed, or not by the key of its certificate."""

    code = "bad_signature"


class WrongUse(VerificationError):
    """Raised when evidence was made for another use than the verifier wants."""

    code = "wrong_use"


class WrongStatement(VerificationError):
    """Raised when the statement is not the one whose digest was attested, or names another key."""

    code = "wrong_statement"


class WrongConfiguration(VerificationError):
    """Raised when the statement names another measured configuration than the verifier expects."""

    code = "wrong_configuration"


class WrongNonce(VerificationError):
    """Raised when evidence does not carry the nonce of the verifier's own question."""

    code = "wrong_nonce"


class StaleEvidence(VerificationError):
    """Raised when evidence is older than the verifier allows, or from the future."""

    code = "stale_evidence"


class RootsInvalid(GeumgoError):
    """Raised when trust roots can't be made of what was given."""

    code = "bad_root"


class PolicyInvalid(GeumgoError):
    """Raised when a policy can't be made of what was given."""

    code = "bad_policy"
