"""The enclave API's pages, asked over a real socket."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.api import ApiError, ApiSettings, Call, EdgeMetrics
from geumgo.api._http_message import Request
from geumgo.api._http_routes import HttpRoutes

SEALED = "content-type: application/vnd.geumgo.sealed"
NONCE = "00" * 16


async def test_a_sealed_request_passes_exactly_and_answers_in_its_type(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    body = bytes(range(256)) * 5
    client.post("deidentify", body, SEALED)
    answer = await client.answer()
    assert (answer.status, answer.headers["content-type"]) == (200, "application/vnd.geumgo.sealed")
    assert answer.body == body
    call, passed = stack.backend.calls[0]
    assert (call.operation, call.sealed, passed) == ("deidentify", True, body)


@pytest.mark.parametrize(
    ("given", "sealed", "answered"),
    [
        ("application/json", False, "application/json"),
        ("application/json; charset=utf-8", False, "application/json"),
        ("text/csv", False, "application/octet-stream"),
        ("Application/VND.geumgo.Sealed", True, "application/vnd.geumgo.sealed"),
        ("application/vnd.geumgo.sealed-not", False, "application/octet-stream"),
        ("", False, "application/octet-stream"),
    ],
)
async def test_the_content_type_says_whether_a_body_is_sealed(
    stack: Any, given: str, sealed: bool, answered: str
) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"{}", f"content-type: {given}")
    answer = await client.answer()
    assert answer.headers["content-type"] == answered
    assert stack.backend.calls[0][0].sealed is sealed


async def test_no_content_type_is_unsealed(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"x")
    assert (await client.answer()).headers["content-type"] == "application/octet-stream"
    assert stack.backend.calls[0][0].sealed is False


async def test_the_clients_time_is_the_deadline(stack: Any) -> None:
    await stack.serve(max_timeout=100.0)
    client = await stack.client()
    for header, seconds in (("1500", 1.5), ("999999999", 100.0)):
        before = time.monotonic()
        client.post("echo", b"", f"geumgo-timeout-ms: {header}")
        assert (await client.answer()).status == 200
        deadline = stack.backend.calls.pop()[0].deadline
        assert before + seconds <= deadline <= time.monotonic() + seconds


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "soon", "9" * 10, "", "１"])
async def test_a_time_that_is_none_is_refused(stack: Any, text: str) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"", f"geumgo-timeout-ms: {text}")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "malformed")


@pytest.mark.parametrize("name", ["", "a/b", "..", "%2e", "a" * 65, "-x", "a b?"])
async def test_a_name_that_no_operation_can_have_is_unknown(stack: Any, name: str) -> None:
    await stack.serve()
    client = await stack.client()
    client.post(name.replace(" ", "%20"), b"")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (404, "unknown_operation")
    assert stack.backend.calls == []


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "/v1/operations/echo", 405, "post"),
        ("DELETE", "/v1/enclaves", 405, "get"),
        ("HEAD", "/metrics", 405, "get"),
        ("GET", "/", 404, None),
        ("GET", "/v1/operations", 404, None),
        ("GET", "/v1/attestation/", 404, None),
        ("GET", "/%6Civez", 404, None),
        ("OPTIONS", "*", 404, None),
    ],
)
async def test_other_pages_and_methods(
    stack: Any, method: str, target: str, status: int, allow: str | None
) -> None:
    await stack.serve()
    client = await stack.client()
    client.send(f"{method} {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    answer = await client.answer()
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_evidence_is_carried_as_json(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.get(f"/v1/attestation?nonce={NONCE}&use=channel")
    answer = await client.answer()
    evidence = json.loads(answer.body)
    assert evidence["kind"] == "nitro"
    assert base64.b64decode(evidence["document"]) == b"document"
    assert base64.b64decode(evidence["statement"]) == b"statement"
    assert stack.backend.nonces == [(bytes(16), "channel")]
    assert answer.headers["cache-control"] == "no-store"


async def test_the_use_is_seal_where_none_is_asked_for(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.get(f"/v1/attestation?nonce={NONCE}")
    assert (await client.answer()).status == 200
    assert stack.backend.nonces[0][1] == "seal"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "nonce=",
        "nonce=00",
        f"nonce={'00' * 15}",
        f"nonce={'00' * 65}",
        f"nonce={'zz' * 16}",
        f"nonce={NONCE}&use=kms",
        f"nonce={NONCE}&use=",
        f"nonce={NONCE}&why=1",
        f"nonce={NONCE}&use=seal&use=seal&x=1",
        "&".join(["a=1"] * 500),
    ],
)
async def test_a_question_that_is_not_ours_is_malformed(stack: Any, query: str) -> None:
    await stack.serve()
    client = await stack.client()
    client.get(f"/v1/attestation?{query}")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "malformed")
    assert stack.backend.nonces == []


async def test_pages_about_the_server(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.get("/livez")
    assert (await client.answer()).status == 200
    client.get("/readyz")
    assert (await client.answer()).status == 200
    client.get("/v1/enclaves")
    assert json.loads((await client.answer()).body) == {"enclaves": [{"name": "one", "state": "ready"}]}
    client.get("/metrics")
    metrics = await client.answer()
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b'geumgo_requests_total{code="ok",edge="http",route="enclaves"} 1.0' in metrics.body


@pytest.mark.parametrize("reason", ["starting", "draining", "unavailable"])
async def test_not_ready_says_why_and_when_to_ask_again(stack: Any, reason: str) -> None:
    await stack.serve()
    stack.backend.not_ready = reason
    client = await stack.client()
    client.get("/readyz")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (503, reason)
    assert int(answer.headers["retry-after"]) >= 1
    client.get("/livez")
    assert (await client.answer()).status == 200


def failing(error: Exception) -> Callable[[Call, bytes], Awaitable[bytes]]:
    async def operation(call: Call, body: bytes) -> bytes:
        raise error

    return operation


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        (ApiError("x", code="busy"), 429, "busy", True),
        (GeumgoError("x", code="seal_required"), 403, "seal_required", False),
        (GeumgoError("x", code="reattest"), 409, "reattest", False),
        (GeumgoError("x", code="unavailable", retryable=True), 503, "unavailable", True),
        (ApiError("x", code="unavailable", retryable=False), 503, "unavailable", False),
        (RuntimeError("900101-1234567"), 500, "internal", False),
    ],
)
async def test_an_error_behind_is_a_problem_document(
    stack: Any, error: Exception, status: int, code: str, retryable: bool
) -> None:
    await stack.serve()
    stack.backend.operations["fail"] = failing(error)
    client = await stack.client()
    client.post("fail", b"")
    answer = await client.answer()
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"], problem["retryable"]) == (status, code, retryable)
    assert ("retry-after" in answer.headers) is (retryable and code in ("busy", "unavailable"))
    assert b"900101" not in answer.body
    client.post("echo", b"still open")
    assert (await client.answer()).body == b"still open"


async def test_a_request_id_is_kept_where_it_is_harmless(stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    client.post("echo", b"", "x-request-id: my-id.7")
    assert (await client.answer()).headers["x-request-id"] == "my-id.7"
    seen = set()
    for header in ('x-request-id: "}{', "x-request-id: " + "a" * 65, "x-other: 1"):
        client.post("echo", b"", header)
        seen.add((await client.answer()).headers["x-request-id"])
    assert len(seen) == 3
    assert {call.request_id for call, _ in stack.backend.calls} == seen | {"my-id.7"}


@settings(max_examples=150, deadline=None)
@given(
    target=st.binary(max_size=200),
    method=st.text(max_size=8),
    headers=st.dictionaries(
        st.sampled_from([b"x-request-id", b"geumgo-timeout-ms", b"content-type"]), st.binary(max_size=80)
    ),
)
def test_only_our_errors_come_out_of_any_head(
    target: bytes, method: str, headers: dict[bytes, bytes]
) -> None:
    routes = HttpRoutes(None, ApiSettings(), EdgeMetrics())  # type: ignore[arg-type]
    request = Request(0.0, method=method, target=target, headers=headers)
    with contextlib.suppress(ApiError):
        routes.begin(request)
    assert 0 < len(request.request_id) <= 64
    assert request.deadline > 0
