"""The stable error codes that cross a wire, and how HTTP and gRPC show them.

A code never changes its meaning. Outside the seal an error is one of these codes and whether the
same request may be repeated; it is a hint, since the parent may have invented it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("CODES", "Code")


@dataclass(frozen=True, slots=True)
class Code:
    """One error code: its HTTP status, its gRPC status name, whether a repeat may succeed, a title."""

    name: str
    http: int
    grpc: str
    retryable: bool
    title: str


CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Code("malformed", 400, "INVALID_ARGUMENT", False, "The request can't be parsed"),
        Code("invalid_request", 422, "INVALID_ARGUMENT", False, "The operation does not accept this body"),
        Code("bad_policy", 422, "INVALID_ARGUMENT", False, "The policy can't be used"),
        Code("too_large", 413, "RESOURCE_EXHAUSTED", False, "The message is over a size limit"),
        Code("not_found", 404, "NOT_FOUND", False, "There is no such page"),
        Code("unknown_operation", 404, "NOT_FOUND", False, "The enclave has no such operation"),
        Code("unknown_caller", 403, "PERMISSION_DENIED", False, "The enclave does not know this caller"),
        Code("forbidden", 403, "PERMISSION_DENIED", False, "The caller may not do this"),
        Code(
            "seal_required", 403, "FAILED_PRECONDITION", False, "This operation accepts sealed requests only"
        ),
        Code(
            "reattest",
            409,
            "FAILED_PRECONDITION",
            False,
            "The enclave holds another pool key; ask for evidence again",
        ),
        Code("duplicate", 409, "ALREADY_EXISTS", False, "This request was already carried out"),
        Code(
            "deadline_exceeded",
            504,
            "DEADLINE_EXCEEDED",
            True,
            "The deadline passed before there was an answer",
        ),
        Code("cancelled", 499, "CANCELLED", True, "The request was cancelled"),
        Code("busy", 429, "RESOURCE_EXHAUSTED", True, "The queue is full; try again later"),
        Code("starting", 503, "UNAVAILABLE", True, "The enclave is starting"),
        Code("draining", 503, "UNAVAILABLE", True, "This server is shutting down; use another"),
        Code("unavailable", 503, "UNAVAILABLE", True, "No enclave answers"),
        Code("keys_unavailable", 503, "UNAVAILABLE", True, "The key service did not release the key"),
        Code(
            "operation_failed",
            500,
            "INTERNAL",
            False,
            "The operation failed; the details are inside the seal",
        ),
        Code("internal", 500, "INTERNAL", False, "An internal error"),
    )
}
