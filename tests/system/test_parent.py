"""The parent is the adversary: with everything that a manager has, it learns nothing and may do nothing.

`adversary.py` is the manager's side of an enclave of the stack's pool, in a process of its own that Landlock
keeps from callers' keys and from the software NSM's. It holds the control role, answers the enclave's
questions as it likes, and sends what it likes. After everything that it does an honest caller is served.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import itertools
import json
import os
import secrets
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from geumgo import attestation, image, keys, vsock
from geumgo.backends import EnclaveSpec
from geumgo.backends.process import ProcessLauncher
from geumgo.channel import Connection
from geumgo.codec import cbor
from geumgo.nitro import NsmClient
from geumgo.testing.leaks import Search
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
CUSTOMERS = HERE.parents[1] / "examples" / "deid" / "customers.ko.csv"
SECRETS = ("deidentify", "reidentify", "decrypt")
TABLE = b'{"columns":["id"],"rows":[["1"]]}'

EVIL = b'''
"""An image of the parent's own making: it hands out documents for any key that it is given."""

import asyncio

from geumgo.nitro import NsmClient, open_nsm
from geumgo.vsock.provider import provider


async def main():
    listener = await provider().listen(7007)
    nsm, loop = NsmClient(open_nsm()), asyncio.get_running_loop()
    while True:
        sock, _ = await listener.accept()
        key = await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, nsm.attest(public_key=key))
        sock.close()


asyncio.run(main())
'''


def b(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb(text: str) -> bytes:
    return base64.b64decode(text)


def rows(start: int, count: int) -> list[dict[str, str]]:
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        return list(itertools.islice(csv.DictReader(file), start, start + count))


RECORDED = rows(5000, 40)


def table(records: list[dict[str, str]]) -> bytes:
    return json.dumps({"columns": list(records[0]), "rows": [list(r.values()) for r in records]}).encode()


class Adversary:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process, confined: str) -> None:
        self.confined = confined
        self._process = process
        self._one = asyncio.Lock()

    @classmethod
    async def start(cls, folder: Path) -> Adversary:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(HERE / "adversary.py"),
            str(folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 << 20,
        )
        assert process.stdout is not None
        return cls(process, json.loads(await process.stdout.readline())["ready"])

    async def do(self, name: str, **arguments: object) -> dict[str, object]:
        """Have it done and return what came of it; at least `code`."""
        async with self._one:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"do": name, **arguments}).encode() + b"\n")
            return json.loads(await self._process.stdout.readline())

    async def code(self, name: str, **arguments: object) -> str:
        return str((await self.do(name, **arguments))["code"])

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@dataclass
class Prey:
    """An enclave of the stack's pool, whose parent is the adversary."""

    stack: object
    folder: Path
    address: vsock.Address
    program: int
    adversary: Adversary
    policy: bytes

    async def evidence(self, connection: Connection) -> keys.PoolPublicKey:
        nonce = secrets.token_bytes(32)
        answer = cbor.loads(await connection.call("attest", cbor.dumps({"nonce": nonce, "use": "seal"})))
        now_ms = int(time.time() * 1000)
        claims = attestation.verify(
            attestation.Evidence.from_cbor(cbor.dumps(answer)),
            attestation.TrustRoots.from_pem((self.stack.nsm_state / "root.pem").read_bytes(), simulated=True),
            now_ms=now_ms,
            nonce=nonce,
            use=attestation.Use.SEAL,
        )
        pcr0 = self.stack.pool.record().pcr0
        attestation.Policy({"pcr0": frozenset({pcr0})}, allow_simulated=True).require(claims, now_ms=now_ms)
        return keys.PoolPublicKey(claims.statement.key)

    async def seal(self, caller: str = "records", body: bytes = b"", seconds: float = 60) -> keys.Sealed:
        """What an honest caller sends; manager and gateway see `request`."""
        async with await Connection.dial(await vsock.connect(self.address)) as connection:
            pool = await self.evidence(connection)
        return keys.seal_request(
            pool,
            self.stack.pool.caller(caller),
            operation="deidentify",
            body=body or table(RECORDED),
            policy=self.policy,
            deadline_ms=int((time.time() + seconds) * 1000),
        )

    async def honest(self) -> None:
        """Serve an honest caller."""
        sealed = await self.seal()
        async with await Connection.dial(await vsock.connect(self.address)) as connection:
            metadata = {"name": "deidentify", "sealed": True}
            async with asyncio.timeout(10):
                answer = await connection.call("operation", sealed.request, metadata=metadata)
        assert len(json.loads(sealed.answer_opener.open(answer))["rows"]) == len(RECORDED)


def short_folder() -> Path:
    """A folder whose path leaves room for a Unix socket's name."""
    return Path(tempfile.mkdtemp(prefix="gp-"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prey(stack, policy) -> AsyncIterator[Prey]:
    folder = short_folder()
    state = stack.settings.state
    launcher = ProcessLauncher(stack.nsm_state)
    enclave = await launcher.launch(spec("prey", folder, stack.pool.eif))
    try:
        (folder / "enclave.json").write_text(
            json.dumps({"address": str(enclave.address(vsock.ENCLAVE_PORT))})
        )
        shutil.copy(state / "measured.json", folder)
        shutil.copy(stack.pool.eif, folder)
        shutil.copy(stack.pool.credentials, folder / "credentials.json")
        service = {
            "endpoint": stack.pool.endpoint,
            "region": "ap-northeast-2",
            "ca": stack.pool.ca.read_text(),
        }
        (folder / "kms.json").write_text(json.dumps(service))
        adversary = await Adversary.start(folder)
        try:
            address = enclave.address(vsock.ENCLAVE_PORT)
            yield Prey(stack, folder, address, enclave.pid, adversary, policy.to_bytes())
        finally:
            await adversary.stop()
    finally:
        await enclave.terminate(0)
        shutil.rmtree(folder, ignore_errors=True)


def spec(name: str, folder: Path, eif: Path, *, debug: bool = False) -> EnclaveSpec:
    return EnclaveSpec(name, eif, None, 512, 2, debug, folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(prey) -> Prey:
    """The adversary behaves for once, so that the enclave has its key."""
    assert await prey.adversary.code("take_control") == "control"
    answer = await prey.adversary.do("state", until=[], state="ready")
    assert answer["state"] == "ready", answer
    return prey


# What it can reach. The control of everything below: it is who it says it is.


async def test_it_has_what_a_manager_has_and_no_key_of_others(prey, stack):
    adversary = prey.adversary
    if adversary.confined != "confined":
        pytest.skip(f"{adversary.confined}: enable Landlock (kernel 5.13, boot option lsm=landlock,…)")
    for name in ("measured.json", "enclave.eif", "credentials.json", "enclave.json"):
        assert await adversary.code("open", path=str(prey.folder / name)) == "read"
    state = stack.settings.state
    hidden = [
        *(state / "callers").iterdir(),
        *(path for path in stack.nsm_state.iterdir() if path.is_file()),
        *(path for path in (state / "kms").iterdir() if path.is_file()),
        Path(f"/proc/{prey.program}/mem"),
        Path(f"/proc/{os.getpid()}/mem"),
    ]
    assert len(hidden) > 8
    for path in hidden:
        assert await adversary.code("open", path=str(path)) == "PermissionError", path


# Before it behaves: the enclave's questions are answered wrongly.


@pytest.mark.parametrize(
    ("credentials", "egress", "reason"),
    [
        ("wrong secret", "genuine", "credentials_rejected"),
        ("unknown", "genuine", "credentials_rejected"),
        ("expired", "genuine", "credentials_expired"),
        ("garbage", "genuine", "credentials_unavailable"),
        ("numbers", "genuine", "credentials_unavailable"),
        ("refused", "genuine", "credentials_unavailable"),
        ("genuine", "refused", "egress_forbidden"),
        ("genuine", "nothing", "kms_tls"),
        ("genuine", "garbage", "kms_tls"),
        ("genuine", "plain", "kms_tls"),
        ("genuine", "own", "kms_tls"),
        ("genuine", "flipped", "kms_tls"),
    ],
)
async def test_wrong_answers_leave_it_without_key_and_say_why(prey, credentials, egress, reason):
    adversary = prey.adversary
    assert await adversary.code("take_control", credentials=credentials, egress=egress) == "control"
    answer = await adversary.do("state", until=[reason])
    assert answer == {"code": reason, "state": "starting"}
    body = {"body": b(TABLE), "policy": b(prey.policy), "pool": b(bytes(31) + b"\x09")}
    assert await adversary.code("sealed", operation="deidentify", caller="records", **body) == "starting"
    assert await adversary.code("attest", use="seal", nonce=b(bytes(32))) == "starting"


async def test_without_anyone_in_control(prey):
    assert await prey.adversary.code("drop_control") == "dropped"
    answer = await prey.adversary.do("state", until=["no_control"])
    assert answer["state"] == "starting"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("another key", "kms_key_mismatch"),
        ("plaintext", "kms_protocol"),
        ("no ciphertext", "kms_protocol"),
        ("foreign ciphertext", "recipient_ciphertext"),
        ("not JSON", "kms_protocol"),
    ],
)
async def test_a_key_service_that_lies(prey, stack, change, reason):
    """More than a parent can do: somebody has the key service's own certificate."""
    foreign = keys.public_key_der(keys.generate_recipient_key())

    def changed(answer: dict[str, object]) -> object:
        match change:
            case "another key":
                return {**answer, "KeyId": str(answer["KeyId"])[:-1] + "0"}
            case "plaintext":
                return {**answer, "CiphertextForRecipient": None, "Plaintext": b(bytes(32))}
            case "no ciphertext":
                return {"KeyId": answer["KeyId"]}
            case "foreign ciphertext":
                return {**answer, "CiphertextForRecipient": b(encrypted_to(foreign))}
        return b"\xff"

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stack.settings.state / "kms" / "server.pem")
    server = await asyncio.start_server(lying(stack, changed), "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        assert await prey.adversary.code("take_control", egress=f"port:{port}") == "control"
        assert await prey.adversary.do("state", until=[reason]) == {"code": reason, "state": "starting"}
    finally:
        await prey.adversary.do("drop_control")
        server.close()
        await server.wait_closed()


def encrypted_to(key: bytes) -> bytes:
    """A seed that somebody knows, encrypted to another key than the enclave's."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from geumgo.testing.kms._recipient import AttestedRecipient, encrypt_to

    return encrypt_to(AttestedRecipient(key, load_der_public_key(key), {}), bytes(32))  # type: ignore[arg-type]


def lying(stack, changed):
    """Pass requests on to the real key service, and answers back changed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await message(reader)
            trust = ssl.create_default_context(cadata=stack.pool.ca.read_text())
            far, near = await asyncio.open_connection("localhost", stack.port("kms"), ssl=trust)
            near.write(request)
            answer = await message(far)
            near.close()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            made = changed(json.loads(body))
            content = made if isinstance(made, bytes) else json.dumps(made).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def message(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        return head + await reader.readexactly(int(length.partition(b":")[2]))

    return serve


async def test_it_recovers_as_soon_as_it_is_answered(prey):
    assert await prey.adversary.code("take_control") == "control"
    answer = await prey.adversary.do("state", until=[], state="ready", timeout=10)
    assert answer["state"] == "ready"
    await prey.honest()


# Calls.


@pytest.mark.parametrize("operation", SECRETS)
async def test_unsealed(serving, operation):
    adversary = serving.adversary
    assert await adversary.code("call", operation=operation, body=b(TABLE), sealed=False) == "seal_required"
    assert await adversary.code("call", operation=operation, body=b(TABLE), sealed=True) == "malformed"
    await serving.honest()


@pytest.mark.parametrize("caller", ["records", "dpo", "crm", "parent", "manager", "root"])
@pytest.mark.parametrize("operation", SECRETS)
async def test_sealed_by_a_key_of_its_own(serving, operation, caller):
    code = await serving.adversary.code(
        "sealed", operation=operation, caller=caller, body=b(TABLE), policy=b(serving.policy)
    )
    assert code == "unknown_caller"


async def test_an_open_operation_gives_it_no_keys(serving):
    """`echo` is for everyone; an own signature is worth nothing there either."""
    adversary = serving.adversary
    answer = await adversary.do("call", operation="echo", body=b(b"x"), sealed=False)
    assert unb(answer["answer"]) == b"x"
    sealed = {"operation": "echo", "caller": "records", "body": b(b"x"), "policy": b(serving.policy)}
    assert await adversary.code("sealed", **sealed) == "unknown_caller"


async def test_replayed_answers_go_to_who_asked(serving):
    """The same bytes are answered again, since that is what a retry is, and only the caller can read it."""
    sealed = await serving.seal()
    answers = []
    for _ in range(3):
        answer = await serving.adversary.do("replay", request=b(sealed.request), operation="deidentify")
        assert (answer["code"], answer["opened"]) == ("answered", 0)
        answers.append(unb(answer["answer"]))
    assert len(set(answers)) == 3, "each is encrypted anew"
    bodies = {sealed.answer_opener.open(answer) for answer in answers}
    assert len(bodies) == 1
    assert len(json.loads(bodies.pop())["rows"]) == len(RECORDED)
    values = [row[name] for row in RECORDED for name in ("rrn", "phone", "card")]
    assert Search(values).find(b"".join(answers) + sealed.request, "what the parent saw") == []


@pytest.mark.parametrize(
    ("operation", "change", "code"),
    [
        ("reidentify", "", "malformed"),
        ("decrypt", "", "malformed"),
        ("echo", "", "malformed"),
        ("nothing", "", "unknown_operation"),
        ("reidentify", "operation:reidentify", "malformed"),
        ("decrypt", "operation:decrypt", "malformed"),
        ("echo", "operation:echo", "malformed"),
        ("deidentify", "deadline:1", "malformed"),
        ("deidentify", "deadline:3600000", "malformed"),
        ("deidentify", "deadline:-3600000", "malformed"),
        ("deidentify", "id", "malformed"),
        ("deidentify", "key", "reattest"),
        ("deidentify", "cut:0", "malformed"),
        ("deidentify", "cut:57", "malformed"),
        ("deidentify", "cut:68", "malformed"),
        ("deidentify", "cut:100", "malformed"),
        ("deidentify", "cut:-1", "malformed"),
        ("deidentify", "grow:1", "malformed"),
        ("deidentify", "grow:9000000", "too_large"),
        ("deidentify", "flip:0", "malformed"),
        ("deidentify", "flip:31", "malformed"),
        ("deidentify", "flip:32", "malformed"),
        ("deidentify", "flip:500", "malformed"),
        ("deidentify", "flip:-1", "malformed"),
    ],
)
async def test_changed_requests_of_others(serving, operation, change, code):
    sealed = await serving.seal()
    answer = await serving.adversary.do(
        "replay", request=b(sealed.request), operation=operation, change=change
    )
    assert answer["code"] == code, answer


async def test_parts_of_two_requests_put_together(serving):
    """The place of one batch with the rows, and the policy, of another."""
    first, second = await serving.seal(), await serving.seal(body=table(RECORDED[:1]))
    answer = await serving.adversary.do(
        "replay",
        request=b(first.request),
        operation="deidentify",
        change=f"splice:{b(second.request)}",
    )
    assert answer["code"] == "malformed"


async def test_kept_until_after_the_deadline(serving):
    sealed = await serving.seal(seconds=1.0)
    request = {"request": b(sealed.request), "operation": "deidentify"}
    assert await serving.adversary.code("replay", **request) == "answered"
    async with asyncio.timeout(10):
        while (code := await serving.adversary.code("replay", **request)) == "answered":
            await asyncio.sleep(0.05)
    assert code == "deadline_exceeded"


async def test_another_enclaves_requests_are_of_the_same_pool_only(serving):
    """A request to another pool is told so, with nothing done."""
    elsewhere = keys.PoolKeyPair.generate()
    sealed = keys.seal_request(
        elsewhere.public,
        serving.stack.pool.caller("records"),
        operation="deidentify",
        body=TABLE,
        policy=serving.policy,
        deadline_ms=int(time.time() * 1000) + 10_000,
    )
    assert (
        await serving.adversary.code("replay", request=b(sealed.request), operation="deidentify")
        == "reattest"
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": 7, "sealed": True},
        {"name": "deidentify", "sealed": "no"},
        {"name": True},
        {"sealed": False},
    ],
)
async def test_streams_that_say_nonsense(serving, metadata):
    answer = await serving.adversary.do("call", operation="", body=b(TABLE), sealed=False, metadata=metadata)
    assert answer["code"] == "malformed"


# Evidence.


async def test_no_document_for_the_key_service_on_demand(serving):
    """Evidence is for sealing; what the key service accepts is made for the key service alone."""
    adversary = serving.adversary
    for use in ("kms", "channel", "", "SEAL"):
        assert await adversary.code("attest", use=use, nonce=b(bytes(32))) == "invalid_request"
    for nonce in (b"", bytes(15), bytes(65)):
        assert await adversary.code("attest", use="seal", nonce=b(nonce)) == "invalid_request"
    nonce, key = bytes(32), keys.public_key_der(keys.generate_recipient_key())
    for message in (
        b"",
        b"\xff",
        cbor.dumps({"nonce": nonce}),
        cbor.dumps({"nonce": nonce, "use": "seal", "public_key": key}),
        cbor.dumps({"nonce": nonce, "use": "seal", "user_data": nonce}),
        cbor.dumps([nonce, "seal"]),
        cbor.dumps({"nonce": bytes(5000), "use": "seal"}),
    ):
        assert await adversary.code("attest_raw", message=b(message)) == "malformed"


# The key service, asked directly.


@pytest.mark.parametrize("which", ["seed", "customers"])
async def test_wrapped_keys_without_a_document(serving, which):
    assert await serving.adversary.code("unwrap", which=which) == "access_denied"


async def test_with_a_document_for_sealing(serving):
    """The right measurements, but the key in it is not one that the key service encrypts to."""
    document = (await serving.adversary.do("attest", use="seal", nonce=b(bytes(32))))["document"]
    assert await serving.adversary.code("unwrap", which="seed", document=document) == "invalid_kms_request"


async def test_with_a_document_of_an_nsm_of_its_own(serving):
    pcr0 = serving.stack.pool.record().pcr0
    document = (await serving.adversary.do("forge", pcr0=pcr0))["document"]
    assert await serving.adversary.code("unwrap", which="seed", document=document) == "invalid_kms_request"


async def test_with_a_document_that_it_got_hold_of(serving, stack):
    """What the enclave shows the key service, had it been seen: the answer is for the enclave's own RSA key."""
    measured = (await stack.enclave_status("enclave-1"))["measurements"]
    pcrs = {n: bytes.fromhex(measured[f"PCR{n}"]) for n in range(3)}
    nsm = NsmClient(SoftwareNsm(NsmAuthority.open(stack.nsm_state), pcrs))
    enclaves_key = keys.generate_recipient_key()
    document = nsm.attest(public_key=keys.public_key_der(enclaves_key))
    for which in ("seed", "customers"):
        code = await serving.adversary.code("unwrap", which=which, document=b(document))
        assert code == "recipient_ciphertext", "the key service answered, and the parent can't read it"


@pytest.mark.parametrize(
    "action",
    [
        "PutKeyPolicy",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GetKeyPolicy",
        "DescribeKey",
    ],
)
async def test_other_ways_to_the_key(serving, action):
    assert await serving.adversary.code("administer", action=action) == "access_denied"


@pytest.fixture(scope="module")
def evil_image(stack, tmp_path_factory) -> image.BuiltImage:
    """The pool's own configuration, wrapped keys and all, around a program of the parent's."""
    return image.build_enclave_image(
        output=tmp_path_factory.mktemp("evil") / "evil.eif",
        configuration=(stack.settings.state / "measured.json").read_bytes(),
        app_files={"opt/geumgo/lib/evil.py": EVIL},
        module="evil",
    )


async def test_with_a_document_of_an_image_of_its_own(serving, stack, evil_image):
    """Hardware vouches for it, with all that it is: another PCR0."""
    folder = serving.folder / "evil"
    enclave = await ProcessLauncher(stack.nsm_state).launch(spec("evil", folder, evil_image.path))
    try:
        address = str(enclave.address(vsock.ENCLAVE_PORT))
        async with asyncio.timeout(20):
            while "document" not in (made := await serving.adversary.do("evil_document", socket=address)):
                await asyncio.sleep(0.05)
    finally:
        await enclave.terminate(0)
    roots = attestation.TrustRoots.from_pem((stack.nsm_state / "root.pem").read_bytes(), simulated=True)
    document = unb(made["document"])
    verified = attestation.verify_document(document, roots, now_ms=int(time.time() * 1000)).document
    assert verified.public_key == unb((await serving.adversary.do("rsa_key"))["der"]), (
        "it got what it asked for"
    )
    assert verified.pcrs[0].hex() == evil_image.measurements.pcr0 != stack.pool.record().pcr0
    for which in ("seed", "customers"):
        assert (
            await serving.adversary.code("unwrap", which=which, document=made["document"]) == "access_denied"
        )


@pytest.mark.parametrize("unsafe", ["debug", "unsandboxed"])
async def test_the_right_image_launched_unsafely_gets_no_key(serving, stack, unsafe):
    """Its memory could be read then, so its measurements are zero."""
    folder = short_folder()
    launcher = ProcessLauncher(stack.nsm_state, unsandboxed=unsafe == "unsandboxed")
    enclave = await launcher.launch(spec("bare", folder, stack.pool.eif, debug=unsafe == "debug"))
    try:
        for name in ("measured.json", "kms.json", "credentials.json"):
            shutil.copy(serving.folder / name, folder)
        address = str(enclave.address(vsock.ENCLAVE_PORT))
        (folder / "enclave.json").write_text(json.dumps({"address": address}))
        manager = await Adversary.start(folder)
        try:
            async with asyncio.timeout(20):
                while await manager.code("take_control") != "control":
                    await asyncio.sleep(0.05)
            answer = await manager.do("state", until=["access_denied"], state="ready")
            assert answer == {"code": "access_denied", "state": "starting"}
        finally:
            await manager.stop()
    finally:
        await enclave.terminate(0)
        shutil.rmtree(folder, ignore_errors=True)


# The control role.


async def test_the_control_role_is_one_connections(serving):
    answer = await serving.adversary.do("second_control")
    assert answer == {"code": "call", "shutdown": "forbidden"}
    assert await serving.adversary.code("shutdown") == "forbidden"
    await serving.honest()


@pytest.mark.parametrize("kind", ["egress", "credentials", "log", "keys", "x" * 64])
async def test_the_enclaves_kinds_of_stream_are_the_enclaves(serving, kind):
    assert await serving.adversary.code("stream_of_kind", kind=kind) == "malformed"


async def test_losing_control_costs_no_keys(serving):
    """An enclave that has its keys serves on without a manager, and takes the next one."""
    await serving.adversary.do("drop_control")
    await serving.honest()
    assert await serving.adversary.code("take_control", credentials="garbage", egress="garbage") == "control"
    await serving.honest()
    assert await serving.adversary.code("take_control") == "control"


# Noise.


async def test_garbage_on_many_connections(serving):
    try:
        assert (await serving.adversary.do("garbage", connections=60))["connections"] == 60
        await serving.honest()
    finally:
        await serving.adversary.do("quiet")


async def test_more_connections_than_it_keeps(serving):
    """They do nothing, so they make room for one that does."""
    try:
        assert (await serving.adversary.do("garbage", connections=300))["connections"] == 300
        await serving.honest()
    finally:
        await serving.adversary.do("quiet")


async def test_a_flood_of_questions_for_evidence(serving):
    answer = await serving.adversary.do("flood", kind="attest", count=400, connections=8)
    assert answer["codes"].keys() == {"answered", "busy"}
    # The flood spent this second's documents; askers are told to come again, and then they are served.
    async with asyncio.timeout(10):
        while await serving.adversary.code("attest", use="seal", nonce=b(bytes(32))) == "busy":
            await asyncio.sleep(0.05)
    await serving.honest()


async def test_a_flood_of_bad_requests(serving):
    answer = await serving.adversary.do("flood", kind="operation", count=2000, connections=4)
    assert answer["codes"].keys() <= {"malformed", "busy"}
    await serving.honest()


# What it was told.


async def test_the_log_is_codes_and_numbers(serving):
    """After all of the above, and requests that failed: nothing of a record, nothing that somebody made up."""
    sealed = await serving.seal(body=b'{"columns":["memo"],"rows":[["' + b"010-8084-9966" + b'"], 7]}')
    assert (
        await serving.adversary.code("replay", request=b(sealed.request), operation="deidentify")
        == "answered"
    )
    told = await serving.adversary.do("told")
    logs = [unb(entry) for entry in told["logs"]]
    assert len(logs) > 10
    assert set(told["asked"]) == {"log", "credentials", "egress"}
    values = [row[name] for row in RECORDED for name in ("rrn", "phone", "card", "email")] + ["010-8084-9966"]
    assert Search(values).find(b"\n".join(logs), "the log") == []
    from geumgo.enclave._events import EVENTS

    for entry in map(cbor.loads, logs):
        assert entry.keys() == {"t", "code", "level", "fields"}
        assert EVENTS[entry["code"]].admits(entry["fields"])


async def test_all_is_well_afterwards(serving):
    assert os.path.exists(f"/proc/{serving.program}"), "it never died"
    await serving.honest()
