"""The codes that cross a wire; other implementations depend on every one of them."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import pytest

from geumgo._base import CODES, Code

GRPC_STATUSES = {
    "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "UNAUTHENTICATED",
}  # fmt: skip


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
def test_every_code_is_complete(code: Code) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code.name)
    assert 400 <= code.http < 600
    assert code.grpc in GRPC_STATUSES
    assert code.title
    assert not code.title.endswith(".")


def test_the_index_is_by_name() -> None:
    assert all(name == code.name for name, code in CODES.items())


@pytest.mark.parametrize(
    ("name", "http", "retryable"),
    [
        ("malformed", 400, False),
        ("too_large", 413, False),
        ("unknown_operation", 404, False),
        ("unknown_caller", 403, False),
        ("forbidden", 403, False),
        ("seal_required", 403, False),
        ("reattest", 409, False),
        ("duplicate", 409, False),
        ("deadline_exceeded", 504, True),
        ("cancelled", 499, True),
        ("busy", 429, True),
        ("starting", 503, True),
        ("draining", 503, True),
        ("unavailable", 503, True),
        ("keys_unavailable", 503, True),
        ("operation_failed", 500, False),
        ("internal", 500, False),
    ],
)
def test_meanings_do_not_change(name: str, http: int, retryable: bool) -> None:
    assert (CODES[name].http, CODES[name].retryable) == (http, retryable)


def test_what_may_be_repeated_is_never_the_requests_own_fault() -> None:
    for code in CODES.values():
        if code.retryable:
            assert code.http in (429, 499) or code.http >= 500


def test_a_code_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CODES["busy"].http = 200  # type: ignore[misc]
