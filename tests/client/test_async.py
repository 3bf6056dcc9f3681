"""Verify, seal, call: against a real HTTP edge, with every way in which it can go wrong."""

from __future__ import annotations

import asyncio
import socket

import pytest

from geumgo import attestation, keys
from geumgo._base import GeumgoError
from geumgo.api import ApiError
from geumgo.client import AnswerRejected, Client, ClientError, GatewayError, Unreachable
from geumgo.testing.nsm import NsmAuthority


async def test_seals_and_opens(enclave, serve, make_client):
    address, _ = await serve(enclave)
    client = make_client(address)
    assert await client.call("deidentify", b"body", policy=b"policy") == b"BODY"
    assert enclave.opened[0].policy == b"policy"
    assert enclave.opened[0].caller == "records"
    assert b"body" not in enclave.requests[0]


async def test_evidence_is_asked_for_once(enclave, serve, make_client):
    asked = []
    enclave.fault = asked.append
    address, _ = await serve(enclave)
    client = make_client(address)
    for _ in range(3):
        await client.call("echo", b"x")
    assert asked.count("attest") == 1


async def test_concurrent_first_calls_share_one_verification(enclave, serve, make_client):
    asked = []
    enclave.fault = asked.append
    address, _ = await serve(enclave)
    client = make_client(address)
    await asyncio.gather(*(client.call("echo", b"x") for _ in range(10)))
    assert asked.count("attest") == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"use": attestation.Use.CHANNEL}, "wrong_use", id="evidence for another use"),
        pytest.param({"pcrs": dict.fromkeys(range(3), b"\x99" * 48)}, "wrong_measurement", id="other code"),
        pytest.param({"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(48)}}, "debug_measurements", id="debug"),
    ],
)
async def test_nothing_is_sent_without_acceptable_evidence(enclave, serve, make_client, change, code):
    for name, value in change.items():
        setattr(enclave, name, value)
    address, _ = await serve(enclave)
    with pytest.raises(GeumgoError) as caught:
        await make_client(address).call("deidentify", b"secret")
    assert caught.value.code == code
    assert enclave.requests == []


async def test_another_root_is_not_trusted(enclave, serve, make_client):
    address, _ = await serve(enclave)
    roots = attestation.TrustRoots.from_pem(NsmAuthority.generate().root_pem, simulated=True)
    with pytest.raises(attestation.VerificationError):
        await make_client(address, roots=roots).call("deidentify", b"secret")
    assert enclave.requests == []


async def test_production_policy_refuses_the_simulator(enclave, serve, make_client):
    address, _ = await serve(enclave)
    policy = attestation.Policy(measurements={"pcr0": frozenset({(b"\x11" * 48).hex()})})
    with pytest.raises(attestation.PolicyDenied) as caught:
        await make_client(address, policy=policy).call("deidentify", b"secret")
    assert caught.value.code == "simulated_evidence"


async def test_replayed_evidence_has_the_wrong_nonce(enclave, serve, make_client):
    address, _ = await serve(enclave)
    first = await enclave.attest(b"\x01" * 32, "seal", deadline=0)

    async def replay(nonce, use, *, deadline):
        return first

    enclave.attest = replay
    with pytest.raises(attestation.WrongNonce):
        await make_client(address).call("deidentify", b"secret")


async def test_sealed_failure_brings_its_detail(enclave, serve, make_client):
    def fail(opened):
        raise GeumgoError("row 7 is bad", code="invalid_request")

    enclave.operation = fail
    address, _ = await serve(enclave)
    with pytest.raises(keys.OperationFailed) as caught:
        await make_client(address).call("deidentify", b"x")
    assert caught.value.code == "invalid_request"
    assert "row 7" in caught.value.detail


async def test_reattests_once_when_the_pool_key_changed(enclave, serve, make_client):
    address, _ = await serve(enclave)
    client = make_client(address)
    await client.call("echo", b"x")
    enclave.pair = keys.PoolKeyPair.generate()
    assert await client.call("echo", b"y") == b"Y"


async def test_reattest_for_ever_ends(enclave, serve, make_client):
    def reattest(what):
        if what != "attest":
            raise ApiError("other key", code="reattest")

    enclave.fault = reattest
    address, _ = await serve(enclave)
    with pytest.raises(GatewayError) as caught:
        await make_client(address).call("echo", b"x")
    assert caught.value.code == "reattest"
    assert len(enclave.requests) == 2


@pytest.mark.parametrize("code", ["busy", "starting", "draining"])
async def test_refusals_before_the_work_are_repeated_for_any_operation(enclave, serve, make_client, code):
    tries = []

    def fault(what):
        if what != "attest":
            tries.append(what)
            if len(tries) < 3:
                raise ApiError("not now", code=code)

    enclave.fault = fault
    address, _ = await serve(enclave)
    assert await make_client(address).call("transfer", b"x", timeout=20) == b"X"
    assert len({bytes(request) for request in enclave.requests}) == 1, "a repeat is the same sealed bytes"


async def test_what_is_not_idempotent_is_not_repeated(enclave, serve, make_client):
    def fault(what):
        if what != "attest":
            raise ApiError("gone", code="unavailable")

    enclave.fault = fault
    address, _ = await serve(enclave)
    with pytest.raises(GatewayError) as caught:
        await make_client(address).call("transfer", b"x")
    assert caught.value.code == "unavailable"
    assert len(enclave.requests) == 1


async def test_fails_over_to_another_gateway(enclave, serve, make_client):
    first, server = await serve(enclave)
    second, _ = await serve(enclave)
    client = make_client(first, second)
    await client.call("echo", b"x")
    await server.aclose()
    assert await client.call("transfer", b"y") == b"Y", "a refused connection was certainly not carried out"


async def test_a_gateway_that_dies_mid_answer(enclave, serve, make_client):
    enclave.gate = asyncio.Event()
    first, server = await serve(enclave)
    second, _ = await serve(enclave)
    client = make_client(first, second)
    await client.attest()
    call = asyncio.create_task(client.call("echo", b"x"))
    while not enclave.in_flight:
        await asyncio.sleep(0)
    await server.aclose()
    enclave.gate.set()
    assert await call == b"X"


async def test_nobody_there(make_client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unreachable) as caught:
        await make_client(f"http://127.0.0.1:{port}", attempts=2).call("echo", b"x", timeout=2)
    assert caught.value.retryable


async def test_deadline(enclave, serve, make_client):
    enclave.gate = asyncio.Event()
    address, _ = await serve(enclave)
    client = make_client(address)
    await client.attest()
    with pytest.raises(ClientError) as caught:
        await client.call("echo", b"x", timeout=0.3)
    assert caught.value.code in ("unavailable", "deadline_exceeded")
    enclave.gate.set()


async def test_a_changed_answer_is_rejected(enclave, serve, make_client):
    enclave.tamper = lambda answer: answer[:-1] + bytes([answer[-1] ^ 1])
    address, _ = await serve(enclave)
    with pytest.raises(AnswerRejected):
        await make_client(address).call("echo", b"x")
    assert len(enclave.requests) == 3


async def test_a_swapped_answer_is_rejected(enclave, serve, make_client):
    kept = []

    def swap(answer):
        kept.append(answer)
        return kept[0]

    enclave.tamper = swap
    address, _ = await serve(enclave)
    client = make_client(address)
    await client.call("echo", b"x")
    with pytest.raises(AnswerRejected):
        await client.call("echo", b"y")


async def test_stream_keeps_order_and_bounds(enclave, serve, make_client):
    address, _ = await serve(enclave)
    client = make_client(address, window=3)
    bodies = [f"body {n}".encode() for n in range(20)]
    answers = [answer async for answer in client.stream("echo", bodies)]
    assert answers == [body.upper() for body in bodies]
    assert enclave.most_in_flight <= 3
    by_sequence = sorted(enclave.opened, key=lambda opened: opened.sequence)
    assert [opened.sequence for opened in by_sequence] == list(range(20))
    assert [opened.last for opened in by_sequence] == [False] * 19 + [True]


async def test_stream_of_nothing(enclave, serve, make_client):
    address, _ = await serve(enclave)
    assert [answer async for answer in make_client(address).stream("echo", [])] == []


async def test_stream_ends_at_the_first_failure(enclave, serve, make_client):
    def fail_third(opened):
        if opened.sequence == 2:
            raise GeumgoError("no", code="invalid_request")
        return opened.body

    enclave.operation = fail_third
    address, _ = await serve(enclave)
    answers = []
    with pytest.raises(keys.OperationFailed):
        async for answer in make_client(address).stream("echo", [b"%d" % n for n in range(100)]):
            answers.append(answer)
    assert answers == [b"0", b"1"]
    assert len(enclave.opened) < 20, "nothing goes on behind a failure"


async def test_open_calls_are_unsealed(enclave, serve, make_client):
    address, _ = await serve(enclave)
    client = make_client(address, key=None)
    assert await client.call_open("echo", b"x") == b"X"
    assert enclave.requests == [b"x"]
    with pytest.raises(ClientError) as caught:
        await client.call("echo", b"x")
    assert caught.value.code == "no_caller"


async def test_seal_required_never_makes_it_send_plaintext(enclave, serve, make_client):
    def fault(what):
        if what != "attest":
            raise ApiError("seal it", code="seal_required")

    enclave.fault = fault
    address, _ = await serve(enclave)
    with pytest.raises(GatewayError):
        await make_client(address).call("deidentify", b"my secret")
    assert all(b"my secret" not in request for request in enclave.requests)


@pytest.mark.parametrize("address", ["", "gateway:80", "ftp://x", "file:///etc/passwd"])
async def test_bad_addresses(address, make_client):
    with pytest.raises(ClientError) as caught:
        make_client(address)
    assert caught.value.code == "bad_address"


async def test_enclaves(enclave, serve, make_client):
    address, _ = await serve(enclave)
    assert await make_client(address).enclaves() == [{"name": "mini"}]


async def test_over_a_unix_socket(enclave, make_client, tmp_path):
    from geumgo.api import HttpServer

    server = HttpServer(enclave)
    await server.listen_unix(tmp_path / "e.sock")
    client = make_client(f"unix:{tmp_path / 'e.sock'}")
    assert await client.call("echo", b"x") == b"X"
    await client.aclose()
    await server.aclose()


async def test_blocking_client(enclave, serve, authority, caller):
    address, _ = await serve(enclave)

    def work():
        with Client(
            address,
            roots=attestation.TrustRoots.from_pem(authority.root_pem, simulated=True),
            policy=attestation.Policy(
                measurements={"pcr0": frozenset({(b"\x11" * 48).hex()})}, allow_simulated=True
            ),
            caller=caller,
        ) as client:
            assert client.attest().simulated
            assert client.call("echo", b"x") == b"X"
            assert client.call_open("echo", b"y") == b"Y"
            assert list(client.stream("echo", [b"a", b"b"])) == [b"A", b"B"]
            assert client.enclaves() == [{"name": "mini"}]

    await asyncio.to_thread(work)
