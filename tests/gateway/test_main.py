"""`python -m geumgo.gateway`, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from geumgo.gateway.__main__ import _parse, main

QUICK = {"GEUMGO_GATEWAY_DRAIN_DELAY": "0.3", "GEUMGO_GATEWAY_DRAIN_TIMEOUT": "5"}


async def http(address: str, request: str, body: bytes = b"") -> tuple[int, bytes]:
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )
    data = await reader.read()
    writer.close()
    return int(data.split()[1]), data.partition(b"\r\n\r\n")[2]


async def until_ready(address: str) -> None:
    while (await http(address, "GET /readyz"))[0] != 200:
        await asyncio.sleep(0.02)


@pytest.mark.system
async def test_it_serves_on_all_its_edges_and_drains(processes: Any, runtime: Path) -> None:
    import grpc.aio

    from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

    await processes.enclave("a")
    unix = runtime / "gateway.sock"
    gateway, ready = await processes.gateway(
        "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--unix", str(unix), **QUICK
    )
    assert (ready["event"], ready["pid"], ready["unix"]) == ("listening", gateway.pid, str(unix))
    await until_ready(ready["http"])
    assert await http(ready["http"], "POST /v1/operations/echo", b"secret-body") == (200, b"secret-body")
    async with grpc.aio.insecure_channel(ready["grpc"]) as channel:
        stub = enclave_pb2_grpc.EnclaveStub(channel)  # type: ignore[no-untyped-call]
        assert (await stub.Call(enclave_pb2.CallRequest(operation="echo", body=b"hi"))).body == b"hi"
    reader, writer = await asyncio.open_unix_connection(unix)
    writer.write(b"GET /v1/enclaves HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert b'"name":"a"' in await reader.read()
    writer.close()

    gateway.send_signal(signal.SIGTERM)
    while (await http(ready["http"], "GET /readyz"))[0] != 503:
        await asyncio.sleep(0.01)
    assert await http(ready["http"], "POST /v1/operations/echo", b"late") == (200, b"late")
    assert await gateway.wait() == 0
    assert not unix.exists()

    lines = [json.loads(line) for line in (await processes.stderr(gateway)).splitlines()]
    assert {line["server"] for line in lines} == {"gateway"}
    events = [line["event"] for line in lines]
    assert [e for e in events if e not in ("request", "enclave")] == ["listening", "draining", "stopped"]
    assert lines[-1]["all_answered"] is True
    requests = [line for line in lines if line["event"] == "request" and line["operation"] == "echo"]
    assert [(line["edge"], line["code"], line["bytes_in"]) for line in requests] == [
        ("http", "ok", 11),
        ("grpc", "ok", 2),
        ("http", "ok", 4),
    ]
    assert "secret-body" not in json.dumps(lines)


@pytest.mark.system
async def test_a_second_signal_ends_the_delay(processes: Any) -> None:
    gateway, ready = await processes.gateway("--http", "127.0.0.1:0", GEUMGO_GATEWAY_DRAIN_DELAY="600")
    gateway.send_signal(signal.SIGTERM)
    while b"draining" not in (await http(ready["http"], "GET /readyz"))[1]:
        await asyncio.sleep(0.01)
    gateway.send_signal(signal.SIGINT)
    assert await gateway.wait() == 0


@pytest.mark.system
async def test_an_address_in_use_is_said_clearly(processes: Any) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await processes._start(
        "-m", "geumgo.gateway", "--runtime-dir", "/nonexistent", "--http", f"127.0.0.1:{port}"
    )
    assert await process.wait() == 2
    assert b"Can't listen on 127.0.0.1" in await processes.stderr(process)
    server.close()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--runtime-dir", "x"],
        ["--runtime-dir", "x", "--http", "8080"],
        ["--runtime-dir", "x", "--http", "localhost:http"],
        ["--runtime-dir", "x", "--http", "localhost:99999"],
        ["--runtime-dir", "x", "--http", ":1", "--weight", "a"],
        ["--runtime-dir", "x", "--http", ":1", "--weight", "a=0"],
        ["--runtime-dir", "x", "--http", ":1", "--weight", "a=nan"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_command_line() -> None:
    text = "--runtime-dir /run/geumgo --http [::1]:80 --grpc :90 --enclave a --enclave b --weight a=2.5"
    options, level = _parse([*text.split(), "--log-level", "debug"])
    assert (options.http, options.grpc) == (("::1", 80), ("0.0.0.0", 90))
    assert (options.only, options.weights, level) == (("a", "b"), {"a": 2.5}, "debug")


def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEUMGO_GATEWAY_MAX_QUEUE", "many")
    assert main(["--runtime-dir", "x", "--http", "127.0.0.1:0"]) == 2
    assert "GEUMGO_GATEWAY_MAX_QUEUE" in capsys.readouterr().err
