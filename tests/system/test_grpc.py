"""The gRPC edge of the real gateways: the same operations, the same codes."""

from __future__ import annotations

import json
import secrets
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from geumgo import attestation, keys
from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

HEADER = "id,name,rrn,phone,email,address,card,account,birth_date,memo"


@pytest.fixture
async def channel(stack):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port('grpc')}") as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return enclave_pb2_grpc.EnclaveStub(channel)


async def pool_key(stub, stack) -> keys.PoolPublicKey:
    nonce = secrets.token_bytes(32)
    answer = await stub.Attest(enclave_pb2.AttestRequest(nonce=nonce, use="seal"))
    evidence = attestation.Evidence(answer.kind, answer.document, answer.statement)
    roots = attestation.TrustRoots.from_pem((stack.nsm_state / "root.pem").read_bytes(), simulated=True)
    claims = attestation.verify(
        evidence, roots, now_ms=int(time.time() * 1000), nonce=nonce, use=attestation.Use.SEAL
    )
    assert claims.statement is not None
    return keys.PoolPublicKey(claims.statement.key)


def seal(pool, caller, operation, body, policy=b"", sequence=0):
    deadline = int(time.time() * 1000) + 20_000
    return keys.seal_request(
        pool, caller, operation=operation, body=body, policy=policy, sequence=sequence, deadline_ms=deadline
    )


def row(number: int) -> list[str | None]:
    return [str(number), "김민수", None, "010-1234-5678", None, None, None, None, None, None]


def batch(number: int) -> bytes:
    return json.dumps({"columns": HEADER.split(","), "rows": [row(number)]}).encode()


async def test_attest_seal_call(stub, stack, policy):
    pool = await pool_key(stub, stack)
    sealed = seal(pool, stack.pool.caller("records"), "deidentify", batch(1), policy.to_bytes())
    answer = await stub.Call(
        enclave_pb2.CallRequest(operation="deidentify", body=sealed.request, sealed=True), timeout=20
    )
    table = json.loads(sealed.answer_opener.open(answer.body))
    assert table["rows"][0][0] == "1"
    assert "010-1234-5678" not in json.dumps(table)


async def test_stream_answers_in_order(stub, stack, policy):
    pool, caller = await pool_key(stub, stack), stack.pool.caller("records")
    sealed = [seal(pool, caller, "deidentify", batch(n), policy.to_bytes(), sequence=n) for n in range(20)]

    async def requests():
        for one in sealed:
            yield enclave_pb2.CallRequest(operation="deidentify", body=one.request, sealed=True)

    answers = [answer.body async for answer in stub.Stream(requests(), timeout=20)]
    opened = [json.loads(one.answer_opener.open(body)) for one, body in zip(sealed, answers, strict=True)]
    assert [table["rows"][0][0] for table in opened] == [str(n) for n in range(20)]


@pytest.mark.parametrize(
    ("operation", "sealed", "code", "status"),
    [
        ("deidentify", False, "seal_required", grpc.StatusCode.FAILED_PRECONDITION),
        ("nothing", False, "unknown_operation", grpc.StatusCode.NOT_FOUND),
        ("deidentify", True, "malformed", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_codes(stub, operation, sealed, code, status):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Call(enclave_pb2.CallRequest(operation=operation, body=b"x", sealed=sealed), timeout=20)
    assert caught.value.code() is status
    assert dict(caught.value.trailing_metadata() or ())["geumgo-code"] == code


async def test_health_and_reflection(channel):
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    async def ask():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
    listed = [service.name async for answer in answers for service in answer.list_services_response.service]
    assert "geumgo.v1.Enclave" in listed
