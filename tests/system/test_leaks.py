"""No value of a sealed record is anywhere outside the sandboxed program and the caller.

A stack of its own: every byte stream between its parts passes a tap, and the memory of every process but
the program inside (gateway, manager, launcher with the software NSM, key service) is searched while
requests are in flight and afterwards. What is searched for, and in which encodings: geumgo.testing.leaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from geumgo import attestation, image, keys
from geumgo.client import AsyncClient, ClientSettings, process_file
from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc
from geumgo.testing.kms._ciphertext import decrypt, key_id_of
from geumgo.testing.kms._store import Store
from geumgo.testing.leaks import Finding, LeakSearchError, Search, Tap, descendants
from geumgo.testing.stack import Stack, StackSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUSTOMERS = Path(__file__).resolve().parents[2] / "examples" / "deid" / "customers.ko.csv"
SECRET_FIELDS = ("rrn", "phone", "card")
RECORDS = 2000
CONTEXT = {"app": "crm"}
PURPOSE = "customers"

TROUBLE = b'''
"""An operation that fails in every way that might carry its record outside."""

import asyncio
import ctypes
import logging
import os
import sys
import threading
import warnings

from geumgo._base import GeumgoError
from geumgo.enclave import Enclave

app = Enclave()
kept = []


def in_thread(text):
    raise RuntimeError(text)


async def in_task(text):
    raise RuntimeError(text)


@app.operation("trouble", idempotent=True)
async def trouble(request: bytes) -> bytes:
    way, _, text = request.decode().partition(":")
    if way == "raise":
        raise ValueError(text)
    if way == "class":
        raise type(text, (Exception,), {})(text)
    if way == "coded":
        raise GeumgoError(text, why=text, fix=text, code=text)
    if way == "group":
        raise ExceptionGroup(text, [ValueError(text)])
    if way == "exit":
        raise SystemExit(text)
    if way == "assert":
        assert text == "", text
    if way == "task":
        asyncio.create_task(in_task(text))
        await asyncio.sleep(0.05)
    if way == "thread":
        thread = threading.Thread(target=in_thread, args=(text,), name=text)
        thread.start()
        thread.join()
    if way == "print":
        print(text, flush=True)
        print(text, file=sys.stderr, flush=True)
        for descriptor in (1, 2):
            os.write(descriptor, request)
        warnings.warn(text)
        logging.error(text)
        sys.excepthook(ValueError, ValueError(text), None)
    if way == "file":
        for place in ("/tmp", "/run", "/dev/shm", ".", os.environ.get("GEUMGO_ROOT", "/")):
            try:
                with open(os.path.join(place, "record"), "wb") as file:
                    file.write(request)
            except OSError:
                pass
    if way == "crash":
        kept.append(text)
        ctypes.string_at(1)
    return b"done"
'''


def records(start: int, count: int) -> list[dict[str, str]]:
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        return list(itertools.islice(csv.DictReader(file), start, start + count))


def secrets_of(rows: list[dict[str, str]]) -> list[str]:
    return [row[name] for row in rows for name in SECRET_FIELDS]


FILE = records(0, RECORDS)
UNSEALED = records(9000, 2)
TROUBLED = records(9100, 12)
ENCRYPTED = records(9200, 20)


@dataclass
class Watched:
    """The stack and everything that is known of it."""

    stack: Stack
    pcr0: str
    data_key_id: str
    secret: Search
    taps: dict[str, Tap] = field(default_factory=dict)

    @property
    def gateway(self) -> str:
        return self.taps["HTTP of the gateway"].address

    @property
    def manager(self) -> str:
        return f"unix:{self.stack.settings.runtime / 'm.sock'}"

    def program(self) -> int:
        path = self.stack.settings.runtime / "enclave-1" / "enclave.json"
        return int(json.loads(path.read_text())["pid"] or 0)

    def outside(self) -> dict[int, str]:
        """Every process of the stack but the sandboxed program."""
        inside = {self.program(), *descendants(self.program())}
        found = {}
        for process in self.stack.processes:
            for pid in (process.pid, *descendants(process.pid)):
                if pid not in inside:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = next(word.decode() for word in command if word.startswith(b"geumgo."))
        return found

    def relayed(self) -> dict[str, bytes]:
        return {
            f"{name}, {stream}": data
            for name, tap in self.taps.items()
            for stream, data in tap.recorded().items()
        }

    def on_disk(self, search: Search) -> list[Finding]:
        """Search logs, state, sockets' folders, and wherever the image is unpacked."""
        places = [self.stack.settings.state, self.stack.settings.runtime]
        link = self.stack.settings.runtime / "enclave-1" / "image"
        if link.is_symlink():
            places.append(link.resolve())
        assert any((self.stack.settings.state / "logs").iterdir())
        return [finding for place in places for finding in search.files(place)]

    def client(self, caller: str, address: str) -> AsyncClient:
        root = (self.stack.nsm_state / "root.pem").read_bytes()
        return AsyncClient(
            address,
            roots=attestation.TrustRoots.from_pem(root, simulated=True),
            policy=attestation.Policy(measurements={"pcr0": frozenset({self.pcr0})}, allow_simulated=True),
            caller=self.stack.pool.caller(caller),
            settings=ClientSettings(timeout=60),
        )


@pytest.fixture(scope="module")
def dumpable() -> Iterator[None]:
    """Let processes that don't see to it themselves dump core: an operator's shell may allow it."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(dumpable, encrypted_policy) -> AsyncIterator[Watched]:
    state = Path(tempfile.mkdtemp(prefix="geumgo-leak-"))
    runtime = Path(tempfile.mkdtemp(prefix="gl-"))
    stack = Stack(StackSettings(state, runtime, enclaves=1, gateways=1))
    async with contextlib.AsyncExitStack() as exits:
        exits.callback(shutil.rmtree, state, ignore_errors=True)
        exits.callback(shutil.rmtree, runtime, ignore_errors=True)
        exits.callback(stack.stop)
        await asyncio.to_thread(stack.start_kms)
        kms = await exits.enter_async_context(Tap("localhost", stack.port("kms")))
        pcr0, data_key_id = await birth(stack, kms.port, encrypted_policy.digest.hex())
        watched = Watched(
            stack, pcr0, data_key_id, Search(secrets_of(FILE) + secrets_of(TROUBLED) + secrets_of(ENCRYPTED))
        )
        watched.taps["TLS of the key service"] = kms
        watched.taps["channel of the enclave"] = await exits.enter_async_context(
            await tapped_launch(stack, kms.port)
        )
        await stack.wait_ready(["enclave-1"])
        await asyncio.to_thread(stack.start_gateway, "gateway-1", ("enclave-1",))
        watched.taps["HTTP of the gateway"] = await exits.enter_async_context(
            Tap("127.0.0.1", stack.port("http"))
        )
        watched.taps["gRPC of the gateway"] = await exits.enter_async_context(
            Tap("127.0.0.1", stack.port("grpc"))
        )
        watched.taps["HTTP of the manager"] = await exits.enter_async_context(
            Tap(runtime / "enclave-1" / "enclave.sock", at=runtime / "m.sock")
        )
        yield watched


async def birth(stack: Stack, kms_port: int, policy: str) -> tuple[str, str]:
    """Make a pool whose image also has `trouble`, and whose enclave reaches the key service by a tap."""
    kms = stack.pool.kms()
    admin = stack.pool.admin
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": admin},
        "Action": ["kms:DescribeKey", "kms:GenerateDataKey", "kms:PutKeyPolicy"],
        "Resource": "*",
    }
    data_key_id = await kms.create_key(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    public = {name: stack.pool.caller(name).public_bytes for name in ("records", "crm")}
    material = await keys.create_pool(
        kms,
        pool="leaks",
        purposes=[PURPOSE],
        operations={
            "deidentify": keys.Operation(callers=("records", "crm")),
            "decrypt": keys.Operation(callers=("crm",)),
            "trouble": keys.Operation(callers=("records",)),
            "echo": keys.Operation(open=True),
        },
        callers={
            "records": keys.Caller(public["records"], (PURPOSE,), "any"),
            "crm": keys.Caller(public["crm"], (PURPOSE,), (policy,), (keys.KeyGrant(data_key_id, CONTEXT),)),
        },
        kms_settings=keys.KmsSettings(
            endpoint=f"https://localhost:{kms_port}", region="ap-northeast-2", ca=stack.pool.ca.read_text()
        ),
        admin=admin,
    )
    built = await asyncio.to_thread(
        image.build_enclave_image,
        output=stack.pool.eif,
        configuration=material.configuration.to_json(),
        app_files={"opt/geumgo/lib/trouble.py": TROUBLE},
        env={"GEUMGO_APP": "trouble:app geumgo.enclave.operations:app"},
    )
    stack.pool.configuration_path.write_bytes(material.configuration.to_json())
    pcrs = built.measurements
    await keys.release(kms, material.key_id, {"PCR0": pcrs.pcr0, "PCR2": pcrs.pcr2}, admin)
    enclave = {
        "Effect": "Allow",
        "Principal": {"AWS": admin.replace(":user/geumgo-admin", ":root")},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": pcrs.pcr0}},
    }
    await kms.put_key_policy(
        data_key_id, json.dumps({"Version": "2012-10-17", "Statement": [statement, enclave]})
    )
    return pcrs.pcr0, data_key_id


async def tapped_launch(stack: Stack, kms_port: int) -> Tap:
    """Launch the enclave with a tap in front of its vsock, so that manager and gateway dial that."""
    folder = stack.settings.runtime / "enclave-1"
    launching = asyncio.create_task(asyncio.to_thread(start_manager, stack, kms_port))
    # The launcher makes the socket before the program inside has beaten its heart, which takes far longer.
    async with asyncio.timeout(30):
        while not (folder / "vsock.sock").exists():
            await asyncio.sleep(0.001)
    (folder / "vsock.sock").rename(folder / "v.real")
    tap = Tap(folder / "v.real", at=folder / "vsock.sock")
    await launching
    return tap


def start_manager(stack: Stack, kms_port: int) -> None:
    """As the stack does it, with the tap's port for the key service."""
    port = stack.port
    try:
        stack.port = lambda name: kms_port if name == "kms" else port(name)  # type: ignore[method-assign]
        stack.start_enclave("enclave-1", stack.pool.eif)
    finally:
        del stack.port  # type: ignore[method-assign]


def body(rows: list[dict[str, str]]) -> bytes:
    return json.dumps(
        {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}, ensure_ascii=False
    ).encode()


# The control: what is not sealed is found.


@contextlib.asynccontextmanager
async def half_sent(address: tuple[str, int] | Path, row: dict[str, str]) -> AsyncIterator[None]:
    """Send an unsealed request but for its last byte, so that whoever reads it has to hold it."""
    if isinstance(address, Path):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(*address)
    content = body([row])
    writer.write(
        b"POST /v1/operations/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: %d\r\n\r\n" % len(content) + content[:-1]
    )
    await writer.drain()
    yield
    writer.write(content[-1:])
    status = await reader.readline()
    assert b" 200 " in status, status
    writer.close()


async def found_in_time(search: Search, pid: int) -> list[Finding]:
    """Search until something is found: nobody says when the bytes have arrived."""
    deadline = time.monotonic() + 10
    while True:
        found = await asyncio.to_thread(search.memory, pid)
        if found or time.monotonic() > deadline:
            return found


async def test_control_one_unsealed_record_is_found(watched):
    """Without this, a search that finds nothing says nothing."""
    stack = watched.stack
    for row, process, address, name in (
        (UNSEALED[0], "gateway-1", ("127.0.0.1", watched.taps["HTTP of the gateway"].port), "gateway"),
        (UNSEALED[1], "enclave-1", stack.settings.runtime / "m.sock", "manager"),
    ):
        search = Search(secrets_of([row]))
        assert search.streams(watched.relayed()) == []
        async with half_sent(address, row):
            in_memory = await found_in_time(search, stack.process(process).pid)
        assert {finding.value for finding in in_memory} == {0, 1, 2}, f"the {name} holds all three values"
        found = search.streams(watched.relayed())
        for where in (f"HTTP of the {name}", "channel of the enclave"):
            values = {finding.value for finding in found if finding.where.startswith(where)}
            assert values == {0, 1, 2}, f"{where} carried all three values"


# The sealed run.


@dataclass
class Searched:
    """What a search of one process found, and by which edges answers came while it lasted."""

    during: list[Finding]
    answered: set[str]
    afterwards: list[Finding] = field(default_factory=list)


class Streaming:
    """The whole file, again and again, by gateway and by manager, until the block ends."""

    def __init__(self, watched: Watched, policy: bytes, source: Path, folder: Path) -> None:
        self._watched, self._policy, self._source, self._folder = watched, policy, source, folder
        self.answers: dict[str, int] = {"gateway": 0, "manager": 0, "grpc": 0}
        self.whole = 0
        self._ending = False

    async def __aenter__(self) -> Streaming:
        self._tasks = [
            asyncio.create_task(self._files("gateway", self._watched.gateway)),
            asyncio.create_task(self._files("manager", self._watched.manager)),
            asyncio.create_task(self._grpc()),
        ]
        async with asyncio.timeout(30):
            while not all(self.answers.values()):
                await self._wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def _wait(self) -> None:
        done, _ = await asyncio.wait(self._tasks, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _files(self, name: str, address: str) -> None:
        def progress(rows: int, size: int) -> None:
            self.answers[name] += 1

        async with self._watched.client("records", address) as client:
            while not (self._ending and self.whole >= 2):
                result = await process_file(
                    client,
                    "deidentify",
                    self._source,
                    self._folder / f"{name}.csv",
                    policy=self._policy,
                    batch_rows=50,
                    progress=progress,
                )
                assert result.written == RECORDS
                self.whole += 1

    async def _grpc(self) -> None:
        stack = self._watched.stack
        async with self._watched.client("records", self._watched.gateway) as client:
            claims = await client.attest()
        assert claims.statement is not None
        pool = keys.PoolPublicKey(claims.statement.key)
        caller = stack.pool.caller("records")
        batches = itertools.cycle(FILE[start : start + 50] for start in range(0, RECORDS, 50))
        target = f"127.0.0.1:{self._watched.taps['gRPC of the gateway'].port}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = enclave_pb2_grpc.EnclaveStub(channel)
            while not self._ending:
                deadline = int(time.time() * 1000) + 60_000
                sealed = keys.seal_request(
                    pool,
                    caller,
                    operation="deidentify",
                    body=body(next(batches)),
                    policy=self._policy,
                    deadline_ms=deadline,
                )
                answer = await stub.Call(
                    enclave_pb2.CallRequest(operation="deidentify", body=sealed.request, sealed=True)
                )
                assert len(json.loads(sealed.answer_opener.open(answer.body))["rows"]) == 50
                self.answers["grpc"] += 1


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("caller") / "customers.csv"
    with CUSTOMERS.open(encoding="utf-8") as file:
        path.write_text("".join(itertools.islice(file, RECORDS + 1)), encoding="utf-8")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streamed(watched, policy, source, tmp_path_factory) -> dict[str, Searched]:
    """Stream the file by all edges at once, and search each process meanwhile and afterwards."""
    outside, results = watched.outside(), {}
    folder = tmp_path_factory.mktemp("outputs")
    async with Streaming(watched, policy.to_bytes(), source, folder) as streaming:
        for pid, name in outside.items():
            before = dict(streaming.answers)
            during = await asyncio.to_thread(watched.secret.memory, pid)
            answered = {path for path, count in streaming.answers.items() if count > before[path]}
            results[name] = Searched(during, answered)
        with contextlib.suppress(LeakSearchError):  # a sandbox may keep even its owner out
            # The other control: where the records are in clear, this very search finds them.
            assert await asyncio.to_thread(watched.secret.memory, watched.program())
    assert streaming.whole >= 2
    for pid, name in outside.items():
        results[name].afterwards = watched.secret.memory(pid)
    return results


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name", ["geumgo.gateway", "geumgo.manager", "geumgo.backends.process", "geumgo.testing.kms"]
)
async def test_nothing_is_found_in_memory(streamed, name):
    """`geumgo.backends.process` is the launcher, with the software NSM in it."""
    assert len(streamed) == 4, "every process of the stack was searched"
    assert {"gateway", "manager"} <= streamed[name].answered, "requests were in flight meanwhile"
    assert streamed[name].during == []
    assert streamed[name].afterwards == []


async def test_nothing_is_found_in_what_was_relayed(watched, streamed):
    relayed = watched.relayed()
    sizes = {
        name: sum(len(data) for stream, data in relayed.items() if stream.startswith(name))
        for name in watched.taps
    }
    assert sizes["TLS of the key service"] > 10_000, "the enclave asked for its keys through the tap"
    for name in ("HTTP of the gateway", "HTTP of the manager", "channel of the enclave"):
        assert sizes[name] > 2 * len(body(FILE)) // 3, f"{name} carried the records: {sizes}"
    # Gateway and manager dialled the tap, the manager first, and for the control role.
    assert watched.taps["channel of the enclave"].connections >= 2
    assert any(b"CONNECT 7007\n" in data for data in relayed.values())
    assert watched.secret.streams(relayed) == []


async def test_fields_that_are_decrypted_inside(watched, encrypted_policy):
    """Neither what applications encrypted nor the key that the enclave had unwrapped is seen outside."""
    kms = watched.stack.pool.kms()
    data_key, wrapped = await kms.generate_data_key(watched.data_key_id, CONTEXT)
    key = keys.DataKey(watched.data_key_id, data_key, wrapped, CONTEXT)
    envelopes = [keys.encrypt_field(key, row["phone"].encode(), CONTEXT) for row in ENCRYPTED]
    table = {
        "columns": ["id", "phone"],
        "rows": [[row["id"], e] for row, e in zip(ENCRYPTED, envelopes, strict=True)],
    }
    async with watched.client("crm", watched.gateway) as client:
        policy = encrypted_policy.to_bytes()
        answer = await client.call("decrypt", json.dumps({"values": envelopes}).encode(), policy=policy)
        assert json.loads(answer)["values"] == [row["phone"] for row in ENCRYPTED]
        answer = await client.call("deidentify", json.dumps(table).encode(), policy=policy)
        assert len(json.loads(answer)["rows"]) == len(ENCRYPTED)
    unwrapped = Search([data_key])
    for pid, name in watched.outside().items():
        assert watched.secret.memory(pid) == [], name
        if name != "geumgo.testing.kms":  # which made the key
            assert unwrapped.memory(pid) == [], name
    assert watched.secret.streams(watched.relayed()) == []
    assert unwrapped.streams(watched.relayed()) == []


def released(watched: Watched) -> list[bytes]:
    """The pool's keys, as only the enclave should have them: taken out of the emulator's store."""
    configuration = keys.MeasuredConfiguration.from_json(
        (watched.stack.settings.state / "measured.json").read_bytes()
    )
    assert configuration.pool_key is not None
    store = Store(watched.stack.settings.state / "kms" / "kms.sqlite3")
    try:
        plain = []
        for wrapped in (configuration.pool_key, configuration.purposes[PURPOSE]):
            record = store.key(key_id_of(wrapped.ciphertext))
            assert record is not None
            plain.append(decrypt(wrapped.ciphertext, record.material, wrapped.context))
    finally:
        store.close()
    seed, purpose = plain
    private = keys.PoolKeyPair.from_seed(seed).private.private_bytes_raw()
    return [seed, private, purpose, *(keys.PurposeKey.derive(purpose, use) for use in keys.PurposeKey.USES)]


async def test_the_pools_keys_are_nowhere_outside(watched, streamed):
    search = Search(released(watched))
    for pid, name in watched.outside().items():
        if name != "geumgo.testing.kms":  # which unwraps them
            assert search.memory(pid) == [], name
    assert search.streams(watched.relayed()) == []
    assert await asyncio.to_thread(watched.on_disk, search) == []
    with contextlib.suppress(LeakSearchError):
        assert search.memory(watched.program()), "where they are, they are found"


@pytest.mark.parametrize("way", ["raise", "class", "coded", "group", "exit", "assert"])
async def test_a_record_that_makes_an_operation_raise(watched, way):
    row = TROUBLED[["raise", "class", "coded", "group", "exit", "assert"].index(way)]
    text = f"{way}:{row['rrn']} {row['phone']} {row['card']}"
    async with watched.client("records", watched.gateway) as client:
        with pytest.raises(keys.OperationFailed) as caught:
            await client.call("trouble", text.encode(), idempotent=True)
    assert caught.value.code == "operation_failed"
    if way != "coded":  # that one the operation wrote for the caller, and only the caller reads it
        assert row["rrn"] not in caught.value.diagnostics()
    await nothing_outside(watched)


@pytest.mark.parametrize("way", ["task", "thread", "print", "file"])
async def test_a_record_that_an_operation_drops(watched, way):
    row = TROUBLED[6 + ["task", "thread", "print", "file"].index(way)]
    text = f"{way}:{row['rrn']} {row['phone']} {row['card']}"
    async with watched.client("records", watched.gateway) as client:
        assert await client.call("trouble", text.encode(), idempotent=True) == b"done"
    await nothing_outside(watched)


async def nothing_outside(watched: Watched) -> None:
    logs = watched.stack.settings.state / "logs"
    assert await asyncio.to_thread(watched.secret.files, logs) == []
    for pid, name in watched.outside().items():
        assert await asyncio.to_thread(watched.secret.memory, pid) == [], name
    assert watched.secret.streams(watched.relayed()) == []


async def test_the_operator_learns_that_something_was_raised(watched):
    """Not everything is hidden: which operation failed, and how."""
    async with watched.client("records", watched.gateway) as client:
        for way in ("raise", "class", "exit"):
            with pytest.raises(keys.OperationFailed):
                await client.call("trouble", f"{way}:{TROUBLED[10]['card']}".encode(), idempotent=True)
    expected = {("trouble", "ValueError"), ("trouble", "other"), ("trouble", "SystemExit")}
    async with asyncio.timeout(10):
        while not expected <= raised(watched.stack.settings.state / "logs" / "enclave-1.log"):
            await asyncio.sleep(0.02)
    await nothing_outside(watched)


def raised(log: Path) -> set[tuple[str, str]]:
    """Which operations raised what, by the manager's log."""
    entries = [
        json.loads(line)["fields"] for line in log.read_text().splitlines() if "operation_raised" in line
    ]
    return {(entry["operation"], entry["exception"]) for entry in entries}


async def test_files_hold_nothing_not_even_the_unsealed_records(watched):
    assert await asyncio.to_thread(watched.on_disk, watched.secret) == []
    # Other processes may hold those, but nobody may write them down.
    logs = watched.stack.settings.state / "logs"
    assert Search(secrets_of(UNSEALED)).files(logs) == []


# Core dumps. The last tests: nothing is left of the stack.


async def test_no_process_may_dump_core(watched):
    pids = {**watched.outside(), watched.program(): "the program inside"}
    for pid, name in pids.items():
        limits = Path(f"/proc/{pid}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        # 1 is as good as 0, and for a core pattern that is a pipe better (core(5)).
        assert all(value in ("0", "1") for value in line.split()[4:6]), f"{name}: {line}"


def cores() -> set[Path]:
    return {path for path in Path.cwd().iterdir() if path.name.startswith("core")}


async def test_a_crash_leaves_no_trace(watched):
    """The program inside dies of a bad address with a record in its hands."""
    row = TROUBLED[11]
    text = f"crash:{row['rrn']} {row['phone']} {row['card']}"
    before, program = cores(), watched.program()
    async with watched.client("records", watched.gateway) as client:
        with pytest.raises(Exception) as caught:
            await client.call("trouble", text.encode(), idempotent=False, timeout=10)
    assert getattr(caught.value, "code", None) == "unavailable"
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{program}"):
            await asyncio.sleep(0.02)
    assert cores() == before
    assert await asyncio.to_thread(watched.on_disk, watched.secret) == []
    for name in ("enclave-1", "gateway-1", "kms"):
        assert watched.secret.memory(watched.stack.process(name).pid) == [], name


@pytest.mark.parametrize("name", ["gateway-1", "enclave-1", "kms"])
async def test_killed_processes_leave_no_core(watched, name):
    before = cores()
    pid = watched.stack.process(name).pid
    os.kill(pid, signal.SIGABRT)
    status = (await asyncio.to_thread(os.waitpid, pid, 0))[1]
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
    assert cores() == before
