"""What can go wrong in this room.

* GeumgoError
    * PolicyError: the policy can't be used (`bad_policy`)
    * InputError: the columns or the batch can't be used with this policy (`invalid_request`)

A single bad value is neither: it is a :class:`BadValue` inside the engine and a `Rejection` outside.
"""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = ("BadValue", "InputError", "PolicyError")


class PolicyError(GeumgoError):
    """Raised when a policy can't be used.

    Args:
        path: where in the policy, outermost first, such as `("fields", "rrn", "min_length")`.
    """

    code = "bad_policy"

    def __init__(self, what: str, *, path: tuple[str | int, ...] = (), why: str = "", fix: str = "") -> None:
        where = ".".join(str(part) for part in path)
        super().__init__(f"{where}: {what}" if where else what, why=why, fix=fix)
        self.path = path
        self.problem = what


class InputError(GeumgoError):
    """Raised when a batch as a whole can't be worked on: its columns or its size."""

    code = "invalid_request"


class BadValue(Exception):
    """Raised by a technique that can't take a value; carries a code and never the value."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
