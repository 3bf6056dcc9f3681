"""What KMS's errors mean to us."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from geumgo.keys.errors import KmsError

__all__ = ("error_from",)

MAX_MESSAGE = 300
"""Characters of KMS's own message that are kept; it names keys and principals, never plaintext."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: str
    retryable: bool
    fix: str = ""


_DENIED = _Meaning(
    "access_denied",
    False,
    "Compare the key's policy with the enclave's measurements; a debug or changed image is refused on purpose.",
)
_THROTTLED = _Meaning("throttled", True, "Try again later, each time after a longer pause.")
_UNUSABLE = _Meaning(
    "key_unusable", False, "Look at the key's state; a disabled key or one to be deleted serves no one."
)
_REJECTED = _Meaning("credentials_rejected", False, "Check the AWS credentials that the parent hands over.")
_EXPIRED = _Meaning("credentials_expired", True, "The parent hands over new ones; try again when it has.")
_SKEW = _Meaning("clock_skew", False, "Set the clock: signatures are good for five minutes.")
_DOWN = _Meaning("kms_unavailable", True, "Try again later, each time after a longer pause.")
_INVALID = _Meaning("invalid_kms_request", False)
_CIPHERTEXT = _Meaning(
    "invalid_ciphertext",
    False,
    "The ciphertext, the key or the encryption context is not the one it was made with.",
)

_MEANINGS = {
    "AccessDeniedException": _DENIED,
    "ThrottlingException": _THROTTLED,
    "Throttling": _THROTTLED,
    "LimitExceededException": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "NotFoundException": _Meaning("key_not_found", False, "Check the key's ARN and its region."),
    "DisabledException": _UNUSABLE,
    "KMSInvalidStateException": _UNUSABLE,
    "InvalidKeyUsageException": _UNUSABLE,
    "KeyUnavailableException": _Meaning("key_unusable", True),
    "InvalidCiphertextException": _CIPHERTEXT,
    "IncorrectKeyException": _CIPHERTEXT,
    "UnrecognizedClientException": _REJECTED,
    "InvalidClientTokenId": _REJECTED,
    "MissingAuthenticationTokenException": _REJECTED,
    "IncompleteSignatureException": _REJECTED,
    "IncompleteSignature": _REJECTED,
    "InvalidSignatureException": _REJECTED,
    "SignatureDoesNotMatch": _REJECTED,
    "ExpiredTokenException": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "RequestExpired": _SKEW,
    "RequestTimeTooSkewed": _SKEW,
    "KMSInternalException": _DOWN,
    "DependencyTimeoutException": _DOWN,
    "InternalFailure": _DOWN,
    "ServiceUnavailable": _DOWN,
    "ServiceUnavailableException": _DOWN,
}


class _Body(msgspec.Struct):
    type: str = msgspec.field(default="", name="__type")
    message: str | None = None
    capital: str | None = msgspec.field(default=None, name="Message")


def error_from(action: str, status: int, body: bytes) -> KmsError:
    """Return the error that an answer other than 200 stands for."""
    try:
        parsed = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        parsed = _Body()
    kind = parsed.type.rpartition("#")[2][:80]
    message = (parsed.message or parsed.capital or "")[:MAX_MESSAGE]
    meaning = _MEANINGS.get(kind) or (_DOWN if status >= 500 else _THROTTLED if status == 429 else _INVALID)
    if (
        meaning is _REJECTED
        and message.startswith("Signature ")
        and ("expired" in message or "not yet" in message)
    ):
        meaning = _SKEW
    return KmsError(
        f"the key service refused {action}: {kind or f'HTTP {status}'}",
        why="".join(c if c.isprintable() else " " for c in message),
        fix=meaning.fix,
        code=meaning.code,
        retryable=meaning.retryable,
        kind=kind,
    )
