"""The main job over real processes: records in, de-identified records out, and who may do what."""

from __future__ import annotations

import csv
import json

import pytest

from geumgo import keys
from geumgo.client import GatewayError, process_file
from geumgo.keys import pool as birth
from geumgo.testing.kms import read_audit


def rows(path, count=None):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[:count]


def table(rows):
    return json.dumps({"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}).encode()


async def test_a_file_goes_through(connect, policy, customers, tmp_path):
    output = tmp_path / "out.csv"
    result = await process_file(connect(), "deidentify", customers, output, policy=policy.to_bytes())
    before, after = rows(customers), rows(output)
    assert (result.read, result.written, result.rejected_count) == (2000, 2000, 0)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    # Row by row: among thousands of tokens one is now and then somebody else's number.
    for row, changed in zip(before, after, strict=True):
        text = " ".join(changed.values())
        for field in ("rrn", "phone", "card", "account", "email"):
            assert row[field] not in text, f"{field} of {row['id']} is still there"


async def test_both_enclaves_give_the_same_output(connect, policy, customers, stack):
    body = table(rows(customers, 50))
    answers = set()
    for name in ("enclave-1", "enclave-2"):
        client = connect(address=f"unix:{stack.settings.runtime / name / 'enclave.sock'}")
        answers.add(await client.call("deidentify", body, policy=policy.to_bytes()))
    assert len(answers) == 1, "pseudonyms and tokens do not depend on the enclave"


async def test_reidentify_for_those_who_may(connect, policy, customers):
    originals = rows(customers, 10)
    answer = json.loads(await connect().call("deidentify", table(originals), policy=policy.to_bytes()))
    changed = json.dumps({"columns": answer["columns"], "rows": answer["rows"]}).encode()
    restored = json.loads(await connect("dpo").call("reidentify", changed, policy=policy.to_bytes()))
    back = [dict(zip(restored["columns"], row, strict=True)) for row in restored["rows"]]
    for field in ("rrn", "phone", "card", "email"):
        assert [row[field] for row in back] == [row[field] for row in originals]
    with pytest.raises((keys.OperationFailed, GatewayError)) as caught:
        await connect("records").call("reidentify", changed, policy=policy.to_bytes())
    assert caught.value.code == "forbidden"


async def test_a_caller_nobody_knows(connect, policy, customers):
    client = connect("records")
    client._caller = keys.CallerKey.generate("records")
    with pytest.raises((keys.OperationFailed, GatewayError)) as caught:
        await client.call("deidentify", table(rows(customers, 1)), policy=policy.to_bytes())
    assert caught.value.code == "unknown_caller"


@pytest.mark.parametrize(
    ("operation", "body", "policy_bytes", "code"),
    [
        pytest.param("nothing", b"{}", b"", "unknown_operation", id="no such operation"),
        pytest.param("deidentify", b"{}", None, "invalid_request", id="not a table"),
        pytest.param("deidentify", b"\xff", None, "invalid_request", id="not JSON"),
        pytest.param("deidentify", b'{"columns":["a"],"rows":[]}', b"garbage", "bad_policy", id="no policy"),
        pytest.param("deidentify", b'{"columns":["a"],"rows":[]}', b"", "bad_policy", id="empty policy"),
    ],
)
async def test_bad_requests_have_their_codes(connect, policy, operation, body, policy_bytes, code):
    chosen = policy.to_bytes() if policy_bytes is None else policy_bytes
    with pytest.raises((keys.OperationFailed, GatewayError)) as caught:
        await connect().call(operation, body, policy=chosen)
    assert caught.value.code == code
    assert not caught.value.retryable


async def test_a_row_of_another_width_is_rejected_alone(connect, policy):
    body = b'{"columns":["id"],"rows":[["1"],["2","3"],["4"]]}'
    answer = json.loads(await connect().call("deidentify", body, policy=policy.to_bytes()))
    assert answer["rows"] == [["1"], ["4"]]
    assert answer["rejected"] == [{"row": 1, "field": "", "code": "wrong_width"}]


async def test_unsealed_is_refused_where_the_seal_is_required(connect):
    with pytest.raises(GatewayError) as caught:
        await connect("").call_open("deidentify", b'{"columns":["a"],"rows":[]}')
    assert caught.value.code == "seal_required"


async def test_an_open_operation_takes_both(connect):
    assert await connect("").call_open("echo", b"hello") == b"hello"


async def test_the_emulators_log_passes_the_audit(stack):
    record = stack.pool.record()
    configuration = keys.MeasuredConfiguration.from_json(stack.pool.configuration_path.read_bytes())
    events = read_audit(stack.settings.state / "kms")
    measurements = (await stack.enclave_status("enclave-1"))["measurements"]
    pcrs = {name: measurements[name] for name in ("PCR0", "PCR1", "PCR2")}
    assert configuration.pool_key is not None
    assert birth.audit(events, key_id=record.key_id, admin=stack.pool.admin, pcrs=pcrs) == ()
    wrong = {**pcrs, "PCR0": "ab" * 48}
    assert birth.audit(events, key_id=record.key_id, admin=stack.pool.admin, pcrs=wrong)
