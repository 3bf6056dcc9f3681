"""The parent as adversary: a process that has exactly what the protocol gives a manager, and misuses it.

    python adversary.py FOLDER

FOLDER holds what a manager has: `enclave.json` (where the enclave is), the image, the measured
configuration, AWS credentials, the key service's address and CA; and what a manager sees of others: their
sealed requests come with the commands. Landlock keeps the process from every other file of the stack, so
that neither callers' keys nor the software NSM's, which stands where hardware would, are within reach.

It reads commands, one JSON object a line, and answers each with one: {"do": name, …} → {"code": …, …}.
Bytes travel in base64. What it attacks with is all here; what must come of it is in test_parent.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import json
import os
import secrets
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from geumgo import keys, vsock
from geumgo._base import GeumgoError, SystemClock
from geumgo.backends.process import _landlock
from geumgo.backends.process._linux import call as system_call
from geumgo.backends.process._linux import no_new_privileges
from geumgo.channel import Connection, Role, Stream
from geumgo.codec import cbor
from geumgo.keys._tls import client_context
from geumgo.manager._control import ControlHandler, FileCredentials
from geumgo.manager._egress import Egress, parse_destination
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

TIMEOUT = 20.0
_READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute, read a file, list a folder


def unb(text: str) -> bytes:
    return base64.b64decode(text)


def b(data: bytes) -> str:
    return base64.b64encode(data).decode()


def code_of(error: BaseException) -> str:
    return getattr(error, "code", "") or type(error).__name__


def confine(own: Path) -> str:
    """Leave this process only its programs' files to read, and `own`; say why where Landlock is not to be had."""
    try:
        # Files only: a manager may dial.
        rights = replace(_landlock.handled(), network=0, scopes=0)
        ruleset = _landlock._ruleset(rights)
    except OSError as error:
        return f"unconfined: {error.strerror}"
    source = Path(keys.__file__).resolve().parents[2]
    readable = [sys.prefix, sys.base_prefix, source, "/usr", "/lib", "/lib64", "/etc", "/dev", "/proc/self"]
    for place, allowed in [*((place, _READ) for place in readable), (own, rights.files)]:
        with contextlib.suppress(FileNotFoundError):
            folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed & rights.files, folder)
            system_call("landlock_add_rule", ruleset, 1, rule, 0)
            os.close(folder)
    no_new_privileges()
    system_call("landlock_restrict_self", ruleset, 0)
    return "confined"


class Parent:
    """What a manager holds, and every use of it that it should not make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kms = json.loads((folder / "kms.json").read_text())
        self.configuration = keys.MeasuredConfiguration.from_json((folder / "measured.json").read_bytes())
        self.own_key = keys.CallerKey.generate("parent")
        self.rsa = keys.generate_recipient_key()
        self.control: Connection | None = None
        self.calls: list[Connection] = []
        self.logs: list[bytes] = []
        self.asked: list[str] = []

    @property
    def address(self) -> vsock.Address:
        return vsock.Address.parse(json.loads((self.folder / "enclave.json").read_text())["address"])

    async def dial(self, role: Role = Role.CALL, handler: Any = None) -> Connection:
        return await Connection.dial(await vsock.connect(self.address), role=role, handler=handler)

    async def connection(self) -> Connection:
        """A connection with the call role, as a gateway has one."""
        if not self.calls or self.calls[0].closed:
            self.calls[:1] = [await self.dial()]
        return self.calls[0]

    async def ask(self, kind: str, message: bytes = b"", **metadata: Any) -> bytes:
        return await (await self.connection()).call(kind, message, metadata=metadata, timeout=TIMEOUT)

    # -- reach --

    async def open(self, path: str) -> dict[str, Any]:
        """Read a file, or the memory of a process."""
        try:
            return {"code": "read", "size": len(os.read(os.open(path, os.O_RDONLY), 16))}
        except OSError as error:
            return {"code": type(error).__name__}

    # -- the control role --

    async def take_control(self, credentials: str = "genuine", egress: str = "genuine") -> dict[str, Any]:
        """Give up the control role and take it anew, as a manager that answers in this way."""
        await self.drop_control()
        handler = self.handler(credentials, egress)
        deadline = time.monotonic() + TIMEOUT
        while True:
            connection = await self.dial(Role.CONTROL, handler)
            if connection.role is Role.CONTROL or time.monotonic() > deadline:
                break
            await connection.aclose()
            await asyncio.sleep(0.02)
        self.control = connection
        return {"code": connection.role.value}

    async def drop_control(self) -> dict[str, Any]:
        if self.control is not None:
            await self.control.aclose()
        self.control = None
        return {"code": "dropped"}

    def handler(self, credentials: str, egress: str) -> Callable[[Stream], Awaitable[None]]:
        allowed = Egress(frozenset({parse_destination(self.kms["endpoint"].removeprefix("https://"))}))
        genuine = ControlHandler(
            egress=allowed,
            credentials=FileCredentials(self.folder / "credentials.json"),
            event=lambda event: None,
        )

        async def handle(stream: Stream) -> None:
            self.asked.append(stream.kind)
            if stream.kind == "log":
                while (message := await stream.receive()) is not None:
                    self.logs.append(message)
            elif stream.kind == "credentials" and credentials != "genuine":
                await stream.reply(self.credentials(credentials))
            elif stream.kind == "egress" and egress != "genuine":
                await self.egress(stream, egress)
            else:
                await genuine(stream)

        return handle

    def credentials(self, kind: str) -> bytes:
        held = dict(FileCredentials(self.folder / "credentials.json").read())
        match kind:
            case "wrong secret":
                held["secret_access_key"] = "wrong"
            case "unknown":
                held["access_key_id"] = "ASIAAAAAAAAAAAAAAAAA"
            case "expired":
                held["expires_ms"] = 1
            case "garbage":
                return b"\xff" * 100
            case "numbers":
                return cbor.dumps(dict.fromkeys(held, 7))
            case "refused":
                raise GeumgoError("no", code="unavailable", retryable=True)
        return cbor.dumps(held)

    async def egress(self, stream: Stream, kind: str) -> None:
        """Lead the enclave's connection elsewhere."""
        match kind.partition(":"):
            case ("refused", _, _):
                raise GeumgoError("no", code="forbidden")
            case ("garbage", _, _):
                await stream.send(secrets.token_bytes(4096), end=True)
            case ("nothing", _, _):
                await stream.send(b"", end=True)
            case ("plain", _, _):
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", end=True)
            case ("own", _, _):
                server = await asyncio.start_server(_swallow, "127.0.0.1", 0, ssl=_own_authority())
                try:
                    await _carry(stream, server.sockets[0].getsockname()[1])
                finally:
                    server.close()
            case ("flipped", _, _):
                await _carry(stream, self.kms_port, change=_flip)
            case ("port", _, port):
                await _carry(stream, int(port))

    @property
    def kms_port(self) -> int:
        return int(self.kms["endpoint"].rpartition(":")[2])

    async def state(self, until: list[str], state: str = "", timeout: float = TIMEOUT) -> dict[str, Any]:
        """Wait until the enclave gives one of these reasons or is in this state."""
        deadline = time.monotonic() + timeout
        while True:
            described = cbor.loads(await self.ask("describe"))
            if described["state"] == state or described["reason"] in until or time.monotonic() > deadline:
                return {"code": described["reason"] or described["state"], "state": described["state"]}
            await asyncio.sleep(0.02)

    async def shutdown(self) -> dict[str, Any]:
        """Ask for the enclave's end without the control role."""
        await self.ask("shutdown")
        return {"code": "done"}

    async def second_control(self) -> dict[str, Any]:
        """Ask for the control role a second time, and what it is good for then."""
        connection = await self.dial(Role.CONTROL, self.handler("genuine", "genuine"))
        try:
            granted = connection.role.value
            try:
                await connection.call("shutdown", timeout=TIMEOUT)
            except GeumgoError as error:
                return {"code": granted, "shutdown": error.code}
            return {"code": granted, "shutdown": "done"}
        finally:
            await connection.aclose()

    async def stream_of_kind(self, kind: str) -> dict[str, Any]:
        """Open a stream that only the enclave may open, or that nobody knows."""
        await self.ask(kind, b"\xa0", host="localhost", port=self.kms_port)
        return {"code": "answered"}

    async def told(self) -> dict[str, Any]:
        """Everything that the enclave logged, as it came."""
        return {"code": "logs", "logs": [b(message) for message in self.logs], "asked": self.asked}

    # -- calls --

    async def call(
        self, operation: str, body: str, sealed: bool, metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        given = {"name": operation, "sealed": sealed} if metadata is None else metadata
        return {"code": "answered", "answer": b(await self.ask("operation", unb(body), **given))}

    async def sealed(
        self, operation: str, caller: str, body: str, policy: str, pool: str = ""
    ) -> dict[str, Any]:
        """Seal a request by a key of its own under any name, to the pool's key, which is no secret."""
        deadline = SystemClock().now_ms() + 10_000
        key = keys.CallerKey.from_pem(self.own_key.to_pem(), caller)
        request = keys.seal_request(
            keys.PoolPublicKey(unb(pool) if pool else await self.pool_key()),
            key,
            operation=operation,
            body=unb(body),
            policy=unb(policy),
            deadline_ms=deadline,
        )
        answer = await self.ask("operation", request.request, name=operation, sealed=True)
        return {"code": "answered", "body": b(request.answer_opener.open(answer))}

    async def pool_key(self) -> bytes:
        answer = cbor.loads(
            await self.ask("attest", cbor.dumps({"nonce": secrets.token_bytes(32), "use": "seal"}))
        )
        return bytes(cbor.loads(answer["statement"])["key"])

    async def replay(self, request: str, operation: str, change: str = "") -> dict[str, Any]:
        """Send what somebody else sealed, as it is or changed in this way, and try to read the answer."""
        data = _changed(unb(request), change)
        answer = await self.ask("operation", data, name=operation, sealed=True)
        opened = []
        for private in (self.rsa, *(keys.PoolKeyPair.generate() for _ in range(2))):
            with contextlib.suppress(Exception):
                opened.append(keys.open_ciphertext_for_recipient(answer, private))  # type: ignore[arg-type]
        with contextlib.suppress(Exception):
            # An answer opener of its own, for the same request: everything but the reply key is known.
            own = keys.seal_request(
                keys.PoolPublicKey(await self.pool_key()),
                self.own_key,
                operation=operation,
                body=b"",
                deadline_ms=1,
            ).answer_opener
            own._info = b"geumgo/res/v1" + hashlib.sha256(data).digest()
            opened.append(own.open(answer))
        return {"code": "answered", "answer": b(answer), "opened": len(opened)}

    async def attest(self, use: str, nonce: str) -> dict[str, Any]:
        answer = cbor.loads(await self.ask("attest", cbor.dumps({"nonce": unb(nonce), "use": use})))
        return {"code": "answered", "document": b(answer["document"])}

    async def attest_raw(self, message: str) -> dict[str, Any]:
        await self.ask("attest", unb(message))
        return {"code": "answered"}

    # -- the key service --

    def client(self, document: bytes | None = None) -> keys.KmsClient:
        held = FileCredentials(self.folder / "credentials.json").read()

        async def credentials() -> keys.Credentials:
            return keys.Credentials(
                held["access_key_id"], held["secret_access_key"], session_token=held["session_token"]
            )

        async def recipient() -> tuple[bytes, Any]:
            assert document is not None
            return document, self.rsa

        return keys.KmsClient(
            endpoint=self.kms["endpoint"],
            region=self.kms["region"],
            ca_pem=self.kms["ca"],
            credentials=credentials,
            dial=keys.tcp_dial,
            clock=SystemClock(),
            recipient=None if document is None else recipient,
        )

    async def rsa_key(self) -> dict[str, Any]:
        return {"code": "key", "der": b(keys.public_key_der(self.rsa))}

    async def unwrap(self, which: str, document: str = "") -> dict[str, Any]:
        """Ask the key service for the pool's seed or a purpose key, with a document or without."""
        wrapped = self.configuration.pool_key if which == "seed" else self.configuration.purposes[which]
        assert wrapped is not None
        client = self.client(unb(document) if document else None)
        plain = await client.decrypt(wrapped.ciphertext, key_id=wrapped.key_id, context=wrapped.context)
        return {"code": "released", "size": len(plain)}

    async def forge(self, pcr0: str) -> dict[str, Any]:
        """A document with the right measurements by an NSM of its own."""
        nsm = NsmClient(SoftwareNsm(NsmAuthority.generate(), {0: bytes.fromhex(pcr0)}))
        return {"code": "forged", "document": b(nsm.attest(public_key=keys.public_key_der(self.rsa)))}

    async def administer(self, action: str) -> dict[str, Any]:
        """Whatever else the key service can do, with the parent's credentials."""
        pool = self.configuration.pool_key
        assert pool is not None
        policy = json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
            }
        )
        context = {"EncryptionContext": dict(pool.context)}
        payloads: dict[str, dict[str, Any]] = {
            "PutKeyPolicy": {
                "PolicyName": "default",
                "Policy": policy,
                "BypassPolicyLockoutSafetyCheck": True,
            },
            "GetKeyPolicy": {"PolicyName": "default"},
            "Encrypt": {"Plaintext": bytes(32), **context},
            "GenerateDataKey": {"KeySpec": "AES_256", **context},
            "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256", **context},
            "DescribeKey": {},
        }
        await self.client().call(action, {"KeyId": pool.key_id, **payloads[action]})
        return {"code": "done"}

    async def evil_document(self, socket: str) -> dict[str, Any]:
        """Ask an enclave of its own making for a document that carries its own key."""
        sock = await vsock.connect(vsock.Address.parse(socket))
        with sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, keys.public_key_der(self.rsa))
            document = b""
            while part := await loop.sock_recv(sock, 65536):
                document += part
        return {"code": "made", "document": b(document)}

    # -- noise --

    async def garbage(self, connections: int) -> dict[str, Any]:
        """Connections that say anything but the protocol, or stop in the middle of it."""
        hello = struct.pack(">IBBI", 30, 1, 0, 0) + struct.pack(
            ">4sBBHIIII", b"GMGO", 1, 0, 0, *[1 << 24] * 4
        )
        sayings = [
            b"",
            b"\0" * 64,
            b"\xff" * 64,
            b"GET / HTTP/1.1\r\n\r\n",
            hello[:7],
            hello,
            hello + struct.pack(">IBBI", 0xFFFFFFFF, 2, 0, 1),
            hello + struct.pack(">IBBI", 6, 2, 0, 2),
            hello + struct.pack(">IBBI", 6, 200, 255, 1),
            hello + hello,
            hello.replace(b"GMGO", b"XXXX"),
            hello + secrets.token_bytes(100_000),
            secrets.token_bytes(100_000),
        ]
        sockets = []
        loop = asyncio.get_running_loop()
        for number in range(connections):
            sock = await vsock.connect(self.address)
            sockets.append(sock)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await loop.sock_sendall(sock, sayings[number % len(sayings)])
        return {"code": "sent", "connections": len(sockets), **self._keep(sockets)}

    def _keep(self, sockets: list[Any]) -> dict[str, Any]:
        self.noise = [*getattr(self, "noise", []), *sockets]
        return {}

    async def quiet(self) -> dict[str, Any]:
        for sock in getattr(self, "noise", []):
            sock.close()
        self.noise = []
        return {"code": "quiet"}

    async def flood(self, kind: str, count: int, connections: int) -> dict[str, Any]:
        """Many calls at once; count the codes."""
        message = {
            "attest": cbor.dumps({"nonce": bytes(32), "use": "seal"}),
            "operation": b"\1" + secrets.token_bytes(200),
            "describe": b"",
        }[kind]
        metadata = {"name": "reidentify", "sealed": True} if kind == "operation" else {}
        dialled = [await self.dial() for _ in range(connections)]

        async def one(connection: Connection) -> str:
            try:
                await connection.call(kind, message, metadata=metadata, timeout=TIMEOUT)
            except GeumgoError as error:
                return error.code
            return "answered"

        codes = await asyncio.gather(*(one(dialled[n % connections]) for n in range(count)))
        for connection in dialled:
            await connection.aclose()
        return {"code": "flooded", "codes": {code: codes.count(code) for code in set(codes)}}


def _changed(request: bytes, change: str) -> bytes:
    header = keys.RoutingHeader.parse(request)
    rest = request[header.size :]
    kind, _, value = change.partition(":")
    match kind:
        case "":
            return request
        case "operation":
            return replace(header, operation=value).to_bytes() + rest
        case "deadline":
            return replace(header, deadline_ms=header.deadline_ms + int(value)).to_bytes() + rest
        case "id":
            return replace(header, request_id=secrets.token_bytes(16)).to_bytes() + rest
        case "key":
            return replace(header, key_id=secrets.token_bytes(32)).to_bytes() + rest
        case "cut":
            return request[: int(value)]
        case "flip":
            place = int(value) % len(rest)
            return request[: header.size] + rest[:place] + bytes((rest[place] ^ 1,)) + rest[place + 1 :]
        case "grow":
            return request + bytes(int(value))
        case "splice":
            other = unb(value)
            return request[: header.size] + other[keys.RoutingHeader.parse(other).size :]
    raise AssertionError(change)


def _flip(chunk: bytes, number: int) -> bytes:
    """Change one byte of the second chunk: the first is the server's hello."""
    return chunk if number != 1 else chunk[:-1] + bytes((chunk[-1] ^ 1,))


async def _carry(
    stream: Stream, port: int, change: Callable[[bytes, int], bytes] = lambda chunk, _: chunk
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def out() -> None:
        while (chunk := await stream.receive()) is not None:
            writer.write(chunk)
        writer.write_eof()

    sending = asyncio.create_task(out())
    try:
        number = 0
        while chunk := await reader.read(65536):
            await stream.send(change(chunk, number))
            number += 1
        await stream.send(b"", end=True)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.read(65536)
    writer.close()


def _own_authority() -> ssl.SSLContext:
    """A server for `localhost` under an authority that the enclave does not know."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    path = Path(sys.argv[1]) / "own.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def main() -> None:
    parent = Parent(Path(sys.argv[1]))
    client_context(parent.kms["ca"])  # loads what it needs before the doors close
    print(json.dumps({"ready": confine(Path(sys.argv[1]))}), flush=True)
    reader = asyncio.StreamReader(limit=64 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = await getattr(parent, command.pop("do"))(**command)
        except (GeumgoError, OSError) as error:
            answer = {"code": code_of(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
