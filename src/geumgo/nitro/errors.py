"""What can go wrong between a program in an enclave and its Nitro Secure Module (NSM)."""

from __future__ import annotations

import enum
import re

from geumgo._base import GeumgoError

__all__ = (
    "DocumentError",
    "ErrorCode",
    "MessageError",
    "NitroError",
    "NsmRefused",
    "NsmUnavailable",
)


class ErrorCode(enum.Enum):
    """What an NSM answers instead of a result (nsm-api `ErrorCode`)."""

    SUCCESS = "Success"
    INVALID_ARGUMENT = "InvalidArgument"
    INVALID_INDEX = "InvalidIndex"
    INVALID_RESPONSE = "InvalidResponse"
    READ_ONLY_INDEX = "ReadOnlyIndex"
    INVALID_OPERATION = "InvalidOperation"
    BUFFER_TOO_SMALL = "BufferTooSmall"
    INPUT_TOO_LARGE = "InputTooLarge"
    INTERNAL_ERROR = "InternalError"


class NitroError(GeumgoError):
    """Raised when something with a Nitro Secure Module or its documents cannot be done.

    NitroError
      MessageError     an NSM message that is not one
      DocumentError    an attestation document that is not one
      NsmRefused       the NSM answered with an error
      NsmUnavailable   there is no NSM, or it went away
    """


class MessageError(NitroError):
    """Raised when bytes are not a message of the NSM, or a message would be over its limits."""

    code = "malformed"


class DocumentError(NitroError):
    """Raised when bytes are not an attestation document by the syntactic rules."""

    code = "malformed"


class NsmRefused(NitroError):
    """Raised when the NSM answered with an error.

    Attributes:
        error: what it answered.
    """

    def __init__(self, operation: str, error: ErrorCode) -> None:
        super().__init__(
            f"the NSM refused {operation}: {error.value}",
            fix=_FIXES.get(error, ""),
            code="nsm_" + re.sub(r"(?<!^)(?=[A-Z])", "_", error.value).lower(),
        )
        self.error = error


class NsmUnavailable(NitroError):
    """Raised when there is no NSM to talk to, or it stopped answering."""

    code = "nsm_unavailable"


_FIXES = {
    ErrorCode.INVALID_INDEX: "A PCR index is 0 to 31; a range to lock is 0 to 32.",
    ErrorCode.READ_ONLY_INDEX: "The PCR is locked until the enclave ends; PCRs 0 to 15 are locked from the start.",
    ErrorCode.INPUT_TOO_LARGE: "A request has at most 4096 bytes, all of its fields together.",
}
