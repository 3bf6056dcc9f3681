"""What the enclave raises. Tree: GeumgoError > EnclaveError > (Refused, ConfigurationError)."""

from __future__ import annotations

from geumgo._base import CODES, GeumgoError

__all__ = ("ConfigurationError", "EnclaveError", "Refused")


class EnclaveError(GeumgoError):
    """Raised when the program inside the enclave can't do what it is asked to."""


class ConfigurationError(EnclaveError):
    """Raised when the measured configuration and the program don't fit together."""

    code = "bad_configuration"


class Refused(EnclaveError):
    """Raised to answer a request with an error code of the wire.

    Args:
        code: a code of :data:`geumgo._base.CODES`; says too whether a repeat may succeed.
        what: the detail. It leaves the enclave inside the seal only, or not at all.
        fix: what the caller should do.
    """

    def __init__(self, code: str, what: str = "", *, fix: str = "") -> None:
        super().__init__(what or CODES[code].title, fix=fix, code=code, retryable=CODES[code].retryable)
