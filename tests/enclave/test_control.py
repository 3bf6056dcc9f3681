"""What the parent answers is never believed: credentials, egress, and the security module's use."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.attestation import Statement, TrustRoots, Use, verify_document
from geumgo.channel import Connection, ControlSlot, Role
from geumgo.codec import cbor
from geumgo.enclave import EnclaveError, Refused
from geumgo.enclave._attester import KMS_SUITE, Attester
from geumgo.enclave._clock import TrustedClock
from geumgo.enclave._control import ControlLink, _credentials
from geumgo.enclave._limits import Limits
from geumgo.nitro import AttestationDocument, NsmClient

GOOD = {"access_key_id": "A", "secret_access_key": "S", "session_token": None, "expires_ms": None}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xff", id="no CBOR"),
        pytest.param(cbor.dumps([1]), id="a list"),
        pytest.param(cbor.dumps({}), id="empty"),
        pytest.param(cbor.dumps({**GOOD, "access_key_id": 1}), id="a number for a key"),
        pytest.param(cbor.dumps({**GOOD, "secret_access_key": b"S"}), id="bytes for a secret"),
        pytest.param(cbor.dumps({**GOOD, "session_token": 5}), id="a number for a token"),
        pytest.param(cbor.dumps({**GOOD, "expires_ms": "soon"}), id="text for a time"),
        pytest.param(cbor.dumps({**GOOD, "expires_ms": True}), id="a flag for a time"),
        pytest.param(cbor.dumps({**GOOD, "access_key_id": "x" * 20_000}), id="too long"),
    ],
)
def test_what_is_not_credentials(answer):
    with pytest.raises(EnclaveError) as caught:
        _credentials(answer)
    assert (caught.value.code, caught.value.retryable) == ("credentials_unavailable", True)


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_only_our_errors_come_out_of_bad_credentials(answer):
    with contextlib.suppress(GeumgoError):
        _credentials(answer)


class Link:
    """A control link to a parent that a test plays."""

    def __init__(self, handler, *, now=lambda: 1_000_000, limits: Limits | None = None) -> None:
        limits = limits or Limits(connect=1, credentials=0.3)
        self.control = ControlLink(("localhost:8443", "[::1]:9"), limits, now)
        self.handler = handler

    async def __aenter__(self) -> ControlLink:
        ours, theirs = socket.socketpair()

        async def nothing(stream) -> None:
            return None

        accepting = asyncio.create_task(Connection.accept(theirs, handler=nothing, control=ControlSlot()))
        self.parent = await Connection.dial(ours, role=Role.CONTROL, handler=self.handler)
        self.connection = await accepting
        self.control.gained(self.connection)
        return self.control

    async def __aexit__(self, *exc: object) -> None:
        await self.parent.aclose()
        await self.connection.aclose()


async def test_credentials_are_kept_until_shortly_before_they_expire():
    now, asked = 1_000_000, []

    async def handler(stream) -> None:
        asked.append(stream.kind)
        await stream.reply(cbor.dumps({**GOOD, "expires_ms": 1_200_000, "session_token": str(len(asked))}))

    async with Link(handler, now=lambda: now) as control:
        assert (await control.credentials()).session_token == "1"
        assert (await control.credentials()).session_token == "1"
        now = 1_150_000
        assert (await control.credentials()).session_token == "2"
        control.forget_credentials()
        assert (await control.credentials()).session_token == "3"
    assert asked == ["credentials"] * 3


async def test_no_parent_and_a_parent_without_credentials():
    control = ControlLink((), Limits(credentials=0.05, connect=0.05), lambda: 0)
    with pytest.raises(EnclaveError) as caught:
        await control.credentials()
    assert caught.value.code == "no_control"

    async def refuse(stream) -> None:
        raise GeumgoError("none", code="keys_unavailable", retryable=True)

    async with Link(refuse) as control:
        with pytest.raises(EnclaveError) as caught:
            await control.credentials()
        assert caught.value.code == "credentials_unavailable"

    async def never(stream) -> None:
        await asyncio.Event().wait()

    async with Link(never) as control:
        with pytest.raises(EnclaveError) as caught:
            await control.credentials()
        assert caught.value.code == "credentials_unavailable"


async def test_egress_goes_to_measured_names_only():
    asked = []

    async def handler(stream) -> None:
        asked.append(dict(stream.metadata))
        await stream.reply(b"")

    async with Link(handler) as control:
        for host, port in (
            ("localhost", 8444),
            ("169.254.169.254", 80),
            ("localhost.evil", 8443),
            ("::1", 8443),
        ):
            with pytest.raises(EnclaveError) as caught:
                await control.dial(host, port)
            assert caught.value.code == "egress_forbidden"
        for host, port in (("LOCALHOST", 8443), ("::1", 9)):
            stream = await control.dial(host, port)
            assert await stream.receive() == b""
            await stream.aclose()
    assert asked == [{"host": "LOCALHOST", "port": 8443}, {"host": "::1", "port": 9}]


async def test_egress_carries_bytes_and_survives_empty_messages():
    got = bytearray()

    async def handler(stream) -> None:
        await stream.send(b"")
        await stream.send(b"answer")
        await stream.send(b"")
        while (chunk := await stream.receive()) is not None:
            got.extend(chunk)
            assert len(chunk) <= 64 << 10
            if len(got) == 300_000:
                break
        await stream.send(b"end", end=True)

    async with Link(handler) as control:
        stream = await control.dial("localhost", 8443)
        assert await stream.receive() == b"answer"
        data = secrets.token_bytes(300_000)
        await stream.send(data)
        assert await stream.receive() == b"end"
        assert await stream.receive() == b""
        await stream.aclose()
        await stream.aclose()
    assert bytes(got) == data


async def test_a_broken_egress_says_whose_refusal_it_was():
    async def handler(stream) -> None:
        raise GeumgoError("not on the list", code="forbidden")

    async with Link(handler) as control:
        stream = await control.dial("localhost", 8443)
        with pytest.raises(EnclaveError) as caught:
            await stream.receive()
        assert (caught.value.code, caught.value.retryable) == ("egress_forbidden", True)
        with pytest.raises(EnclaveError):
            await stream.send(b"x")
        await stream.aclose()


async def test_egress_connections_are_bounded_and_given_back():
    async def handler(stream) -> None:
        while await stream.receive() is not None:
            continue

    async with Link(handler, limits=Limits(egress_streams=2, connect=1)) as control:
        first, _second = [await control.dial("localhost", 8443) for _ in range(2)]
        third = asyncio.create_task(control.dial("localhost", 8443))
        await asyncio.sleep(0.02)
        assert not third.done()
        await first.aclose()
        await third


async def test_a_lost_connection_breaks_its_streams_only():
    async def handler(stream) -> None:
        await stream.receive()
        await asyncio.Event().wait()

    link = Link(handler)
    async with link as control:
        stream = await control.dial("localhost", 8443)
        await link.parent.aclose()
        with pytest.raises(EnclaveError) as caught:
            await stream.receive()
        assert caught.value.code == "egress_unavailable"
        await stream.aclose()
        control.lost(link.connection)
        assert control.connection is None


def attester(nsm, **limits) -> Attester:
    return Attester(
        NsmClient(nsm), TrustedClock(), pool="demo", configuration=b"c" * 48, limits=Limits(**limits)
    )


async def test_documents_for_the_key_service_cannot_pass_for_evidence(nsm, authority):
    made = attester(nsm)
    document = await made.kms_document(b"public key")
    now = int(time.time() * 1000)
    roots = TrustRoots.from_pem(authority.root_pem, simulated=True)
    verified = verify_document(document, roots, now_ms=now)
    assert verified is not None
    parsed = AttestationDocument.parse(document)
    statement = Statement(Use.KMS, KMS_SUITE, b"public key", "demo", b"c" * 48)
    assert parsed.user_data == statement.digest()
    assert (parsed.public_key, parsed.nonce) == (b"public key", None)
    made.close()


async def test_documents_are_made_one_at_a_time_and_askers_bounded(nsm):
    class Slow:
        running = most = 0

        def exchange(self, request: bytes) -> bytes:
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
            time.sleep(0.005)
            Slow.running -= 1
            return nsm.exchange(request)

    made = attester(Slow(), attest_waiting=5, attest_burst=100)
    statement = made.statement(Use.SEAL, "suite", b"k")
    outcomes = await asyncio.gather(
        *(made.evidence(statement, b"n" * 16) for _ in range(20)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == 15
    assert {error.code for error in refused} == {"busy"}
    assert Slow.most == 1
    made.close()


async def test_random_bytes_are_of_both_sources(nsm):
    made = attester(nsm)
    first, second = await made.random(32), await made.random(32)
    assert len(first) == 32
    assert first != second
    made.close()


async def test_the_clock_is_set_again_now_and_then(nsm):
    made = attester(nsm, clock_every=0.01)
    moves: list[int] = []
    failures: list[Exception] = []
    seen = asyncio.Event()

    def moved(milliseconds: int) -> None:
        moves.append(milliseconds)
        seen.set()

    assert await made.synchronise() == 0
    keeping = asyncio.create_task(made.keep_time(moved, failures.append))
    await seen.wait()
    keeping.cancel()
    assert failures == []
    assert all(abs(move) < 1000 for move in moves)
    assert not made.debug
    made.close()
