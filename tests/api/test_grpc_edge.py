"""The gRPC edge, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from geumgo._base import CODES, GeumgoError
from geumgo.api import ApiError, ApiSettings, ByteBudget, Call, EdgeMetrics, JsonLog, ListenError
from geumgo.api.grpc_edge import GrpcServer
from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc


class Edge:
    """A server with `backend` behind it and a channel to it."""

    def __init__(self, backend: Any, **parts: Any) -> None:
        self.backend = backend
        self.metrics = EdgeMetrics()
        self.budget = ByteBudget(parts.pop("max_bytes", 1 << 20))
        log = parts.pop("log", None)
        self.server = GrpcServer(
            backend, settings=ApiSettings(**parts), metrics=self.metrics, budget=self.budget, log=log
        )

    async def __aenter__(self) -> Edge:
        self.address = await self.server.listen_tcp("127.0.0.1", 0)
        self.channel = grpc.aio.insecure_channel(
            f"{self.address[0]}:{self.address[1]}", options=[("grpc.max_receive_message_length", -1)]
        )
        self.stub = enclave_pb2_grpc.EnclaveStub(self.channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.backend.release.set()
        await self.channel.close()
        await self.server.aclose()


async def problem_of(call: Any) -> tuple[grpc.StatusCode, Any, dict[str, Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    metadata = dict(caught.value.trailing_metadata())
    problem = enclave_pb2.Problem.FromString(metadata["geumgo-problem-bin"])
    return caught.value.code(), problem, metadata


async def eventually(check: Callable[[], bool]) -> None:
    """The client has its status before the server's method has ended."""
    while not check():
        await asyncio.sleep(0.001)


async def test_a_call_passes_its_bytes_exactly(backend: Any) -> None:
    async with Edge(backend) as edge:
        body = bytes(range(256)) * 4
        answer = await edge.stub.Call(enclave_pb2.CallRequest(operation="echo", body=body, sealed=True))
        assert answer.body == body
        call, passed = backend.calls[0]
        assert (call.operation, call.sealed, passed) == ("echo", True, body)


@pytest.mark.parametrize("name", sorted(CODES))
async def test_every_code_has_its_status_and_its_metadata(backend: Any, name: str) -> None:
    async def fail(call: Call, body: bytes) -> bytes:
        raise ApiError("What happened", code=name)

    backend.operations["fail"] = fail
    async with Edge(backend) as edge:
        status, problem, metadata = await problem_of(
            edge.stub.Call(enclave_pb2.CallRequest(operation="fail"))
        )
        code = CODES[name]
        assert status.name == code.grpc
        assert (problem.code, problem.retryable, problem.title) == (name, code.retryable, code.title)
        assert problem.detail == "What happened"
        assert metadata["geumgo-code"] == name
        assert metadata["geumgo-retryable"] == ("true" if code.retryable else "false")
        if name in ("busy", "starting", "draining", "unavailable"):
            assert int(metadata["retry-after"]) >= 1
            assert problem.retry_after_ms >= 1000
        await eventually(lambda: f'code="{name}"' in edge.metrics.render().decode())
        assert edge.budget.used == 0


@pytest.mark.parametrize("error", [RuntimeError("900101"), GeumgoError("900101", code="local")])
async def test_what_no_wire_knows_says_nothing(backend: Any, error: Exception) -> None:
    async def fail(call: Call, body: bytes) -> bytes:
        raise error

    backend.operations["fail"] = fail
    async with Edge(backend) as edge:
        status, problem, metadata = await problem_of(
            edge.stub.Call(enclave_pb2.CallRequest(operation="fail"))
        )
        assert (status, problem.code) == (grpc.StatusCode.INTERNAL, "internal")
        assert "900101" not in str(metadata)


async def test_the_clients_deadline_is_the_calls(backend: Any) -> None:
    async with Edge(backend) as edge:
        before = time.monotonic()
        await edge.stub.Call(enclave_pb2.CallRequest(operation="echo"), timeout=7)
        deadline = backend.calls[0][0].deadline
        assert before + 6 < deadline < time.monotonic() + 7.1
        await edge.stub.Call(enclave_pb2.CallRequest(operation="echo"))
        deadline = backend.calls[1][0].deadline
        assert deadline < time.monotonic() + ApiSettings().default_timeout


async def test_a_deadline_that_passes_cancels_the_call(backend: Any) -> None:
    async with Edge(backend) as edge:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge.stub.Call(enclave_pb2.CallRequest(operation="wait"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await backend.cancelled.wait()


async def test_a_client_that_cancels_cancels_the_call(backend: Any) -> None:
    async with Edge(backend) as edge:
        call = edge.stub.Call(enclave_pb2.CallRequest(operation="wait", body=b"abc"))
        await backend.entered.wait()
        call.cancel()
        await backend.cancelled.wait()
        await eventually(lambda: edge.budget.used == 0)


async def test_a_message_over_the_limit_is_refused_by_grpc(backend: Any) -> None:
    async with Edge(backend, max_body=1000) as edge:
        assert (
            len((await edge.stub.Call(enclave_pb2.CallRequest(operation="a", body=bytes(1000)))).body) == 1000
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge.stub.Call(enclave_pb2.CallRequest(operation="a", body=bytes(3000)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(backend.calls) == 1


async def test_the_memory_for_all_bodies_is_bounded(backend: Any) -> None:
    async with Edge(backend, max_bytes=1000) as edge:
        first = edge.stub.Call(enclave_pb2.CallRequest(operation="wait", body=bytes(600)))
        await backend.entered.wait()
        status, problem, _ = await problem_of(
            edge.stub.Call(enclave_pb2.CallRequest(operation="echo", body=bytes(600)))
        )
        assert (status, problem.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        backend.release.set()
        assert len((await first).body) == 600
        await eventually(lambda: edge.budget.used == 0)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a" * 65, '"'])
async def test_a_name_that_no_operation_can_have_is_unknown(backend: Any, name: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = JsonLog(file.fileno())
        async with Edge(backend, log=log) as edge:
            status, problem, _ = await problem_of(edge.stub.Call(enclave_pb2.CallRequest(operation=name)))
            assert (status, problem.code) == (grpc.StatusCode.NOT_FOUND, "unknown_operation")
        log.flush()
    line = json.loads((tmp_path / "log").read_bytes())
    assert (line["operation"], line["code"]) == ("", "unknown_operation")


async def test_evidence(backend: Any) -> None:
    async with Edge(backend) as edge:
        answer = await edge.stub.Attest(enclave_pb2.AttestRequest(nonce=bytes(32)))
        assert (answer.kind, answer.document, answer.statement) == ("nitro", b"document", b"statement")
        await edge.stub.Attest(enclave_pb2.AttestRequest(nonce=bytes(16), use="channel"))
        assert backend.nonces == [(bytes(32), "seal"), (bytes(16), "channel")]


@pytest.mark.parametrize(("nonce", "use"), [(b"", ""), (bytes(15), ""), (bytes(65), ""), (bytes(32), "kms")])
async def test_a_question_that_is_not_ours_is_malformed(backend: Any, nonce: bytes, use: str) -> None:
    async with Edge(backend) as edge:
        call = edge.stub.Attest(enclave_pb2.AttestRequest(nonce=nonce, use=use))
        status, problem, _ = await problem_of(call)
        assert (status, problem.code) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed")


async def test_a_stream_answers_each_message_in_order(backend: Any) -> None:
    async with Edge(backend) as edge:

        def requests() -> Iterator[enclave_pb2.CallRequest]:
            yield enclave_pb2.CallRequest(operation="echo", body=b"0")
            for number in range(1, 200):
                yield enclave_pb2.CallRequest(body=b"%d" % number)

        answers = [answer.body async for answer in edge.stub.Stream(requests())]
        assert answers == [b"%d" % number for number in range(200)]
        await eventually(lambda: edge.budget.used == 0)


async def test_an_empty_stream_is_answered_by_an_empty_one(backend: Any) -> None:
    async with Edge(backend) as edge:
        assert [answer async for answer in edge.stub.Stream(iter(()))] == []


async def test_a_stream_is_for_one_operation(backend: Any) -> None:
    async with Edge(backend) as edge:
        requests = [enclave_pb2.CallRequest(operation=name) for name in ("echo", "echo", "other")]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in edge.stub.Stream(iter(requests))]
        assert dict(caught.value.trailing_metadata())["geumgo-code"] == "malformed"
        await eventually(lambda: edge.budget.used == 0)


async def test_a_stream_that_fails_in_its_midst_keeps_what_was_answered(backend: Any) -> None:
    async with Edge(backend) as edge:
        bodies = (b"a", b"b", b"fail", b"c")
        call = edge.stub.Stream(
            iter([enclave_pb2.CallRequest(operation="echo", body=body) for body in bodies])
        )
        answers = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for answer in call:
                answers.append(answer.body)
        assert answers == [b"a", b"b"]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await eventually(lambda: edge.budget.used == 0)


async def test_a_stream_that_is_cancelled_frees_the_backend(backend: Any) -> None:
    async with Edge(backend) as edge:

        async def requests() -> AsyncIterator[enclave_pb2.CallRequest]:
            yield enclave_pb2.CallRequest(operation="echo", body=b"wait")
            await asyncio.Event().wait()

        call = edge.stub.Stream(requests())
        await backend.entered.wait()
        call.cancel()
        await backend.cancelled.wait()
        await eventually(lambda: edge.budget.used == 0)


async def test_health_follows_the_backend(backend: Any) -> None:
    backend.not_ready = "starting"
    async with Edge(backend) as edge:
        stub = health_pb2_grpc.HealthStub(edge.channel)  # type: ignore[no-untyped-call]
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="geumgo.v1.Enclave"))
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await watch.read()).status == not_serving
        backend.not_ready = None
        assert (await watch.read()).status == serving
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == serving
        await edge.server.begin_drain()
        assert (await watch.read()).status == not_serving
        watch.cancel()


async def test_reflection_describes_the_service(backend: Any) -> None:
    async with Edge(backend) as edge:

        def reflect() -> Any:
            with grpc.insecure_channel(f"127.0.0.1:{edge.address[1]}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                pool = DescriptorPool(database)
                return list(database.get_services()), pool.FindServiceByName("geumgo.v1.Enclave")

        services, service = await asyncio.to_thread(reflect)
        assert {"geumgo.v1.Enclave", "grpc.health.v1.Health"} <= set(services)
        assert [method.name for method in service.methods] == ["Call", "Stream", "Attest"]


async def test_two_servers_share_a_port(backend: Any) -> None:
    async with Edge(backend) as edge:
        second = GrpcServer(backend)
        assert await second.listen_tcp("127.0.0.1", edge.address[1]) == edge.address
        await second.aclose()
        assert (await edge.stub.Call(enclave_pb2.CallRequest(operation="echo", body=b"x"))).body == b"x"


async def test_an_address_that_is_not_ours_is_a_clear_error(backend: Any) -> None:
    server = GrpcServer(backend)
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        await server.listen_tcp("192.0.2.1", 0)
    await server.aclose()


async def test_drain_finishes_what_was_begun(backend: Any) -> None:
    async with Edge(backend) as edge:
        call = asyncio.ensure_future(edge.stub.Call(enclave_pb2.CallRequest(operation="wait", body=b"abc")))
        await backend.entered.wait()
        draining = asyncio.create_task(edge.server.drain(10))
        await asyncio.sleep(0)
        status, problem, _ = await problem_of(edge.stub.Call(enclave_pb2.CallRequest(operation="echo")))
        assert (status, problem.code, problem.retryable) == (grpc.StatusCode.UNAVAILABLE, "draining", True)
        backend.release.set()
        assert (await call).body == b"abc"
        assert await draining is True


async def test_drain_gives_up_after_its_time(backend: Any) -> None:
    async with Edge(backend) as edge:
        call = asyncio.ensure_future(edge.stub.Call(enclave_pb2.CallRequest(operation="wait")))
        await backend.entered.wait()
        assert await edge.server.drain(0.1) is False
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await backend.cancelled.wait()


async def test_a_request_id_is_kept(backend: Any) -> None:
    async with Edge(backend) as edge:
        await edge.stub.Call(
            enclave_pb2.CallRequest(operation="echo"), metadata=(("x-request-id", "mine-1"),)
        )
        await edge.stub.Call(enclave_pb2.CallRequest(operation="echo"), metadata=(("x-request-id", '"}'),))
        first, second = (call.request_id for call, _ in backend.calls)
        assert first == "mine-1"
        assert '"' not in second
