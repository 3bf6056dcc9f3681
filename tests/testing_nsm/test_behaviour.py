"""The software NSM against what was observed on the real one, request by request."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo.nitro import AttestationDocument, ErrorCode, MessageError, NsmClient, NsmRefused
from geumgo.nitro import messages as m
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm, SoftwareNsmError

ZERO = bytes(48)


def ask(nsm: SoftwareNsm, value: Any) -> Any:
    data = value if isinstance(value, bytes) else cbor2.dumps(value)
    return cbor2.loads(nsm.handle(data))


INVALID_OPERATION: dict[str, Any] = {
    "nothing": b"",
    "no CBOR": b"\xff",
    "cut CBOR": b"\xa1\x67LockPCR",
    "bytes after it": cbor2.dumps("GetRandom") + b"\x00",
    "null": None,
    "a number": 7,
    "an array": ["GetRandom"],
    "an empty map": {},
    "an unknown command": "Reboot",
    "an unknown command with arguments": {"Reboot": {}},
    "another case": "getrandom",
    "two commands": {"DescribePCR": {"index": 0}, "LockPCR": {"index": 16}},
    "a command and something unknown": {"DescribePCR": {"index": 0}, "more": 1},
    "DescribePCR without index": {"DescribePCR": {}},
    "DescribePCR of text": {"DescribePCR": {"index": "0"}},
    "DescribePCR of null": {"DescribePCR": {"index": None}},
    "DescribePCR of bytes": {"DescribePCR": {"index": b"\x00"}},
    "DescribePCR of -1": {"DescribePCR": {"index": -1}},
    "DescribePCR over u16": {"DescribePCR": {"index": 0x10000}},
    "DescribePCR over u32": {"DescribePCR": {"index": 1 << 32}},
    "LockPCR of -1": {"LockPCR": {"index": -1}},
    "LockPCRs of text": {"LockPCRs": {"range": "16"}},
    "LockPCRs without range": {"LockPCRs": {"index": 16}},
    "ExtendPCR without data": {"ExtendPCR": {"index": 16}},
    "ExtendPCR by null": {"ExtendPCR": {"index": 16, "data": None}},
    "ExtendPCR by a number": {"ExtendPCR": {"index": 16, "data": 1}},
    "ExtendPCR without index": {"ExtendPCR": {"data": b""}},
    "Attestation of a number": {"Attestation": {"nonce": 1}},
    "Attestation of null": {"Attestation": None},
    "Attestation of an array": {"Attestation": []},
    "Attestation as text": "Attestation",
}

ERRORS: dict[str, tuple[Any, str]] = {
    **{name: (value, "InvalidOperation") for name, value in INVALID_OPERATION.items()},
    "DescribePCR of 32": ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
    "DescribePCR of 255": ({"DescribePCR": {"index": 255}}, "InvalidIndex"),
    "DescribePCR of 65535": ({"DescribePCR": {"index": 0xFFFF}}, "InvalidIndex"),
    "LockPCR of 32": ({"LockPCR": {"index": 32}}, "InvalidIndex"),
    "LockPCRs of 33": ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
    "ExtendPCR of 32": ({"ExtendPCR": {"index": 32, "data": b""}}, "InvalidIndex"),
    "LockPCR of a locked one": ({"LockPCR": {"index": 0}}, "ReadOnlyIndex"),
    "LockPCR of the last locked one": ({"LockPCR": {"index": 15}}, "ReadOnlyIndex"),
    "ExtendPCR of a locked one": ({"ExtendPCR": {"index": 0, "data": b"x"}}, "ReadOnlyIndex"),
    "a request of 4097 bytes": (bytes(4097), "InputTooLarge"),
    "an attestation of 4097 bytes": (
        {"Attestation": {"nonce": bytes(4097 - len(cbor2.dumps({"Attestation": {"nonce": b""}})) - 2)}},
        "InputTooLarge",
    ),
}


@pytest.mark.parametrize(("value", "error"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(nsm: SoftwareNsm, value: Any, error: str) -> None:
    before = cbor2.loads(nsm.handle(cbor2.dumps("DescribeNSM")))
    assert ask(nsm, value) == {"Error": error}
    assert cbor2.loads(nsm.handle(cbor2.dumps("DescribeNSM"))) == before


def test_describe(nsm: SoftwareNsm) -> None:
    assert ask(nsm, "DescribeNSM") == {
        "DescribeNSM": {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": nsm.module_id,
            "max_pcrs": 32,
            "locked_pcrs": list(range(16)),
            "digest": "SHA384",
        }
    }


def test_random_is_256_bytes_and_never_the_same(nsm: SoftwareNsm) -> None:
    answers = [ask(nsm, "GetRandom")["GetRandom"]["random"] for _ in range(8)]
    assert {len(answer) for answer in answers} == {256}
    assert len(set(answers)) == 8


def test_registers_at_boot(nsm: SoftwareNsm, pcrs: dict[int, bytes]) -> None:
    instance = hashlib.sha384(ZERO + b"i-1234567890abcdef0").digest()
    for index in range(32):
        expected = {**pcrs, 4: instance}.get(index, ZERO)
        answer = ask(nsm, {"DescribePCR": {"index": index}})
        assert answer == {"DescribePCR": {"lock": index < 16, "data": expected}}


def test_pcr4_is_the_published_measurement_of_the_instance(nsm: SoftwareNsm) -> None:
    # AWS Nitro Enclaves User Guide, "Where to get an enclave's measurements"
    answer = ask(nsm, {"DescribePCR": {"index": 4}})["DescribePCR"]["data"].hex()
    assert answer == (
        "08f996b5d43e047a9eb51e7f548bfee7e164fd7dc8f65541f2ac09d6545ac812719327281c401a67a10fcba87ae79ce0"
    )


def test_a_register_can_be_extended_until_it_is_locked(nsm: SoftwareNsm) -> None:
    first = hashlib.sha384(ZERO + b"one").digest()
    second = hashlib.sha384(first + b"two").digest()
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"one"}}) == {"ExtendPCR": {"data": first}}
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": "two"}}) == {"ExtendPCR": {"data": second}}
    assert ask(nsm, {"LockPCR": {"index": 16}}) == "LockPCR"
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"three"}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"LockPCR": {"index": 16}}) == {"Error": "ReadOnlyIndex"}
    assert ask(nsm, {"DescribePCR": {"index": 16}}) == {"DescribePCR": {"lock": True, "data": second}}


@pytest.mark.parametrize(
    "size", [0, 1, 48, 3000, 4096 - len(cbor2.dumps({"ExtendPCR": {"index": 31, "data": b""}})) - 2]
)
def test_data_to_extend_by_may_have_any_size(nsm: SoftwareNsm, size: int) -> None:
    request = cbor2.dumps({"ExtendPCR": {"index": 31, "data": bytes(size)}})
    assert len(request) <= 4096
    answer = ask(nsm, request)
    assert answer == {"ExtendPCR": {"data": hashlib.sha384(ZERO + bytes(size)).digest()}}


def test_unknown_fields_are_ignored(nsm: SoftwareNsm) -> None:
    assert ask(nsm, {"LockPCR": {"index": 20, "more": 1, 5: None}}) == "LockPCR"
    assert "document" in ask(nsm, {"Attestation": {"more": [1]}})["Attestation"]


@pytest.mark.parametrize("range_", [0, 1, 16, 20, 32])
def test_a_range_is_locked_also_over_locked_ones(nsm: SoftwareNsm, range_: int) -> None:
    assert ask(nsm, {"LockPCRs": {"range": range_}}) == "LockPCRs"
    assert ask(nsm, {"LockPCRs": {"range": range_}}) == "LockPCRs"
    locked = ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"]
    assert locked == list(range(max(16, range_)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({}, (None, None, None), id="absent"),
        pytest.param({"nonce": None}, (None, None, None), id="null"),
        pytest.param({"nonce": b""}, (None, None, b""), id="empty stays empty"),
        pytest.param({"nonce": "금고"}, (None, None, "금고".encode()), id="text becomes bytes"),
        pytest.param({"public_key": b"k", "user_data": b"u", "nonce": b"n"}, (b"k", b"u", b"n"), id="all"),
    ],
)
def test_attestation_arguments(
    nsm: SoftwareNsm, arguments: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    document = AttestationDocument.parse(ask(nsm, {"Attestation": arguments})["Attestation"]["document"])
    assert (document.public_key, document.user_data, document.nonce) == expected


@pytest.mark.parametrize("field", ["public_key", "nonce", "user_data"])
def test_the_device_does_not_enforce_the_documents_limits(nsm: SoftwareNsm, field: str) -> None:
    overhead = len(cbor2.dumps({"Attestation": {field: bytes(3000)}})) - 3000
    content = bytes(4096 - overhead)
    document = ask(nsm, {"Attestation": {field: content}})["Attestation"]["document"]
    assert cbor2.loads(cbor2.loads(document)[2])[field] == content


@pytest.mark.parametrize(("range_", "expected"), [(0, 16), (20, 20), (32, 32)])
def test_documents_contain_exactly_the_locked_registers(nsm: SoftwareNsm, range_: int, expected: int) -> None:
    ask(nsm, {"LockPCRs": {"range": range_}})
    document = AttestationDocument.parse(ask(nsm, {"Attestation": {}})["Attestation"]["document"])
    assert list(document.pcrs) == list(range(expected))


def test_an_unlocked_register_is_in_no_document_until_it_is_locked(client: NsmClient) -> None:
    value = client.extend_pcr(17, b"data")
    assert 17 not in AttestationDocument.parse(client.attest()).pcrs
    client.lock_pcr(17)
    document = AttestationDocument.parse(client.attest())
    assert document.pcrs[17] == value
    assert 16 not in document.pcrs


def test_the_client_speaks_with_it(client: NsmClient, nsm: SoftwareNsm) -> None:
    assert client.describe().module_id == nsm.module_id
    assert len(client.random(1000)) == 1000
    assert client.describe_pcr(16) == m.DescribePcrResponse(False, ZERO)
    client.lock_pcrs(17)
    with pytest.raises(NsmRefused) as caught:
        client.extend_pcr(16, b"x")
    assert caught.value.error is ErrorCode.READ_ONLY_INDEX
    with pytest.raises(NsmRefused):
        client.describe_pcr(32)


def test_module_ids_are_like_real_ones(authority: NsmAuthority) -> None:
    one, other = (SoftwareNsm(authority, {}) for _ in range(2))
    assert one.module_id != other.module_id
    assert one.module_id.partition("-enc")[0] == other.module_id.partition("-enc")[0]
    assert len(one.module_id) == len("i-04fd167167daacf3b-enc01845e97d0b3eb4e")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_=st.binary(max_size=100))
def test_any_bytes_get_a_response(nsm: SoftwareNsm, request_: bytes) -> None:
    m.decode_response(nsm.handle(request_))


_NAMES = st.sampled_from(["DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "Attestation"])
_FIELDS = st.dictionaries(
    st.sampled_from(["index", "range", "data", "nonce", "user_data", "public_key"]),
    st.none() | st.integers(-1, 40) | st.binary(max_size=40) | st.text(max_size=5) | st.booleans(),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(_NAMES, _FIELDS, min_size=1, max_size=1), max_size=12))
def test_boot_registers_never_change_whatever_is_asked(requests: list[dict[str, Any]]) -> None:
    authority = AUTHORITY
    nsm = SoftwareNsm(authority, {0: b"\x01" * 48})
    client = NsmClient(nsm)
    before = [client.describe_pcr(index) for index in range(16)]
    for request in requests:
        m.decode_response(nsm.handle(cbor2.dumps(request)))
    assert [client.describe_pcr(index) for index in range(16)] == before
    document = AttestationDocument.parse(client.attest())
    assert [document.pcrs[index] for index in range(16)] == [state.data for state in before]


AUTHORITY = NsmAuthority.generate()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pcrs": {16: ZERO}}, id="a register that is not locked at boot"),
        pytest.param({"pcrs": {-1: ZERO}}, id="a register that is none"),
        pytest.param({"pcrs": {0: bytes(47)}}, id="a register of 47 bytes"),
        pytest.param({"instance_id": "i-XYZ"}, id="an instance id that is none"),
        pytest.param({"instance_id": "1234567890abcdef0"}, id="an instance id without i-"),
        pytest.param({"region": "the moon"}, id="a region that is none"),
        pytest.param({"region": "xx-aaaaaaaaaa-bbbbbbbbbb-11"}, id="a region that is too long for a name"),
    ],
)
def test_what_no_nsm_can_be_made_of(changes: dict[str, Any]) -> None:
    pcrs = changes.pop("pcrs", {})
    with pytest.raises(SoftwareNsmError):
        SoftwareNsm(AUTHORITY, pcrs, **changes)


def test_the_longest_names_fit(authority: NsmAuthority) -> None:
    nsm = SoftwareNsm(authority, {}, instance_id="i-1234567890abcdef0", region="us-gov-northeast-1")
    assert NsmClient(nsm).attest()


def test_the_clients_limits_are_stricter(client: NsmClient) -> None:
    with pytest.raises(MessageError):
        client.attest(nonce=bytes(513))
