"""Parts are killed while a file streams: the output is whole and equal to an undisturbed run."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from geumgo.client import GatewayError, Unreachable, process_file


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a quiet run writes; filled by the first test that needs it."""
    return {"path": tmp_path_factory.mktemp("quiet") / "out.csv"}


async def quiet(connect, policy, customers, undisturbed) -> bytes:
    path = undisturbed["path"]
    if not path.exists():
        await process_file(connect(), "deidentify", customers, path, policy=policy.to_bytes())
    return path.read_bytes()


async def disturbed(client, policy, customers, output, disturb) -> bytes:
    """Stream the file and call `disturb` once, when a quarter is through."""
    happened = []

    def progress(rows, size):
        if rows >= 500 and not happened:
            happened.append(rows)
            disturb()

    result = await process_file(
        client, "deidentify", customers, output, policy=policy.to_bytes(), batch_rows=50, progress=progress
    )
    assert happened
    assert happened[0] < result.read, "it must happen in the middle"
    assert result.read == result.written == 2000
    return output.read_bytes()


def program_pid(stack, name) -> int:
    """The process whose end is the enclave's end."""
    return int(json.loads((stack.settings.runtime / name / "enclave.json").read_text())["pid"])


@pytest.fixture
async def healed(stack):
    """After the test, start what is missing and wait until everything is ready."""
    yield
    for name in ("enclave-1", "enclave-2"):
        if not stack.process(name).alive:
            stack.stop(name)
            stack.start_enclave(name, stack.pool.eif)
    if not stack.process("kms").alive:
        stack.stop("kms")
        stack.start_kms()
    await stack.wait_ready(["enclave-1", "enclave-2"])
    for number in (1, 2):
        if not stack.process(f"gateway-{number}").alive:
            stack.stop(f"gateway-{number}")
            stack.start_gateway(f"gateway-{number}", (f"enclave-{number}",))


@pytest.mark.parametrize("name", ["enclave-1", "enclave-2"])
async def test_an_enclave_is_killed(stack, connect, policy, customers, undisturbed, tmp_path, healed, name):
    expected = await quiet(connect, policy, customers, undisturbed)
    victim = program_pid(stack, name)
    output = await disturbed(
        connect(), policy, customers, tmp_path / "out.csv", lambda: os.kill(victim, signal.SIGKILL)
    )
    assert output == expected
    await stack.wait_ready([name])
    assert (await stack.enclave_status(name))["restarts"] >= 1


@pytest.mark.parametrize("name", ["gateway-1", "gateway-2"])
async def test_a_gateway_is_killed(stack, connect, policy, customers, undisturbed, tmp_path, healed, name):
    expected = await quiet(connect, policy, customers, undisturbed)
    victim = stack.process(name)
    output = await disturbed(
        connect(), policy, customers, tmp_path / "out.csv", lambda: victim.signal(signal.SIGKILL)
    )
    assert output == expected


async def test_a_gateway_is_told_to_stop(stack, connect, policy, customers, undisturbed, tmp_path, healed):
    expected = await quiet(connect, policy, customers, undisturbed)
    victim = stack.process("gateway-1")
    output = await disturbed(
        connect(), policy, customers, tmp_path / "out.csv", lambda: victim.signal(signal.SIGTERM)
    )
    assert output == expected


async def test_a_manager_is_killed(stack, connect, policy, customers, undisturbed, tmp_path, healed):
    expected = await quiet(connect, policy, customers, undisturbed)
    victim = stack.process("enclave-1")
    program = program_pid(stack, "enclave-1")
    output = await disturbed(
        connect(), policy, customers, tmp_path / "out.csv", lambda: victim.signal(signal.SIGKILL)
    )
    assert output == expected
    # As on hardware, where the enclave dies with the descriptor's owner.
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{program}"):
            await asyncio.sleep(0.05)


async def test_the_key_service_is_down(stack, connect, policy, customers, undisturbed, tmp_path, healed):
    """Enclaves that have their key go on; one that starts waits, says why, and gets it later."""
    stack.process("kms").stop()
    expected = await quiet(connect, policy, customers, undisturbed)
    output = tmp_path / "out.csv"
    await process_file(connect(), "deidentify", customers, output, policy=policy.to_bytes())
    assert output.read_bytes() == expected
    os.kill(program_pid(stack, "enclave-1"), signal.SIGKILL)
    async with asyncio.timeout(30):
        status = {}
        while (status.get("enclave_state"), status.get("reason")) != ("starting", "egress_unavailable"):
            status = await stack.enclave_status("enclave-1")
            await asyncio.sleep(0.05)
    alone = connect(address=f"unix:{stack.settings.runtime / 'enclave-1' / 'enclave.sock'}", start_wait=0.5)
    with pytest.raises((GatewayError, Unreachable)) as caught:
        await alone.call("deidentify", b"{}", policy=policy.to_bytes(), timeout=2)
    assert caught.value.retryable
    stack.stop("kms")
    stack.start_kms()
    await stack.wait_ready(["enclave-1"])


async def test_no_enclave_at_all(stack, connect, healed):
    """Both gateways answer clearly, and soon."""
    client = connect(attempts=2)
    await client.attest()
    for name in ("enclave-1", "enclave-2"):
        stack.process(name).stop()
    with pytest.raises((GatewayError, Unreachable)) as caught:
        await client.call_open("echo", b"x", timeout=5)
    assert caught.value.code in ("unavailable", "starting")
    assert caught.value.retryable
