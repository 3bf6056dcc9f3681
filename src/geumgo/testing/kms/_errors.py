"""The errors that the emulator answers, by AWS's names."""

from __future__ import annotations

__all__ = ("ServiceError",)


class ServiceError(Exception):
    """Raised when a call is refused; it becomes AWS's JSON error.

    Args:
        kind: AWS's name of the error, such as ``AccessDeniedException``.
        message: text for a person; names keys and principals, never plaintext or key material.
        status: HTTP status.
    """

    def __init__(self, kind: str, message: str, *, status: int = 400) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.status = status
