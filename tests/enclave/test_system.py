"""The whole program as a process of its own: init, heartbeat, broker, NSM socket, the KMS emulator over egress."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geumgo._base import SystemClock
from geumgo.attestation import Evidence, TrustRoots, Use, verify
from geumgo.channel import Connection, Role, Stream
from geumgo.codec import cbor
from geumgo.deid import CompiledPolicy
from geumgo.keys import (
    Caller,
    CallerKey,
    Credentials,
    KmsClient,
    KmsSettings,
    Operation,
    PoolPublicKey,
    seal_request,
    tcp_dial,
)
from geumgo.keys.pool import create_pool, release
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm, serve_nsm
from geumgo.vsock.broker import BrokerServer

pytestmark = pytest.mark.system

PCRS = {0: secrets.token_bytes(48), 1: b"\x02" * 48, 2: b"\x03" * 48}


@dataclass
class Emulator:
    endpoint: str
    ca: str
    admin: dict[str, str]
    parent: dict[str, str]

    def client(self) -> KmsClient:
        async def credentials() -> Credentials:
            return Credentials(self.admin["access_key_id"], self.admin["secret_access_key"])

        return KmsClient(
            endpoint=self.endpoint,
            region="ap-northeast-2",
            ca_pem=self.ca,
            credentials=credentials,
            dial=tcp_dial,
            clock=SystemClock(),
        )


@pytest.fixture
async def emulator(tmp_path: Path, authority: NsmAuthority) -> AsyncIterator[Emulator]:
    root = tmp_path / "root.pem"
    root.write_text(authority.root_pem)
    arguments = ("--port", "0", "--state", str(tmp_path / "kms"), "--nitro-root", str(root))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "geumgo.testing.kms", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    yield Emulator(
        ready["endpoint"],
        Path(ready["ca"]).read_text(),
        json.loads(Path(ready["credentials"]).read_text()),
        json.loads(Path(ready["parent_credentials"]).read_text()),
    )
    process.terminate()
    await process.communicate()


class Launched:
    """One enclave process with this test as its launcher and manager."""

    def __init__(self, process: asyncio.subprocess.Process, broker: BrokerServer, emulator: Emulator) -> None:
        self.process = process
        self.broker = broker
        self.emulator = emulator
        self.events: list[dict[str, Any]] = []

    async def connect(self, role: Role = Role.CALL) -> Connection:
        while 7007 not in self.broker.ports:
            await asyncio.sleep(0.01)
        ours, theirs = socket.socketpair()
        assert self.broker.offer(7007, theirs, 3)
        handler = self.serve if role is Role.CONTROL else None
        return await Connection.dial(ours, role=role, handler=handler)

    async def serve(self, stream: Stream) -> None:
        if stream.kind == "log":
            async for message in stream:
                self.events.append(cbor.loads(message))
        elif stream.kind == "credentials":
            parent = self.emulator.parent
            await stream.reply(
                cbor.dumps(
                    {
                        "access_key_id": parent["access_key_id"],
                        "secret_access_key": parent["secret_access_key"],
                        "session_token": parent["session_token"],
                        "expires_ms": int(time.time() * 1000) + 3_600_000,
                    }
                )
            )
        else:
            await carry(stream)


async def carry(stream: Stream) -> None:
    reader, writer = await asyncio.open_connection(str(stream.metadata["host"]), int(stream.metadata["port"]))

    async def outwards() -> None:
        async for chunk in stream:
            writer.write(chunk)
            await writer.drain()

    task = asyncio.create_task(outwards())
    try:
        while chunk := await reader.read(65536):
            await stream.send(chunk)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def launch(
    root: Path, nsm: SoftwareNsm, emulator: Emulator, stack: contextlib.AsyncExitStack
) -> Launched:
    (root / "cmd").write_text(f"/usr/bin/python3.{sys.version_info.minor}\n-B\n-m\ngeumgo.enclave\n")
    (root / "env").write_text("LANG=C.UTF-8\nFROM_IMAGE=1\nPYTHONPATH=/opt/app\n")
    broker_ours, broker_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nsm_ours, nsm_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dialled: list[tuple[int, int]] = []

    async def dial(cid: int, port: int) -> socket.socket:
        dialled.append((cid, port))
        if cid != 2 or len(dialled) < 4:
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        async def beat() -> None:
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(ours, 16) == b"\xb7"
            await loop.sock_sendall(ours, b"\xb7")
            assert await loop.sock_recv(ours, 16) == b""
            ours.close()

        beats.append(asyncio.create_task(beat()))
        return theirs

    beats: list[asyncio.Task[None]] = []
    broker = BrokerServer(broker_ours, dial)
    stack.push_async_callback(broker.aclose)
    threading.Thread(target=serve_nsm, args=(nsm, nsm_ours), daemon=True).start()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "geumgo.enclave.init",
        env={
            "GEUMGO_VSOCK_FD": str(broker_theirs.fileno()),
            "GEUMGO_NSM_FD": str(nsm_theirs.fileno()),
            "GEUMGO_ROOT": str(root),
            "GEUMGO_CMD": str(root / "cmd"),
            "GEUMGO_ENV": str(root / "env"),
            "PATH": os.environ["PATH"],
        },
        pass_fds=(broker_theirs.fileno(), nsm_theirs.fileno()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    broker_theirs.close()
    nsm_theirs.close()

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    stack.push_async_callback(end)
    return Launched(process, broker, emulator)


async def until(condition: Any) -> Any:
    while not (found := await condition()):
        await asyncio.sleep(0.02)
    return found


async def test_from_init_to_a_deidentified_record(tmp_path, authority, emulator):
    caller = CallerKey.generate("records")
    material = await create_pool(
        emulator.client(),
        pool="demo",
        purposes=["customers"],
        operations={"deidentify": Operation(callers=("records",)), "echo": Operation(open=True)},
        callers={"records": Caller(caller.public_bytes, ("customers",), "any")},
        kms_settings=KmsSettings(emulator.endpoint, "ap-northeast-2", emulator.ca),
        admin=emulator.admin["principal"],
    )
    names = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
    await release(emulator.client(), material.key_id, names, emulator.admin["principal"])
    roots = []
    for name in ("good", "changed"):
        root = tmp_path / name
        (root / "etc/geumgo").mkdir(parents=True)
        (root / "etc/geumgo/measured.json").write_bytes(material.configuration.to_json())
        roots.append(root)
    async with contextlib.AsyncExitStack() as stack:
        began = time.monotonic()
        good = await launch(roots[0], SoftwareNsm(authority, PCRS), emulator, stack)
        control = await good.connect(Role.CONTROL)
        stack.push_async_callback(control.aclose)

        async def ready() -> Any:
            told = cbor.loads(await control.call("describe"))
            return told if told["state"] == "ready" else None

        told = await until(ready)
        print(f"ready after {time.monotonic() - began:.2f} s")
        assert told["pool"] == "demo"

        nonce = secrets.token_bytes(32)
        connection = await good.connect()
        stack.push_async_callback(connection.aclose)
        evidence = Evidence.from_cbor(
            await connection.call("attest", cbor.dumps({"nonce": nonce, "use": "seal"}))
        )
        claims = verify(
            evidence,
            TrustRoots.from_pem(authority.root_pem, simulated=True),
            now_ms=int(time.time() * 1000),
            nonce=nonce,
            use=Use.SEAL,
        )
        assert claims.measurements["pcr0"] == PCRS[0].hex()
        assert claims.statement is not None
        assert claims.statement.configuration == material.configuration.digest()
        policy = CompiledPolicy.from_map(
            {
                "version": 1,
                "name": "t",
                "fields": {"name": {"technique": "pseudonym", "purpose": "customers"}},
            }
        )
        sealed = seal_request(
            PoolPublicKey(claims.statement.key),
            caller,
            operation="deidentify",
            body='{"columns":["name"],"rows":[["홍길동"]]}'.encode(),
            policy=policy.to_bytes(),
            deadline_ms=int(time.time() * 1000) + 30_000,
        )
        answer = await connection.call(
            "operation", sealed.request, metadata={"name": "deidentify", "sealed": True}
        )
        table = json.loads(sealed.answer_opener.open(answer))
        assert table["rejected"] == []
        assert table["rows"][0][0] not in ("홍길동", None)

        # Another measurement, the same calls: the key service refuses, and the enclave says so.
        changed = await launch(roots[1], SoftwareNsm(authority, {**PCRS, 0: b"\x09" * 48}), emulator, stack)
        refused = await changed.connect(Role.CONTROL)
        stack.push_async_callback(refused.aclose)

        async def denied() -> Any:
            told = cbor.loads(await refused.call("describe"))
            return told if told["reason"] == "access_denied" else None

        assert (await until(denied))["state"] == "starting"

        for enclave, link in ((good, control), (changed, refused)):
            await link.call("shutdown")
            out, err = await enclave.process.communicate()
            assert (enclave.process.returncode, out, err) == (0, b"", b"")
        codes = [event["code"] for event in good.events]
        assert codes.index("started") < codes.index("ready") < codes.index("stopped")
        assert "pool_key_refused" in [event["code"] for event in changed.events]
