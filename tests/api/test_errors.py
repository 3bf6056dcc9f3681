from __future__ import annotations

import json

import pytest

from geumgo._base import CODES, GeumgoError
from geumgo.api import ApiError, Problem
from geumgo.channel import StreamReset


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_code_has_a_problem_with_its_own_status(name: str) -> None:
    problem = Problem.of(ApiError("What happened", code=name))
    document = json.loads(problem.to_json())
    assert document["status"] == CODES[name].http
    assert document["code"] == name
    assert document["retryable"] is CODES[name].retryable
    assert document["type"] == f"urn:geumgo:problem:{name}"
    assert document["title"] == CODES[name].title
    assert document["detail"] == "What happened"


def test_an_error_of_another_room_shows_its_code_and_not_its_text() -> None:
    error = GeumgoError("row 7 is 900101-1234567", code="invalid_request")
    document = json.loads(Problem.of(error).to_json())
    assert document["code"] == "invalid_request"
    assert "detail" not in document
    assert b"900101" not in Problem.of(error).to_json()


@pytest.mark.parametrize(
    "error", [ValueError("secret"), GeumgoError("secret", code="local_code"), KeyError("x")]
)
def test_what_no_wire_knows_is_internal_and_says_nothing(error: Exception) -> None:
    problem = Problem.of(error)
    assert (problem.code, problem.status, problem.retryable) == ("internal", 500, False)
    assert b"secret" not in problem.to_json()


def test_the_peers_word_on_retrying_is_passed_on() -> None:
    assert Problem.of(StreamReset("unavailable", False)).retryable is False
    assert Problem.of(StreamReset("unavailable", True)).retryable is True


@pytest.mark.parametrize("code", ["busy", "starting", "draining", "unavailable", "keys_unavailable"])
def test_what_passes_says_when_to_come_back(code: str) -> None:
    assert (Problem.of(ApiError("x", code=code)).retry_after_seconds or 0) >= 1


def test_what_may_not_be_repeated_says_no_time() -> None:
    assert Problem.of(ApiError("x", code="unavailable", retryable=False)).retry_after_seconds is None


def test_a_time_is_rounded_up_to_whole_seconds() -> None:
    assert Problem.of(ApiError("x", code="busy", retry_after=0.1)).retry_after_seconds == 1
    assert Problem.of(ApiError("x", code="busy", retry_after=2.1)).retry_after_seconds == 3


def test_a_status_may_be_more_exact_than_the_code() -> None:
    assert Problem.of(ApiError("x", code="too_large", status=431)).status == 431


def test_a_long_detail_is_cut() -> None:
    assert len(Problem.of(ApiError("x" * 10_000, code="malformed")).detail) == 500
