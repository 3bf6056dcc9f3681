"""Real processes are killed, stopped and flooded while clients call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUICK = {
    "GEUMGO_GATEWAY_DRAIN_DELAY": "0.5",
    "GEUMGO_GATEWAY_DRAIN_TIMEOUT": "10",
    "GEUMGO_GATEWAY_REDIAL_LEAST": "0.05",
    "GEUMGO_GATEWAY_REDIAL_MOST": "0.2",
    "GEUMGO_GATEWAY_POLL": "0.05",
    "GEUMGO_GATEWAY_DESCRIBE_TIMEOUT": "1",
    "GEUMGO_GATEWAY_DESCRIBE_READY": "0.2",
    "GEUMGO_API_LOG_REQUESTS": "false",
}


class Client:
    """One keep-alive connection that opens itself again."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._address = (host, int(port))
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, operation: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; raises OSError or EOFError where there was no answer."""
        fresh = self._writer is None
        if fresh:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        assert self._reader is not None
        assert self._writer is not None
        try:
            head = (
                f"POST /v1/operations/{operation} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            self._writer.write(head.encode() + body)
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            answer = await self._reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError):
            await self.aclose()
            raise
        if headers.get("connection") == "close":
            await self.aclose()
        return int(first.split()[1]), headers, answer

    async def aclose(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None


class Load:
    """Clients that call until they are told to stop."""

    def __init__(self, address: str, operation: str, clients: int) -> None:
        self.seen: Counter[str] = Counter()
        self.problems: list[dict[str, Any]] = []
        self.lost: list[bytes] = []
        self.stopping = False
        self._tasks = [
            asyncio.get_running_loop().create_task(self._run(address, operation, number))
            for number in range(clients)
        ]

    async def _run(self, address: str, operation: str, client_number: int) -> None:
        client = Client(address)
        number = 0
        while not self.stopping:
            number += 1
            body = b"bulk %d %d" % (client_number, number)
            try:
                status, _, answer = await client.post(operation, body)
            except ConnectionRefusedError:
                self.seen["refused"] += 1
                break
            except (OSError, EOFError) as error:
                self.seen["lost"] += 1
                self.lost.append(body + b" " + type(error).__name__.encode())
                continue
            if status == 200:
                assert answer == body
                self.seen["ok"] += 1
            else:
                problem = json.loads(answer)
                self.seen[problem["code"]] += 1
                self.problems.append(problem)
        await client.aclose()

    async def reach(self, count: int) -> None:
        """Wait until so many more calls were answered well."""
        goal = self.seen["ok"] + count
        while self.seen["ok"] < goal:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 30)


async def ready(address: str, count: int) -> None:
    """Wait until the gateway sees so many enclaves ready."""
    host, port = address.rsplit(":", 1)
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/enclaves HTTP/1.1\r\nconnection: close\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        if sum(enclave["state"] == "ready" for enclave in json.loads(body)["enclaves"]) == count:
            return
        await asyncio.sleep(0.02)


@pytest.fixture
async def pair(processes: Any) -> tuple[Any, Any, str]:
    """Two enclave processes behind one gateway process."""
    a = await processes.enclave("a")
    b = await processes.enclave("b")
    _, listening = await processes.gateway("--http", "127.0.0.1:0", **QUICK)
    await ready(listening["http"], 2)
    return a, b, listening["http"]


async def test_an_enclave_killed_under_load_costs_idempotent_calls_nothing(pair: Any) -> None:
    a, _, address = pair
    load = Load(address, "echo", 32)
    slow = Load(address, "slow", 16)
    await load.reach(200)
    await slow.reach(16)
    a.kill()
    await load.reach(500)
    await slow.reach(32)
    await load.stop()
    await slow.stop()
    assert (load.problems, load.lost) == ([], [])
    assert (slow.problems, slow.lost) == ([], [])


async def test_an_enclave_killed_amid_what_is_not_idempotent_is_said_clearly(pair: Any) -> None:
    a, _, address = pair
    load = Load(address, "slow-once", 32)
    await load.reach(64)
    a.kill()
    await load.reach(64)
    await load.stop()
    assert load.lost == []
    assert 1 <= len(load.problems) <= 32
    for problem in load.problems:
        assert (problem["code"], problem["retryable"]) == ("unavailable", False)
        assert "not known" in problem["detail"]
        assert "idempotent" in problem["detail"]


async def test_an_enclave_that_hangs_under_load_costs_idempotent_calls_nothing(pair: Any) -> None:
    a, _, address = pair
    load = Load(address, "echo", 16)
    await load.reach(100)
    a.send_signal(signal.SIGSTOP)
    await ready(address, 1)
    await load.reach(100)
    a.send_signal(signal.SIGCONT)
    await ready(address, 2)
    await load.stop()
    assert (load.problems, load.lost) == ([], [])


async def test_all_enclaves_gone_is_503_with_a_time(pair: Any) -> None:
    a, b, address = pair
    a.kill()
    b.kill()
    client = Client(address)
    while True:
        status, headers, body = await client.post("echo", b"x")
        if status != 200:
            break
    problem = json.loads(body)
    assert status == 503
    assert problem["retryable"] is True
    assert int(headers["retry-after"]) >= 1
    await client.aclose()


async def test_an_enclave_that_comes_back_is_used_again(pair: Any, processes: Any) -> None:
    a, _, address = pair
    load = Load(address, "echo", 8)
    await load.reach(50)
    a.kill()
    await a.wait()
    await ready(address, 1)
    await processes.enclave("a")
    await ready(address, 2)
    await load.stop()
    assert (load.problems, load.lost) == ([], [])


async def test_a_client_hears_at_once_when_the_gateway_has_too_much(processes: Any) -> None:
    await processes.enclave("a", 0.2)
    small = {"GEUMGO_GATEWAY_ENCLAVE_IN_FLIGHT": "4", "GEUMGO_GATEWAY_MAX_QUEUE": "8"}
    _, listening = await processes.gateway("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", **QUICK, **small)
    await ready(listening["http"], 1)

    async def one(number: int) -> tuple[int, str]:
        client = Client(listening["http"])
        status, headers, _ = await client.post("slow", b"bulk %d" % number)
        await client.aclose()
        return status, headers.get("retry-after", "")

    answers = Counter(await asyncio.gather(*(one(number) for number in range(60))))
    assert set(answers) == {(200, ""), (429, "1")}
    assert answers[200, ""] >= 12
    assert answers[429, "1"] >= 30

    async with grpc.aio.insecure_channel(listening["grpc"]) as channel:
        stub = enclave_pb2_grpc.EnclaveStub(channel)  # type: ignore[no-untyped-call]
        request = enclave_pb2.CallRequest(operation="slow", body=b"bulk")
        calls = await asyncio.gather(*(stub.Call(request) for _ in range(60)), return_exceptions=True)
    refused = [call for call in calls if isinstance(call, grpc.aio.AioRpcError)]
    assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in refused:
        metadata = dict(call.trailing_metadata())
        assert (metadata["geumgo-code"], metadata["geumgo-retryable"], metadata["retry-after"]) == (
            "busy",
            "true",
            "1",
        )


async def test_a_thousand_clients_at_once_are_all_answered(pair: Any) -> None:
    *_, address = pair
    load = Load(address, "echo", 1000)
    await load.reach(3000)
    await load.stop()
    assert (load.problems, load.lost) == ([], [])


async def test_hostile_clients_do_not_disturb_others(pair: Any) -> None:
    *_, address = pair
    host, port = address.rsplit(":", 1)
    load = Load(address, "echo", 8)
    hostile = []
    for number in range(200):
        _, writer = await asyncio.open_connection(host, int(port))
        hostile.append(writer)
        writer.write(
            (
                b"\x16\x03\x01 garbage\r\n\r\n",
                b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 16000000\r\n\r\n" + b"x" * 1000,
                b"POST /v1/operations/echo HTTP/1.1\r\ncontent-length: 999999999999\r\n\r\n",
                b"GET /",
            )[number % 4]
        )
    await load.reach(300)
    await load.stop()
    for writer in hostile:
        writer.transport.abort()
    assert (load.problems, load.lost) == ([], [])


async def test_sigterm_under_load_loses_no_accepted_request(processes: Any) -> None:
    await processes.enclave("a")
    gateway, listening = await processes.gateway("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", **QUICK)
    await ready(listening["http"], 1)
    load = Load(listening["http"], "echo", 32)
    slow = Load(listening["http"], "slow-once", 32)
    codes: Counter[str] = Counter()

    async def over_grpc() -> None:
        async with grpc.aio.insecure_channel(listening["grpc"]) as channel:
            stub = enclave_pb2_grpc.EnclaveStub(channel)  # type: ignore[no-untyped-call]
            while True:
                try:
                    await stub.Call(enclave_pb2.CallRequest(operation="slow", body=b"bulk"))
                    codes["ok"] += 1
                except grpc.aio.AioRpcError as error:
                    metadata = dict(error.trailing_metadata() or ())
                    codes[str(metadata.get("geumgo-code", error.code().name))] += 1
                    return

    calls = [asyncio.get_running_loop().create_task(over_grpc()) for _ in range(4)]
    await load.reach(200)
    await slow.reach(32)
    gateway.send_signal(signal.SIGTERM)
    assert await gateway.wait() == 0
    await load.stop()
    await slow.stop()
    await asyncio.gather(*calls)
    assert (load.problems, slow.problems) == ([], [])
    assert (load.lost, slow.lost) == ([], [])
    assert load.seen["refused"] == slow.seen["refused"] == 32
    assert codes["ok"] >= 4
    assert codes["draining"] == 4
    assert set(codes) == {"ok", "draining"}


async def test_one_of_two_gateways_on_one_port_is_killed(processes: Any) -> None:
    await processes.enclave("a")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    first, _ = await processes.gateway("--http", address, **QUICK)
    second, _ = await processes.gateway("--http", address, **QUICK)
    assert first.returncode is second.returncode is None

    async def settled() -> None:
        for _ in range(20):  # the kernel spreads connections over both
            await ready(address, 1)

    await settled()
    load = Load(address, "echo", 32)
    await load.reach(300)
    first.kill()
    await first.wait()
    await load.reach(300)
    await load.stop()
    assert load.problems == []
    assert load.seen["refused"] == 0
    # A connection to the one that was killed is lost once; what its client repeats is answered by the other.
    assert 0 < load.seen["lost"] <= 32


async def test_one_of_two_gateways_on_one_port_drains(processes: Any) -> None:
    await processes.enclave("a")
    first, listening = await processes.gateway("--http", "127.0.0.1:0", **QUICK)
    address = listening["http"]
    await processes.gateway("--http", address, **QUICK)
    for _ in range(20):
        await ready(address, 1)
    load = Load(address, "echo", 32)
    await load.reach(300)
    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    await load.reach(300)
    await load.stop()
    assert (load.problems, load.lost) == ([], [])
    assert load.seen["refused"] == 0


async def test_a_manager_that_says_stop_moves_the_load(pair: Any, runtime: Path) -> None:
    *_, address = pair
    load = Load(address, "echo", 16)
    await load.reach(100)
    path = runtime / "a" / "enclave.json"
    content = json.loads(path.read_bytes())
    (runtime / "a" / "new").write_text(json.dumps({**content, "state": "stopped"}))
    (runtime / "a" / "new").replace(path)
    await ready(address, 1)
    await load.reach(100)
    await load.stop()
    assert (load.problems, load.lost) == ([], [])
