"""Somebody between client and gateway changes what passes. Each kind has a stable code, a message that says
what to do, and no output that is not whole; what is put right in time is not noticed at all."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from geumgo import attestation, keys
from geumgo._base import CODES
from geumgo.attestation import Evidence, Statement, TrustRoots, Use
from geumgo.client import AnswerRejected, GatewayError, process_file
from geumgo.client.policy import compile_policy
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

SEALED = "application/vnd.geumgo.sealed"
CUSTOMERS = Path(__file__).resolve().parents[2] / "examples" / "deid" / "customers.ko.csv"
ROWS, BATCH = 200, 20
OPERATION = "/v1/operations/deidentify"


@dataclass(frozen=True)
class Message:
    """A request (with a target) or an answer (with a status)."""

    body: bytes
    content_type: str
    target: str = ""
    method: str = "POST"
    status: int = 200
    headers: tuple[str, ...] = ()
    length: int | None = None


Ask = Callable[[Message], Awaitable[Message]]


@dataclass
class Middle:
    """An HTTP relay whose `act` may do anything to a request, and to what the gateway answers."""

    gateway: str
    act: Callable[[Message, Ask], Awaitable[Message | None]]
    seen: list[Message] = field(default_factory=list)
    operations: int = 0

    async def __aenter__(self) -> Middle:
        self._http = httpx2.AsyncClient(base_url=self.gateway, timeout=30, trust_env=False)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await self._http.aclose()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def ask(self, request: Message) -> Message:
        """Send a request to the gateway; a broken answer of the gateway breaks ours too."""
        answer = await self._http.request(
            request.method,
            request.target,
            content=request.body,
            headers={"content-type": request.content_type, "geumgo-timeout-ms": "20000"},
        )
        return Message(answer.content, answer.headers.get("content-type", ""), status=answer.status_code)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await self._read(reader)) is not None:
                self.seen.append(request)
                self.operations += request.method == "POST"
                answer = await self.act(request, self.ask)
                if answer is None:
                    return
                writer.write(_head(answer) + answer.body)
                await writer.drain()
                if answer.length is not None:
                    return
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Message | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, target, _ = head[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        return Message(body, fields.get("content-type", ""), target, method)


def _head(answer: Message) -> bytes:
    length = len(answer.body) if answer.length is None else answer.length
    fields = (f"Content-Type: {answer.content_type}", f"Content-Length: {length}", *answer.headers)
    return "\r\n".join((f"HTTP/1.1 {answer.status} X", *fields, "", "")).encode()


def problem(code: str, status: int, *headers: str) -> Message:
    document = {"type": "about:blank", "title": "x", "status": status, "code": code, "retryable": True}
    return Message(json.dumps(document).encode(), "application/problem+json", status=status, headers=headers)


# What is sent and what comes of it.


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "customers.csv"
    with CUSTOMERS.open(encoding="utf-8") as file:
        path.write_text("".join(itertools.islice(file, ROWS + 1)), encoding="utf-8")
    return path


@pytest.fixture
async def send(stack, connect, policy, source, tmp_path):
    """Send the file through somebody in the middle."""

    async def send(act, *, caller="records", **settings) -> SimpleNamespace:
        output, rejects = tmp_path / "out" / "customers.csv", tmp_path / "out" / "rejects.jsonl"
        output.parent.mkdir(exist_ok=True)
        async with Middle(stack.address, act) as middle:
            client = connect(caller, address=middle.address, **{"attempts": 3, "backoff": 0.01, **settings})
            error = None
            try:
                await process_file(
                    client,
                    "deidentify",
                    source,
                    output,
                    policy=policy.to_bytes(),
                    batch_rows=BATCH,
                    rejects=rejects,
                    timeout=settings.get("timeout"),
                )
            except Exception as caught:
                error = caught
            await client.aclose()
        return SimpleNamespace(error=error, output=output, folder=output.parent, middle=middle)

    return send


@pytest.fixture(scope="module")
def quiet():
    return {}


@pytest.fixture
async def expected(quiet, connect, policy, source, tmp_path):
    """What an undisturbed run writes."""
    if not quiet:
        await process_file(
            connect(),
            "deidentify",
            source,
            tmp_path / "quiet.csv",
            policy=policy.to_bytes(),
            batch_rows=BATCH,
        )
        quiet["bytes"] = (tmp_path / "quiet.csv").read_bytes()
    return quiet["bytes"]


def refused(sent: SimpleNamespace, code: str) -> None:
    """The user sees this code and what to do, no record, and nothing that looks like an output."""
    error = sent.error
    assert error is not None, "it went through"
    assert error.code == code, error.diagnostics()
    shown = error.diagnostics()
    assert f"[{code}]" in shown
    assert error.fix, f"what is there to do? {shown}"
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        for row in itertools.islice(csv.DictReader(file), ROWS):
            assert not any(row[name] in shown for name in ("name", "rrn", "phone", "card", "email"))


def as_before(sent: SimpleNamespace, before: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in sent.folder.iterdir()} == before


def clear(request: bytes, **changes: object) -> bytes:
    """Rewrite what stands in clear in a sealed request."""
    header = keys.RoutingHeader.parse(request)
    return replace(header, **changes).to_bytes() + request[header.size :]  # type: ignore[arg-type]


# Requests: `change(request, earlier requests, pool)` from the fourth batch on, each time.


def replayed(request, earlier, pool):
    return replace(request, body=earlier[0].body)


def relabelled(request, earlier, pool):
    return replace(request, target="/v1/operations/echo")


def relabelled_within(request, earlier, pool):
    return replace(
        request, target="/v1/operations/reidentify", body=clear(request.body, operation="reidentify")
    )


def unknown_operation(request, earlier, pool):
    return replace(request, target="/v1/operations/nothing")


def later(request, earlier, pool):
    header = keys.RoutingHeader.parse(request.body)
    return replace(request, body=clear(request.body, deadline_ms=header.deadline_ms + 60_000))


def other_id(request, earlier, pool):
    return replace(request, body=clear(request.body, request_id=b"\1" * 16))


def other_pool(request, earlier, pool):
    return replace(request, body=clear(request.body, key_id=b"\1" * 32))


def other_version(request, earlier, pool):
    return replace(request, body=b"\2" + request.body[1:])


def one_bit(request, earlier, pool):
    middle = len(request.body) // 2
    changed = bytearray(request.body)
    changed[middle] ^= 1
    return replace(request, body=bytes(changed))


def shorter(request, earlier, pool):
    return replace(request, body=request.body[:-1])


def header_only(request, earlier, pool):
    return replace(request, body=request.body[:60])


def longer(request, earlier, pool):
    return replace(request, body=request.body + b"\0")


def spliced(request, earlier, pool):
    """The head of this batch on the ciphertext of another, as if it came under that one's policy."""
    ours, theirs = keys.RoutingHeader.parse(request.body), keys.RoutingHeader.parse(earlier[0].body)
    return replace(request, body=request.body[: ours.size] + earlier[0].body[theirs.size :])


def far_too_large(request, earlier, pool):
    return replace(request, body=request.body + bytes(20 << 20))


def unsealed(request, earlier, pool):
    return replace(request, content_type="application/octet-stream")


def of_a_stranger(request, earlier, pool):
    """What anyone can make who has the pool's public key: the same batch's place under another policy."""
    header = keys.RoutingHeader.parse(request.body)
    keep = compile_policy("version: 1\nname: keep\nunlisted: keep\nfields: {id: keep}\n", source="keep.yaml")
    sealed = keys.seal_request(
        pool,
        keys.CallerKey.generate("records"),
        operation=header.operation,
        body=b'{"columns":["id"],"rows":[]}',
        policy=keep.to_bytes(),
        deadline_ms=header.deadline_ms,
        request_id=header.request_id,
    )
    return replace(request, body=sealed.request)


REQUESTS = [
    (replayed, "answer_rejected"),
    (relabelled, "malformed"),
    (relabelled_within, "malformed"),
    (unknown_operation, "unknown_operation"),
    (later, "malformed"),
    (other_id, "malformed"),
    (other_pool, "reattest"),
    (other_version, "malformed"),
    (one_bit, "malformed"),
    (shorter, "malformed"),
    (header_only, "malformed"),
    (longer, "malformed"),
    (spliced, "malformed"),
    (far_too_large, "too_large"),
    (unsealed, "seal_required"),
    (of_a_stranger, "unknown_caller"),
]


def changing(change, pool, *, times: int = 1 << 30):
    earlier: list[Message] = []
    changed = 0

    async def act(request: Message, ask: Ask) -> Message | None:
        nonlocal changed
        if request.method != "POST":
            return await ask(request)
        earlier.append(request)
        if len(earlier) < 4 or changed >= times:
            return await ask(request)
        changed += 1
        return await ask(change(request, earlier, pool))

    return act


@pytest.fixture
async def pool(connect) -> keys.PoolPublicKey:
    claims = await connect().attest()
    return keys.PoolPublicKey(claims.statement.key)


@pytest.mark.parametrize(("change", "code"), REQUESTS, ids=lambda value: getattr(value, "__name__", value))
async def test_requests_that_are_changed(send, pool, change, code):
    sent = await send(changing(change, pool))
    refused(sent, code)
    as_before(sent, {})
    assert sent.middle.operations >= 4


@pytest.mark.parametrize("change", [replayed, one_bit], ids=lambda value: value.__name__)
async def test_an_older_output_stays(send, pool, change, tmp_path):
    (tmp_path / "out").mkdir()
    before = {"customers.csv": b"older", "rejects.jsonl": b"older too"}
    for name, content in before.items():
        (tmp_path / "out" / name).write_bytes(content)
    sent = await send(changing(change, pool))
    assert sent.error is not None
    as_before(sent, before)


# Answers: `change(answer, earlier answers)` from the fourth batch on, each time.


def answer_of_another(answer, earlier):
    return replace(answer, body=earlier[0].body)


def bit_of_answer(answer, earlier):
    changed = bytearray(answer.body)
    changed[len(changed) // 2] ^= 1
    return replace(answer, body=bytes(changed))


def answer_cut(answer, earlier):
    return replace(answer, body=answer.body[:-1])


def answer_grown(answer, earlier):
    return replace(answer, body=answer.body + b"\0")


def empty_answer(answer, earlier):
    return replace(answer, body=b"")


def made_up(answer, earlier):
    rows = [["1"] for _ in range(BATCH)]
    body = json.dumps({"columns": ["id"], "rows": rows, "rejected": []}).encode()
    return Message(body, "application/json")


def huge_answer(answer, earlier):
    return replace(answer, body=bytes(17 << 20))


BOMB = gzip.compress(bytes(32 << 20), 9)


def zipped_bomb(answer, earlier):
    return replace(answer, body=BOMB, headers=("Content-Encoding: gzip",))


def half_an_answer(answer, earlier):
    return replace(answer, body=answer.body[:100], length=len(answer.body))


def no_http(answer, earlier):
    return replace(answer, headers=("\0",))


def redirected(answer, earlier):
    return replace(answer, body=b"", status=307, headers=("Location: http://127.0.0.1:9/",))


def page_of_a_proxy(answer, earlier):
    return Message(b"<html>Bad gateway</html>", "text/html", status=502)


def server_error(answer, earlier):
    return Message(b"<html>Sorry</html>", "text/html", status=500)


ANSWERS = [
    (answer_of_another, "answer_rejected"),
    (bit_of_answer, "answer_rejected"),
    (answer_cut, "answer_rejected"),
    (answer_grown, "answer_rejected"),
    (empty_answer, "answer_rejected"),
    (made_up, "answer_rejected"),
    (redirected, "answer_rejected"),
    (huge_answer, "too_large"),
    (zipped_bomb, "malformed"),
    (half_an_answer, "unavailable"),
    (no_http, "unavailable"),
    (page_of_a_proxy, "unavailable"),
    (server_error, "internal"),
]


def answering(change, *, times: int = 1 << 30):
    earlier: list[Message] = []
    changed = 0

    async def act(request: Message, ask: Ask) -> Message | None:
        nonlocal changed
        answer = await ask(request)
        if request.method != "POST":
            return answer
        earlier.append(answer)
        if len(earlier) < 4 or changed >= times:
            return answer
        changed += 1
        return change(answer, earlier)

    return act


@pytest.mark.parametrize(("change", "code"), ANSWERS, ids=lambda value: getattr(value, "__name__", value))
async def test_answers_that_are_changed(send, change, code):
    sent = await send(answering(change))
    refused(sent, code)
    as_before(sent, {})


@pytest.mark.parametrize("forever", [True, False], ids=["always", "once"])
async def test_answers_swapped_between_two_requests(send, expected, forever):
    """Each of two requests under way gets the other's answer."""
    waiting: list[tuple[asyncio.Future[Message], Message]] = []
    swaps = 0

    async def act(request: Message, ask: Ask) -> Message | None:
        nonlocal swaps
        answer = await ask(request)
        if request.method != "POST" or (swaps and not forever):
            return answer
        if not waiting:
            turn: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            waiting.append((turn, answer))
            return await turn
        turn, theirs = waiting.pop()
        turn.set_result(answer)
        swaps += 1
        return theirs

    sent = await send(act)
    assert swaps
    if forever:
        assert isinstance(sent.error, AnswerRejected)
        refused(sent, "answer_rejected")
        as_before(sent, {})
    else:
        assert sent.output.read_bytes() == expected


# What is put right in time.


ONCE = [changing(change, None, times=1) for change in (replayed,)] + [
    answering(change, times=1)
    for change in (
        answer_of_another,
        bit_of_answer,
        answer_cut,
        empty_answer,
        made_up,
        half_an_answer,
        page_of_a_proxy,
    )
]


@pytest.mark.parametrize("act", ONCE, ids=lambda act: str(ONCE.index(act)))
async def test_changed_once_is_asked_again(send, expected, act):
    sent = await send(act)
    assert sent.error is None, sent.error.diagnostics()
    assert sent.output.read_bytes() == expected


async def test_every_request_sent_twice(send, expected):
    async def act(request: Message, ask: Ask) -> Message | None:
        await ask(request)
        return await ask(request)

    sent = await send(act)
    assert sent.output.read_bytes() == expected


async def test_batches_reordered(send, expected):
    """Of each four that are under way the last goes first, and the answers come back in that order."""
    held: list[asyncio.Event] = []
    finished: list[int] = []

    async def act(request: Message, ask: Ask) -> Message | None:
        if request.method != "POST":
            return await ask(request)
        number, turn = len(held), asyncio.Event()
        held.append(turn)
        if number % 4 == 3 or number >= ROWS // BATCH - 1:
            turn.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(turn.wait(), 2)
        answer = await ask(request)
        finished.append(number)
        if number % 4:
            held[number - 1].set()
        return answer

    sent = await send(act)
    assert sent.error is None
    assert finished[:4] == [3, 2, 1, 0]
    assert sent.output.read_bytes() == expected


@pytest.mark.parametrize("after", [False, True], ids=["before the enclave", "after the enclave"])
async def test_a_batch_dropped_once(send, expected, after):
    dropped = 0

    async def act(request: Message, ask: Ask) -> Message | None:
        nonlocal dropped
        if request.method == "POST" and not dropped:
            dropped += 1
            if after:
                await ask(request)
            return None
        return await ask(request)

    sent = await send(act)
    assert sent.error is None
    assert sent.output.read_bytes() == expected


async def test_one_batch_dropped_always(send):
    """Whichever way it is tried, this batch never arrives: no output with a hole in it."""
    lost: set[bytes] = set()

    async def act(request: Message, ask: Ask) -> Message | None:
        if request.method == "POST":
            if not lost:
                lost.add(request.body)
            if request.body in lost:
                return None
        return await ask(request)

    sent = await send(act)
    refused(sent, "unavailable")
    as_before(sent, {})


# Codes that somebody makes up.


@pytest.mark.parametrize("code", sorted(CODES))
async def test_made_up_codes_never_make_the_client_send_in_clear(send, code):
    async def act(request: Message, ask: Ask) -> Message | None:
        if request.method == "POST":
            return problem(code, CODES[code].http)
        return await ask(request)

    sent = await send(act, timeout=2.0, start_wait=0.2)
    refused(sent, code)
    assert isinstance(sent.error, GatewayError)
    as_before(sent, {})
    posted = [request for request in sent.middle.seen if request.method == "POST"]
    assert {request.content_type for request in posted} == {SEALED}
    assert {request.target for request in posted} == {OPERATION}
    evidence = [request for request in sent.middle.seen if request.method == "GET"]
    assert len(evidence) <= 1 + 4, "it asks for evidence once more at most, for each batch under way"


async def test_busy_for_a_year_ends_with_the_deadline(send):
    async def act(request: Message, ask: Ask) -> Message | None:
        if request.method == "POST":
            return problem("busy", 429, "Retry-After: 31536000")
        return await ask(request)

    began = time.monotonic()
    sent = await send(act, timeout=1.0)
    assert time.monotonic() - began < 5
    refused(sent, "busy")


# Evidence. Nothing is sent before it is accepted.


@pytest.fixture
def forge(stack):
    """Evidence as the hardware of this stack makes it, for whatever program and statement."""

    def forge(
        nonce: bytes,
        *,
        pcr0: str | None = None,
        use: Use = Use.SEAL,
        suite: str = keys.SUITE,
        authority: NsmAuthority | None = None,
        age_ms: int = 0,
        statement: bytes | None = None,
    ) -> Evidence:
        class Clock:
            def now_ms(self) -> int:
                return int(time.time() * 1000) - age_ms

        pcr0 = stack.pool.record().pcr0 if pcr0 is None else pcr0
        pcrs = {0: bytes.fromhex(pcr0), 1: b"\1" * 48, 2: b"\2" * 48}
        nsm = NsmClient(SoftwareNsm(authority or NsmAuthority.open(stack.nsm_state), pcrs, clock=Clock()))
        key = keys.PoolKeyPair.generate().public.raw
        said = Statement(use, suite, key, "local", bytes(48))
        document = nsm.attest(public_key=key, user_data=said.digest(), nonce=nonce)
        return Evidence("nitro", document, statement or said.to_bytes())

    return forge


def evident(make):
    """Answer requests for evidence by `make(nonce, genuine)`; bytes go out as they are."""

    async def act(request: Message, ask: Ask) -> Message | None:
        if request.method != "GET":
            return await ask(request)
        nonce = bytes.fromhex(request.target.partition("nonce=")[2].partition("&")[0])
        made = make(nonce, Evidence.from_json((await ask(request)).body))
        return Message(made if isinstance(made, bytes) else made.to_json(), "application/json")

    return act


def changed_document(place: float):
    def make(nonce, genuine):
        document = bytearray(genuine.document)
        document[int(len(document) * place)] ^= 1
        return replace(genuine, document=bytes(document))

    return make


FORGERIES = [
    ("replayed", lambda forge: lambda nonce, genuine: forge(b"\1" * 32), "wrong_nonce"),
    ("no nonce", lambda forge: lambda nonce, genuine: forge(b""), "wrong_nonce"),
    ("other image", lambda forge: lambda nonce, genuine: forge(nonce, pcr0="ab" * 48), "wrong_measurement"),
    ("debug", lambda forge: lambda nonce, genuine: forge(nonce, pcr0="00" * 48), "debug_measurements"),
    ("use kms", lambda forge: lambda nonce, genuine: forge(nonce, use=Use.KMS), "wrong_use"),
    ("use channel", lambda forge: lambda nonce, genuine: forge(nonce, use=Use.CHANNEL), "wrong_use"),
    ("other suite", lambda forge: lambda nonce, genuine: forge(nonce, suite="rot13"), "unknown_suite"),
    ("stale", lambda forge: lambda nonce, genuine: forge(nonce, age_ms=301_000), "stale_evidence"),
    (
        "of the future",
        lambda forge: lambda nonce, genuine: forge(nonce, age_ms=-60_000),
        "expired_certificate",
    ),
    (
        "expired",
        lambda forge: lambda nonce, genuine: forge(nonce, age_ms=4 * 3_600_000),
        "expired_certificate",
    ),
    (
        "other root",
        lambda forge: lambda nonce, genuine: forge(nonce, authority=NsmAuthority.generate()),
        "untrusted_root",
    ),
    (
        "statement of another",
        lambda forge: lambda nonce, genuine: replace(genuine, statement=forge(nonce).statement),
        "wrong_statement",
    ),
    (
        "document of another",
        lambda forge: lambda nonce, genuine: replace(forge(nonce), statement=genuine.statement),
        "wrong_statement",
    ),
    ("no statement", lambda forge: lambda nonce, genuine: replace(genuine, statement=None), "wrong_use"),
    ("last bit", lambda forge: changed_document(0.999), "bad_signature"),
    ("bit in the middle", lambda forge: changed_document(0.5), None),
    ("empty", lambda forge: lambda nonce, genuine: b"", "malformed"),
    ("not JSON", lambda forge: lambda nonce, genuine: b"\xff", "malformed"),
    ("a list", lambda forge: lambda nonce, genuine: b"[]", "malformed"),
    (
        "other kind",
        lambda forge: lambda nonce, genuine: genuine.to_json().replace(b"nitro", b"trust me"),
        "malformed",
    ),
    ("large", lambda forge: lambda nonce, genuine: b" " * (1 << 20) + genuine.to_json(), "malformed"),
    ("huge", lambda forge: lambda nonce, genuine: b" " * (17 << 20), "too_large"),
]


@pytest.mark.parametrize(("make", "code"), [pytest.param(f[1], f[2], id=f[0]) for f in FORGERIES])
async def test_evidence_that_is_not_what_was_asked_for(send, forge, make, code):
    sent = await send(evident(make(forge)))
    refused(sent, code or sent.error.code)
    assert isinstance(sent.error, attestation.VerificationError) or code in ("too_large", "unknown_suite")
    as_before(sent, {})
    assert sent.middle.operations == 0, "nothing is sent before the evidence is accepted"


async def test_a_forged_key_would_be_accepted_by_its_evidence_alone(stack, send, forge):
    """The control of this test's forger: with the right nonce, image and root it is believed; only hardware could."""
    sent = await send(evident(lambda nonce, genuine: forge(nonce)))
    # The client now seals to a key that no enclave of the pool has.
    refused(sent, "reattest")
    assert sent.middle.operations > 0


async def test_production_roots_refuse_the_simulator(stack, policy, source, tmp_path):
    from geumgo.client import AsyncClient

    pcr0 = stack.pool.record().pcr0
    real = attestation.Policy(measurements={"pcr0": frozenset({pcr0})})
    own = TrustRoots.from_pem((stack.nsm_state / "root.pem").read_bytes(), simulated=True)
    for roots, code in ((TrustRoots.aws_nitro(), "untrusted_root"), (own, "simulated_evidence")):
        async with AsyncClient(
            stack.address, roots=roots, policy=real, caller=stack.pool.caller("records")
        ) as client:
            with pytest.raises(attestation.VerificationError) as caught:
                await process_file(
                    client, "deidentify", source, tmp_path / "out.csv", policy=policy.to_bytes()
                )
        assert caught.value.code == code
        assert not (tmp_path / "out.csv").exists()


# Without the client's help: what the gateway itself is given.


SOME_KEY = keys.RoutingHeader(1, b"\1" * 32, b"\2" * 16, "deidentify", 1 << 62, 0).to_bytes() + b"\3" * 60


@pytest.mark.parametrize(
    ("path", "content_type", "body", "code"),
    [
        pytest.param(OPERATION, SEALED, b"", "malformed", id="empty"),
        pytest.param(OPERATION, SEALED, b"\1" + bytes(500), "malformed", id="zeros"),
        pytest.param(OPERATION, SEALED, b'{"columns":[],"rows":[]}', "malformed", id="plaintext called sealed"),
        pytest.param(OPERATION, SEALED, SOME_KEY, "reattest", id="some key"),
        pytest.param(OPERATION, "application/json", b"{}", "seal_required", id="unsealed"),
        pytest.param("/v1/operations/nothing", SEALED, b"\1" * 200, "unknown_operation", id="no such operation"),
        pytest.param("/v1/operations/..%2fecho", SEALED, b"", "unknown_operation", id="a path for a name"),
        pytest.param("/v1/operations/echo", "text/plain", bytes(2 << 20), "too_large", id="large and open"),
        pytest.param(OPERATION, SEALED, bytes(20 << 20), "too_large", id="large and sealed"),
    ],
)  # fmt: skip
async def test_bad_input_at_the_edge(stack, path, content_type, body, code):
    async with httpx2.AsyncClient(base_url=stack.address, timeout=20, trust_env=False) as http:
        answer = await http.post(path, content=body, headers={"content-type": content_type})
    document = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert document["code"] == code
    assert answer.status_code == document["status"] == CODES[code].http
    assert document["retryable"] is CODES[code].retryable
    assert document["title"]


async def test_all_is_well_afterwards(send, expected):
    async def act(request: Message, ask: Ask) -> Message | None:
        return await ask(request)

    sent = await send(act)
    assert sent.error is None
    assert sent.output.read_bytes() == expected
