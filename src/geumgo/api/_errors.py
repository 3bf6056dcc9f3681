"""Errors of the enclave API and the problem document that shows them (RFC 9457)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from geumgo._base import CODES, GeumgoError

__all__ = ("ApiError", "Problem")

RETRY_AFTER = {"busy": 1.0, "starting": 2.0, "draining": 1.0, "unavailable": 1.0, "keys_unavailable": 5.0}
"""Seconds that a client is asked to wait where the error itself names no time.

A queue empties within a second; an enclave boots in a few; a key service that fails is not hammered.
"""

MAX_DETAIL = 500
"""Characters of detail that a problem carries: a sentence or two for a person."""

PROBLEM_TYPE = "application/problem+json"


class ApiError(GeumgoError):
    """Raised where a request of the enclave API can't be answered; its text is shown to the client.

    Args:
        what: what happened, one sentence, without anything of the request's body.
        fix: what the client can do about it.
        code: one of :data:`geumgo._base.CODES`.
        status: an HTTP status more exact than the code's own, such as 405 or 431.
        retryable: whether the same request may be repeated; defaults to the code's own.
        retry_after: seconds after which a repeat makes sense.
        allow: for status 405, the method that the page answers.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        fix: str = "",
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(
            what, fix=fix, code=code, retryable=CODES[code].retryable if retryable is None else retryable
        )
        self.status = status
        self.retry_after = retry_after
        self.allow = allow


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as every edge shows it."""

    code: str
    retryable: bool
    title: str
    status: int
    grpc: str
    detail: str = ""
    retry_after: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> Problem:
        """Return the problem for `error`.

        Only an :class:`ApiError` gives its text: other errors may quote what they were given. What is not a
        :class:`GeumgoError`, or has a code that no wire knows, is `internal`.
        """
        if not isinstance(error, GeumgoError) or error.code not in CODES:
            code = CODES["internal"]
            return cls(code.name, code.retryable, code.title, code.http, code.grpc)
        code = CODES[error.code]
        detail, status, retry_after = "", code.http, None
        if isinstance(error, ApiError):
            detail = ". ".join(part for part in (error.what, error.fix) if part)[:MAX_DETAIL]
            status = error.status or status
            retry_after = error.retry_after
        if error.retryable and retry_after is None:
            retry_after = RETRY_AFTER.get(code.name)
        return cls(code.name, error.retryable, code.title, status, code.grpc, detail, retry_after)

    def to_json(self) -> bytes:
        """Return the RFC 9457 document."""
        document: dict[str, object] = {
            "type": f"urn:geumgo:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "retryable": self.retryable,
        }
        if self.detail:
            document["detail"] = self.detail
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def retry_after_seconds(self) -> int | None:
        """Whole seconds for HTTP's Retry-After, at least one."""
        return None if self.retry_after is None else max(1, math.ceil(self.retry_after))
