"""Evidence to claims to a policy's decision: one verifier for every kind of hardware."""

from geumgo.attestation.claims import Claims
from geumgo.attestation.document import VerifiedDocument, verify_document
from geumgo.attestation.errors import (
    BadCertificate,
    BadSignature,
    ExpiredCertificate,
    MalformedEvidence,
    PolicyInvalid,
    RootsInvalid,
    StaleEvidence,
    StatementInvalid,
    UntrustedRoot,
    VerificationError,
    WrongConfiguration,
    WrongNonce,
    WrongStatement,
    WrongUse,
)
from geumgo.attestation.evidence import Evidence
from geumgo.attestation.policy import Decision, Policy, PolicyDenied, Reason
from geumgo.attestation.roots import TrustRoot, TrustRoots
from geumgo.attestation.simulator import SIMULATOR_OID, simulator_extension
from geumgo.attestation.statement import Statement, Use
from geumgo.attestation.verifier import DEFAULT_MAX_AGE_MS, MAX_CLOCK_SKEW_MS, verify, verify_standalone

__all__ = (
    "DEFAULT_MAX_AGE_MS",
    "MAX_CLOCK_SKEW_MS",
    "SIMULATOR_OID",
    "BadCertificate",
    "BadSignature",
    "Claims",
    "Decision",
    "Evidence",
    "ExpiredCertificate",
    "MalformedEvidence",
    "Policy",
    "PolicyDenied",
    "PolicyInvalid",
    "Reason",
    "RootsInvalid",
    "StaleEvidence",
    "Statement",
    "StatementInvalid",
    "TrustRoot",
    "TrustRoots",
    "UntrustedRoot",
    "Use",
    "VerificationError",
    "VerifiedDocument",
    "WrongConfiguration",
    "WrongNonce",
    "WrongStatement",
    "WrongUse",
    "simulator_extension",
    "verify",
    "verify_document",
    "verify_standalone",
)
