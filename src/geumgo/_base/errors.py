"""The one root of Geumgo's exceptions.

Every room derives its own errors from :class:`GeumgoError`; foreign exceptions are mapped at the
seam where they arise, so a caller catches one type.
"""

from __future__ import annotations

__all__ = ("GeumgoError",)


class GeumgoError(Exception):
    """Raised when something that Geumgo does cannot be done.

    Args:
        what: what happened, one sentence, without secrets or plaintext.
        why: what it means, where that isn't obvious.
        fix: what to do about it.
        code: stable machine-readable code; defaults to the class's.
        retryable: whether the same call may succeed later; defaults to the class's.
    """

    code: str = "internal"
    retryable: bool = False

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    def diagnostics(self) -> str:
        """Return what happened, what it means and what to do, one per line, for a person."""
        return "\n".join(line for line in (f"{self.what} [{self.code}]", self.why, self.fix) if line)
