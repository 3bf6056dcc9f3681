"""From start to ready: key service down, refusing, lying; parent gone; nothing configured."""

from __future__ import annotations

import asyncio
import json

import pytest

from geumgo._base import GeumgoError
from geumgo.channel import StreamReset
from geumgo.codec import cbor
from geumgo.enclave import Enclave
from geumgo.enclave._limits import Limits
from geumgo.enclave._startup import back_off
from geumgo.keys import KmsError, MeasuredConfiguration, PoolKeyPair

QUICK = Limits(retry_first=0.01, retry_max=0.02)


async def test_waits_for_a_parent(kit, start):
    enclave = await start(ready=False)
    connection = await enclave.connect()
    while (told := await kit.describe(connection))["reason"] is None:
        await asyncio.sleep(0)
    assert (told["state"], told["reason"], told["key_id"]) == ("starting", "no_control", None)
    for message, sealed in ((b"x" * 200, True),):
        with pytest.raises(StreamReset) as caught:
            await kit.send(connection, "deidentify", message, sealed=sealed)
        assert (caught.value.code, caught.value.retryable) == ("starting", True)
    with pytest.raises(StreamReset) as caught:
        await connection.call("attest", cbor.dumps({"nonce": b"n" * 16, "use": "seal"}))
    assert caught.value.code == "starting"
    assert await kit.send(connection, "echo", b"needs no key") == b"needs no key"
    await enclave.parent()
    await enclave.ready()
    assert (await kit.describe(connection))["state"] == "ready"


@pytest.mark.parametrize(
    "code", ["kms_unavailable", "access_denied", "kms_key_mismatch", "kms_timeout", "credentials_rejected"]
)
async def test_starting_goes_on_until_the_key_service_releases_the_key(kit, start, kms, code):
    kms.error = KmsError("secret text", code=code)
    enclave = await start(ready=False, limits=QUICK)
    parent = await enclave.parent()
    event = await parent.event("pool_key_refused", 3)
    assert event["fields"]["reason"] == code
    assert event["level"] == "warn"
    assert (await kit.describe(parent.connection))["reason"] == code
    kms.error = None
    await enclave.ready()
    ready = await parent.event("ready")
    assert ready["fields"]["attempts"] >= 4
    assert "secret" not in json.dumps(parent.events)


async def test_a_seed_of_another_length_is_not_used(kit, start, kms, configure):
    configuration = configure()
    blob = kms.wrap(kit.KEY_ARN, configuration.pool_key.context, b"short")
    data = json.loads(configuration.to_json())
    data["pool_key"]["ciphertext"] = __import__("base64").b64encode(blob).decode()
    enclave = await start(
        configuration=MeasuredConfiguration.from_json(json.dumps(data).encode()), ready=False, limits=QUICK
    )
    parent = await enclave.parent()
    await parent.event("pool_key_refused", 2)
    assert (await kit.describe(parent.connection))["state"] == "starting"


async def test_the_pools_key_pair_follows_from_the_seed(start, kms, configure):
    configuration = configure()
    first = await start(configuration=configuration)
    second = await start(configuration=configuration)
    seed = kms.plaintext(configuration.pool_key.ciphertext)
    assert first.pool_key() == second.pool_key() == PoolKeyPair.from_seed(seed).public


async def test_without_pool_key_each_enclave_makes_its_own(start, configure):
    first = await start(configuration=configure(pooled=False), ready=False)
    second = await start(configuration=configure(pooled=False), ready=False)
    await first.ready()
    await second.ready()
    assert first.pool_key() != second.pool_key()


async def test_a_new_manager_ends_the_pause(start, kms):
    kms.error = KmsError("down", code="kms_unavailable")
    enclave = await start(ready=False, limits=Limits(retry_first=50, retry_max=50))
    parent = await enclave.parent()
    await parent.event("pool_key_refused")
    kms.error = None
    await parent.connection.aclose()
    await enclave.parent()
    await enclave.ready()  # within the test's timeout, not after 25 s


async def test_serving_goes_on_without_a_manager_and_logs_follow_later(kit, start, kms, configure):
    app = Enclave()

    @app.operation("fail", open=True, idempotent=True)
    async def fail(request: bytes) -> bytes:
        raise ValueError

    operations = {"fail": {"open": True}, "echo": {"open": True}}
    enclave = await start(app, configure(operations=operations), ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    await parent.event("ready")
    connection = await enclave.connect()
    await parent.connection.aclose()
    while enclave.program._control.connection is not None:
        await asyncio.sleep(0)
    assert await kit.send(connection, "echo", b"on") == b"on"
    with pytest.raises(StreamReset):
        await kit.send(connection, "fail", b"")
    again = await enclave.parent()
    assert again.connection.role.value == "control"
    event = await again.event("operation_raised")
    assert event["fields"] == {"operation": "fail", "exception": "ValueError"}
    codes = [one["code"] for one in again.events]
    assert codes.index("control_lost") < codes.index("operation_raised") < codes.index("control_opened")


async def test_purpose_keys_come_when_the_key_service_does(kit, start, kms):
    from geumgo.deid import CompiledPolicy

    policy = CompiledPolicy.from_map(
        {"version": 1, "name": "t", "fields": {"a": {"technique": "pseudonym", "purpose": "customers"}}}
    ).to_bytes()
    body = b'{"columns":["a"],"rows":[["x"]]}'
    enclave = await start(ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    kms.error = KmsError("down", code="kms_unavailable")
    enclave.program._keys._purposes._values.clear()
    connection = await enclave.connect()
    with pytest.raises(StreamReset) as caught:
        await enclave.call(connection, "records", "deidentify", body, policy=policy)
    assert (caught.value.code, caught.value.retryable) == ("keys_unavailable", True)
    event = await parent.event("purpose_key_refused")
    assert event["fields"]["reason"] == "kms_unavailable"
    kms.error = None
    answer = await enclave.call(connection, "records", "deidentify", body, policy=policy)
    assert json.loads(answer)["rows"][0][0] != "x"


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        pytest.param({"nonesuch": {"callers": ["app"]}}, "operation_missing", id="missing"),
        pytest.param({"deidentify": {"open": True}}, "operation_not_open", id="open in the file only"),
    ],
)
async def test_a_configuration_that_does_not_fit_is_told(kit, start, configure, operations, reason):
    enclave = await start(configuration=configure(operations=operations), ready=False)
    parent = await enclave.parent()
    assert (await parent.event("bad_configuration"))["fields"] == {"reason": reason}
    told = await kit.describe(parent.connection)
    assert (told["state"], told["reason"], told["operations"]) == ("failed", reason, {})
    with pytest.raises(StreamReset) as caught:
        await kit.send(parent.connection, "echo", b"")
    assert caught.value.code == "unavailable"
    with pytest.raises(StreamReset) as caught:
        await parent.connection.call("attest", cbor.dumps({"nonce": b"n" * 16, "use": "seal"}))
    assert caught.value.code == "unavailable"


async def test_no_configuration_at_all_is_told(kit, start):
    error = GeumgoError("gone", code="configuration_missing")
    enclave = await start(configuration=error, ready=False)
    told = await kit.describe(await enclave.connect())
    assert (told["pool"], told["state"], told["reason"]) == ("", "failed", "configuration_missing")


class Broken:
    """A security module that fails until it is mended."""

    def __init__(self, nsm) -> None:
        self.nsm = nsm
        self.broken = True

    def exchange(self, request: bytes) -> bytes:
        if self.broken:
            raise GeumgoError("no", code="nsm_unavailable")
        return self.nsm.exchange(request)


async def test_a_failing_security_module_is_asked_again(kit, start, nsm):
    module = Broken(nsm)
    enclave = await start(transport=module, ready=False, limits=QUICK)
    parent = await enclave.parent()
    await parent.event("pool_key_refused", 2)
    told = await kit.describe(parent.connection)
    assert (told["state"], told["reason"]) == ("starting", "nsm_unavailable")
    module.broken = False
    await enclave.ready()
    assert (await parent.event("ready"))["t"] > 0
    assert parent.events[0]["t"] == 0  # from before the clock was set


@pytest.mark.parametrize("attempt", [1, 2, 5, 100, 10_000])
def test_pauses_double_up_to_a_limit(attempt):
    limits = Limits()
    least, most = back_off(attempt, limits, 0.0), back_off(attempt, limits, 1.0)
    assert least == most / 2
    assert most == min(limits.retry_max, limits.retry_first * 2 ** min(attempt - 1, 32))
