"""The errors of this room.

::

    GeumgoError
    ├── SealError            a sealed request that can't be made or opened
    ├── AnswerError          an answer that does not open
    ├── OperationFailed      an answer that opens and says that the operation failed
    ├── EnvelopeError        an encrypted field that can't be read
    ├── RecipientError       a CiphertextForRecipient that can't be opened
    ├── ConfigurationError   a measured configuration with a mistake in it
    ├── PoolError            a pool that can't be made or released
    └── KmsError             a call to the key service that failed
"""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = (
    "AnswerError",
    "ConfigurationError",
    "EnvelopeError",
    "KmsError",
    "OperationFailed",
    "PoolError",
    "RecipientError",
    "SealError",
)


class SealError(GeumgoError):
    """Raised when a request can't be sealed or a sealed request can't be opened.

    Codes: ``malformed``, ``too_large``, ``reattest``, ``unknown_caller``, ``forbidden``, ``deadline_exceeded``.
    """

    code = "malformed"


class AnswerError(GeumgoError):
    """Raised when bytes are not the answer to this request: altered, swapped, or not from the enclave."""

    code = "answer_unreadable"


class OperationFailed(GeumgoError):
    """Raised when the enclave says, inside the seal, that the operation failed.

    Args:
        failure: code that the enclave sent.
        detail: what the enclave says about it; meant for the caller only.
        retryable: whether the same request may be repeated.
    """

    code = "operation_failed"

    def __init__(self, failure: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(f"the enclave answered {failure}", code=failure, retryable=retryable)
        self.detail = detail

    def diagnostics(self) -> str:
        """Return the code and the enclave's detail, one per line, for the caller."""
        return "\n".join(line for line in (f"{self.what} [{self.code}]", self.detail) if line)


class EnvelopeError(GeumgoError):
    """Raised when a field's envelope can't be parsed or does not open."""

    code = "invalid_request"


class RecipientError(GeumgoError):
    """Raised when a CiphertextForRecipient does not open; it never says which step failed."""

    code = "recipient_ciphertext"


class ConfigurationError(GeumgoError):
    """Raised when a measured configuration can't be trusted; the message names the place."""

    code = "configuration"


class PoolError(GeumgoError):
    """Raised when a pool can't be created or released as asked."""

    code = "pool"


class KmsError(GeumgoError):
    """Raised when the key service refuses, fails or answers something else than was asked.

    Codes: ``access_denied``, ``throttled``, ``key_not_found``, ``key_unusable``, ``invalid_ciphertext``,
    ``invalid_kms_request``, ``credentials_rejected``, ``credentials_expired``, ``clock_skew``,
    ``kms_unavailable``, ``kms_timeout``, ``kms_protocol``, ``kms_tls``, ``kms_key_mismatch``.

    Args:
        kind: the service's own name of the error (``AccessDeniedException``), where it gave one.
    """

    code = "kms_unavailable"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        code: str | None = None,
        retryable: bool | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(what, why=why, fix=fix, code=code, retryable=retryable)
        self.kind = kind
