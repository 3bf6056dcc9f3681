"""Sealed requests: the built-in operations, and who is refused with what."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from geumgo.channel import StreamReset
from geumgo.deid import CompiledPolicy
from geumgo.enclave import Context, Enclave, Refused
from geumgo.enclave._limits import Limits
from geumgo.keys import (
    AnswerError,
    CallerKey,
    DataKey,
    OperationFailed,
    PoolKeyPair,
    encrypt_field,
)

RRN = "900101-1234568"


def policy(fields, **more) -> CompiledPolicy:
    return CompiledPolicy.from_map({"version": 1, "name": "test", "fields": fields, **more})


MASK = policy({"name": {"technique": "mask"}, "rrn": {"technique": "suppress"}})
KEYED = policy(
    {
        "name": {"technique": "pseudonym", "purpose": "customers"},
        "rrn": {"technique": "encrypt", "purpose": "customers"},
    }
)
TABLE = json.dumps({"columns": ["name", "rrn"], "rows": [["홍길동", RRN], ["김영희", None]]}).encode()


async def test_deidentify_and_reidentify(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    answer = await enclave.call(connection, "records", "deidentify", TABLE, policy=KEYED.to_bytes())
    table = json.loads(answer)
    assert table["columns"] == ["name", "rrn"]
    assert table["rejected"] == []
    assert RRN not in answer.decode()
    assert "홍길동" not in answer.decode()
    body = json.dumps({"columns": ["rrn"], "rows": [[table["rows"][0][1]]]}).encode()
    back = json.loads(await enclave.call(connection, "dpo", "reidentify", body, policy=KEYED.to_bytes()))
    assert back["rows"] == [[RRN]]


async def test_large_batches_go_through_worker_threads(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    rows = [[f"사람{index}", RRN] for index in range(2000)]
    body = json.dumps({"columns": ["name", "rrn"], "rows": rows}).encode()
    table = json.loads(await enclave.call(connection, "records", "deidentify", body, policy=MASK.to_bytes()))
    assert len(table["rows"]) == 2000


async def test_rejected_rows_are_named(kit, start):
    dated = policy({"born": {"technique": "generalise", "as": "date", "to": "year"}})
    enclave = await start()
    body = json.dumps({"columns": ["born"], "rows": [["1990-01-02"], ["never"], ["1991-01-01"]]}).encode()
    answer = json.loads(
        await enclave.call(await enclave.connect(), "records", "deidentify", body, policy=dated.to_bytes())
    )
    assert [item["row"] for item in answer["rejected"]] == [1]
    assert answer["rejected"][0]["field"] == "born"
    assert len(answer["rows"]) == 2


def envelopes(kit, kms, texts, *, key_id=None, context=None):
    context = {"app": "crm"} if context is None else context
    key_id = key_id or kit.DATA_ARN
    wrapped = kms.wrap(key_id, context)
    key = DataKey(key_id, kms.plaintext(wrapped), wrapped, context)
    return [encrypt_field(key, text.encode()) for text in texts]


async def test_decrypt_opens_what_the_caller_may_have_opened(kit, start, kms):
    enclave = await start()
    connection = await enclave.connect()
    values = envelopes(kit, kms, ["하나", "둘"])
    body = json.dumps({"values": values}).encode()
    answers = await asyncio.gather(*(enclave.call(connection, "dpo", "decrypt", body) for _ in range(8)))
    assert {json.loads(answer)["values"][1] for answer in answers} == {"둘"}
    assert kms.asked_for_data() == 1  # asked once, though eight came together


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"context": {"app": "hr"}}, "forbidden", id="another context"),
        pytest.param({"context": {"app": "crm", "x": "y"}}, "forbidden", id="a larger context"),
        pytest.param({"context": {}}, "forbidden", id="no context"),
        pytest.param(
            {"key_id": "arn:aws:kms:ap-northeast-2:111122223333:key/other"}, "forbidden", id="another key"
        ),
    ],
)
async def test_decrypt_is_bound_to_key_and_context(kit, start, kms, change, code):
    enclave = await start()
    body = json.dumps({"values": envelopes(kit, kms, ["x"], **change)}).encode()
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(await enclave.connect(), "dpo", "decrypt", body)
    assert caught.value.code == code
    assert kms.asked_for_data() == 0  # the key service is not even asked


async def test_the_pools_own_keys_are_no_data_keys(kit, start, kms, configure):
    configuration = configure()
    enclave = await start(configuration=configuration)
    seed = configuration.pool_key
    plain = kms.plaintext(seed.ciphertext)
    value = encrypt_field(DataKey(seed.key_id, plain, seed.ciphertext, seed.context), b"x")
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(
            await enclave.connect(), "dpo", "decrypt", json.dumps({"values": [value]}).encode()
        )
    assert caught.value.code == "forbidden"


async def test_decrypt_refuses_what_does_not_open_and_says_which(kit, start, kms):
    enclave = await start()
    connection = await enclave.connect()
    good = envelopes(kit, kms, ["x"])[0]
    for bad in ("", "AAAA", good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB")):
        with pytest.raises(OperationFailed) as caught:
            await enclave.call(connection, "dpo", "decrypt", json.dumps({"values": [good, bad]}).encode())
        assert caught.value.code == "invalid_request"
        assert "value 1" in caught.value.detail


async def test_encrypted_fields_are_opened_then_deidentified(kit, start, kms, configure, callers):
    encrypted = policy({"name": {"technique": "keep"}, "rrn": {"technique": "mask", "encrypted": True}})
    base = configure()
    data = json.loads(base.to_json())
    data["callers"]["records"].update(
        policies=[encrypted.digest.hex()], keys=[{"key_id": kit.DATA_ARN, "context": {"app": "crm"}}]
    )
    enclave = await start(configuration=type(base).from_json(json.dumps(data).encode()))
    connection = await enclave.connect()
    values = envelopes(kit, kms, [RRN, "둘"])
    rows = [["a", values[0]], ["b", "no envelope"], ["c", None], ["d", values[1]]]
    body = json.dumps({"columns": ["name", "rrn"], "rows": rows}).encode()
    answer = await enclave.call(connection, "records", "deidentify", body, policy=encrypted.to_bytes())
    table = json.loads(answer)
    assert [row[0] for row in table["rows"]] == ["a", "c", "d"]
    assert {"row": 1, "field": "rrn", "code": "envelope_unreadable"} in table["rejected"]
    assert RRN not in answer.decode()
    # the same fields under a policy that isn't listed would be an oracle
    keep = policy({"rrn": {"technique": "keep", "encrypted": True}})
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(connection, "records", "deidentify", body, policy=keep.to_bytes())
    assert caught.value.code == "forbidden"


async def test_rows_of_another_width_are_rejected_one_by_one(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    body = b'{"columns":["name","rrn"],"rows":[["a","b","c"],["d","e"],[]]}'
    table = json.loads(await enclave.call(connection, "records", "deidentify", body, policy=MASK.to_bytes()))
    assert [item["row"] for item in table["rejected"]] == [0, 2]
    assert len(table["rows"]) == 1


async def test_a_known_policy_is_still_checked_for_each_caller(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    body = b'{"columns":["name"],"rows":[["a"]]}'
    await enclave.call(connection, "records", "deidentify", body, policy=KEYED.to_bytes())
    await enclave.call(connection, "dpo", "reidentify", body, policy=MASK.to_bytes())
    research = policy({"name": {"technique": "pseudonym", "purpose": "research"}})
    for _ in range(2):
        with pytest.raises(OperationFailed) as caught:
            await enclave.call(connection, "records", "deidentify", body, policy=research.to_bytes())
        assert caught.value.code == "forbidden"


async def test_any_policy_means_plaintext_fields_only(kit, start):
    encrypted = policy({"name": {"technique": "keep", "encrypted": True}})
    enclave = await start()
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(
            await enclave.connect(), "records", "deidentify", TABLE, policy=encrypted.to_bytes()
        )
    assert caught.value.code == "forbidden"


@pytest.mark.parametrize(
    ("caller", "operation", "body", "options", "code"),
    [
        pytest.param("app", "deidentify", TABLE, {"policy": MASK.to_bytes()}, "forbidden", id="not listed"),
        pytest.param(
            "records", "reidentify", TABLE, {"policy": KEYED.to_bytes()}, "forbidden", id="other operation"
        ),
        pytest.param("records", "deidentify", TABLE, {}, "bad_policy", id="no policy"),
        pytest.param("records", "deidentify", TABLE, {"policy": b"\xa0"}, "bad_policy", id="no such policy"),
        pytest.param(
            "records",
            "deidentify",
            TABLE,
            {"policy": policy({"name": {"technique": "pseudonym", "purpose": "research"}}).to_bytes()},
            "forbidden",
            id="purpose not listed for the caller",
        ),
        pytest.param(
            "records",
            "deidentify",
            TABLE,
            {"policy": policy({"name": {"technique": "pseudonym", "purpose": "seed"}}).to_bytes()},
            "forbidden",
            id="the seed is no purpose",
        ),
        pytest.param(
            "records", "deidentify", b"{", {"policy": MASK.to_bytes()}, "invalid_request", id="no JSON"
        ),
        pytest.param(
            "records",
            "deidentify",
            b'{"columns":["name","name"],"rows":[]}',
            {"policy": MASK.to_bytes()},
            "invalid_request",
            id="a column twice",
        ),
        pytest.param(
            "records",
            "deidentify",
            b'{"columns":["name"],"rows":[[1]]}',
            {"policy": MASK.to_bytes()},
            "invalid_request",
            id="a number",
        ),
    ],
)
async def test_refusals_come_sealed_to_the_caller(start, caller, operation, body, options, code):
    enclave = await start()
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(await enclave.connect(), caller, operation, body, **options)
    assert caught.value.code == code
    assert caught.value.detail


async def test_policies_listed_by_hash(kit, start, configure):
    base = configure()
    data = json.loads(base.to_json())
    data["callers"]["records"]["policies"] = [MASK.digest.hex()]
    enclave = await start(configuration=type(base).from_json(json.dumps(data).encode()))
    connection = await enclave.connect()
    await enclave.call(connection, "records", "deidentify", TABLE, policy=MASK.to_bytes())
    other = policy({"name": {"technique": "keep"}})
    with pytest.raises(OperationFailed) as caught:
        await enclave.call(connection, "records", "deidentify", TABLE, policy=other.to_bytes())
    assert caught.value.code == "forbidden"


async def refused(awaitable) -> StreamReset:
    with pytest.raises(StreamReset) as caught:
        await awaitable
    return caught.value


async def test_refusals_before_the_seal_opens(kit, start, callers):
    enclave = await start()
    connection = await enclave.connect()

    async def sealed(name, request) -> str:
        return (await refused(kit.send(connection, name, request, sealed=True))).code

    good = enclave.seal("records", "deidentify", TABLE, policy=MASK.to_bytes()).request
    stranger = enclave.seal(CallerKey.generate("records"), "deidentify", TABLE).request
    elsewhere = enclave.seal("records", "deidentify", TABLE, pool=PoolKeyPair.generate().public).request
    late = enclave.seal("records", "deidentify", TABLE, deadline_ms=int(time.time() * 1000) - 3000).request
    far = enclave.seal("records", "deidentify", TABLE, deadline_ms=int(time.time() * 1000) + 10**8).request
    assert await sealed("deidentify", b"") == "malformed"
    assert await sealed("deidentify", good[:-1]) == "malformed"
    assert await sealed("deidentify", good[:-20] + bytes(20)) == "malformed"
    assert await sealed("reidentify", good) == "malformed"  # relabelled
    assert await sealed("nonesuch", good) == "unknown_operation"
    assert await sealed("deidentify", stranger) == "unknown_caller"
    assert await sealed("deidentify", elsewhere) == "reattest"
    assert await sealed("deidentify", late) == "deadline_exceeded"
    assert await sealed("deidentify", far) == "forbidden"
    assert (await refused(kit.send(connection, "deidentify", TABLE))).code == "seal_required"
    assert (await refused(kit.send(connection, "nonesuch", TABLE))).code == "unknown_operation"
    assert (await refused(kit.send(connection, "echo", bytes(2 << 20)))).code == "too_large"


async def test_every_byte_of_the_clear_part_matters(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    good = enclave.seal("records", "deidentify", TABLE, policy=MASK.to_bytes()).request
    clear = 58 + len("deidentify")
    for place in range(0, clear, 3):
        changed = bytearray(good)
        changed[place] ^= 1
        error = await refused(kit.send(connection, "deidentify", bytes(changed), sealed=True))
        assert error.code in ("malformed", "reattest", "deadline_exceeded", "forbidden")


async def test_the_same_bytes_are_answered_again_where_idempotent(kit, start):
    enclave = await start()
    connection = await enclave.connect()
    sealed = enclave.seal("records", "deidentify", TABLE, policy=MASK.to_bytes())
    first = await kit.send(connection, "deidentify", sealed.request, sealed=True)
    second = await kit.send(await enclave.connect(), "deidentify", sealed.request, sealed=True)
    assert sealed.answer_opener.open(first) == sealed.answer_opener.open(second)
    other = enclave.seal("records", "deidentify", TABLE, policy=MASK.to_bytes())
    with pytest.raises(AnswerError):
        other.answer_opener.open(first)  # an answer can't be passed off as another's


def counting() -> tuple[Enclave, list[int]]:
    app, runs = Enclave(), []

    @app.operation("count")
    async def count(request: bytes) -> str:
        runs.append(1)
        if request == b"fail":
            raise ValueError(RRN)
        return str(len(runs))

    return app, runs


async def test_what_must_not_run_twice_runs_once(kit, start, configure):
    app, runs = counting()
    configuration = configure(pooled=False, operations={"count": {"callers": ["app"]}})
    enclave = await start(app, configuration)
    connection = await enclave.connect()
    sealed = enclave.seal("app", "count", b"")
    assert sealed.answer_opener.open(await kit.send(connection, "count", sealed.request, sealed=True)) == b"1"
    again = await kit.send(connection, "count", sealed.request, sealed=True)
    with pytest.raises(OperationFailed) as caught:
        sealed.answer_opener.open(again)
    assert caught.value.code == "duplicate"
    resealed = enclave.seal("app", "count", b"", request_id=sealed.request_id)
    with pytest.raises(OperationFailed) as caught:
        resealed.answer_opener.open(await kit.send(connection, "count", resealed.request, sealed=True))
    assert caught.value.code == "duplicate"
    next_one = enclave.seal("app", "count", b"", request_id=sealed.request_id, sequence=1)
    answer = await kit.send(connection, "count", next_one.request, sealed=True)
    assert next_one.answer_opener.open(answer) == b"2"
    failing = enclave.seal("app", "count", b"fail")
    for code in ("operation_failed", "duplicate"):
        with pytest.raises(OperationFailed) as caught:
            failing.answer_opener.open(await kit.send(connection, "count", failing.request, sealed=True))
        assert caught.value.code == code
    assert len(runs) == 3


async def test_a_full_memory_of_requests_is_busy(kit, start, configure):
    app, runs = counting()
    configuration = configure(pooled=False, operations={"count": {"callers": ["app"]}})
    enclave = await start(app, configuration, limits=Limits(remembered_requests=2))
    connection = await enclave.connect()
    for _ in range(2):
        await enclave.call(connection, "app", "count", b"")
    error = await refused(enclave.call(connection, "app", "count", b""))
    assert (error.code, error.retryable) == ("busy", True)
    assert len(runs) == 2


async def test_not_idempotent_operations_need_a_pool_of_one(kit, start, configure):
    app, _ = counting()
    configuration = configure(operations={"count": {"callers": ["app"]}})
    enclave = await start(app, configuration, ready=False)
    told = await kit.describe(await enclave.connect())
    assert (told["state"], told["reason"]) == ("failed", "operation_not_idempotent")


async def test_open_operations_have_no_keys(kit, start, configure, kms):
    app = Enclave()
    seen: dict[str, str] = {}

    @app.operation("nosy", open=True, idempotent=True)
    async def nosy(request: bytes, context: Context) -> bytes:
        for name, attempt in (
            ("purpose", lambda: context.purpose_key("customers", "token")),
            ("decrypt", lambda: context.decrypt([])),
        ):
            try:
                await attempt()
            except Refused as error:
                seen[name] = error.code
        try:
            context.policy  # noqa: B018
        except Refused as error:
            seen["policy"] = error.code
        return b"done"

    enclave = await start(app, configure(operations={"nosy": {"open": True}}))
    connection = await enclave.connect()
    assert await kit.send(connection, "nosy", b"") == b"done"
    assert seen == {"purpose": "forbidden", "decrypt": "forbidden", "policy": "bad_policy"}
    # sealed by a caller who has these rights elsewhere: still none here
    assert await enclave.call(connection, "records", "nosy", b"", policy=KEYED.to_bytes()) == b"done"
    assert seen == {"purpose": "forbidden", "decrypt": "forbidden", "policy": "forbidden"}
    assert await enclave.call(connection, "app", "nosy", b"", policy=MASK.to_bytes()) == b"done"
    assert kms.asked_for_data() == 0


async def test_the_parent_cannot_use_the_enclave_as_an_oracle(kit, start, configure, callers):
    """With everything that the protocol gives a manager, which is no caller's key."""
    configuration = configure()
    enclave = await start(configuration=configuration, ready=False)
    parent = await enclave.parent()
    await enclave.ready()
    connection = parent.connection
    recorded = enclave.seal("records", "deidentify", TABLE, policy=KEYED.to_bytes())
    for operation in ("deidentify", "reidentify", "decrypt"):
        assert (await refused(kit.send(connection, operation, TABLE))).code == "seal_required"
        own = enclave.seal(CallerKey.generate("manager"), operation, TABLE, policy=KEYED.to_bytes())
        assert (
            await refused(kit.send(connection, operation, own.request, sealed=True))
        ).code == "unknown_caller"
        posing = enclave.seal(CallerKey.generate("dpo"), operation, TABLE, policy=KEYED.to_bytes())
        assert (
            await refused(kit.send(connection, operation, posing.request, sealed=True))
        ).code == "unknown_caller"
        if operation != "deidentify":
            assert (
                await refused(kit.send(connection, operation, recorded.request, sealed=True))
            ).code == "malformed"
    # replaying a recorded request gives what its caller alone can open
    answer = await kit.send(connection, "deidentify", recorded.request, sealed=True)
    assert RRN.encode() not in answer
    assert json.loads(recorded.answer_opener.open(answer))["rows"]
