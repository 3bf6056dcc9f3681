"""NSM messages: the bytes of the specification, both ways, and what must not decode."""

from __future__ import annotations

import contextlib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.nitro import ErrorCode, MessageError
from geumgo.nitro import messages as m

PCR = bytes(range(48))
DESCRIPTION = {
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 0,
    "module_id": "i-1234567890abcdef0-enc0123456789abcdef",
    "max_pcrs": 32,
    "locked_pcrs": list(range(16)),
    "digest": "SHA384",
}

REQUESTS = {
    "DescribeNSM": (m.DescribeNsm(), "DescribeNSM"),
    "GetRandom": (m.GetRandom(), "GetRandom"),
    "DescribePCR": (m.DescribePcr(3), {"DescribePCR": {"index": 3}}),
    "ExtendPCR": (m.ExtendPcr(16, b"data"), {"ExtendPCR": {"index": 16, "data": b"data"}}),
    "LockPCR": (m.LockPcr(16), {"LockPCR": {"index": 16}}),
    "LockPCRs": (m.LockPcrs(20), {"LockPCRs": {"range": 20}}),
    "Attestation": (
        m.Attestation(user_data=b"u", nonce=b"n", public_key=b"k"),
        {"Attestation": {"user_data": b"u", "nonce": b"n", "public_key": b"k"}},
    ),
    "Attestation of nothing": (
        m.Attestation(),
        {"Attestation": {"user_data": None, "nonce": None, "public_key": None}},
    ),
}

RESPONSES = {
    "DescribeNSM": (
        m.DescribeNsmResponse(1, 0, 0, DESCRIPTION["module_id"], 32, frozenset(range(16)), "SHA384"),
        {"DescribeNSM": DESCRIPTION},
    ),
    "GetRandom": (m.GetRandomResponse(b"r" * 256), {"GetRandom": {"random": b"r" * 256}}),
    "DescribePCR": (m.DescribePcrResponse(True, PCR), {"DescribePCR": {"lock": True, "data": PCR}}),
    "ExtendPCR": (m.ExtendPcrResponse(PCR), {"ExtendPCR": {"data": PCR}}),
    "LockPCR": (m.LockPcrResponse(), "LockPCR"),
    "LockPCRs": (m.LockPcrsResponse(), "LockPCRs"),
    "Attestation": (m.AttestationResponse(b"doc"), {"Attestation": {"document": b"doc"}}),
    **{
        f"Error {code.value}": (m.ErrorResponse(code), {"Error": code.value}) for code in ErrorCode
    },
}  # fmt: skip


@pytest.mark.parametrize(("request_", "value"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests_have_the_specified_form(request_: m.Request, value: Any) -> None:
    encoded = m.encode_request(request_)
    assert cbor2.loads(encoded) == value
    assert m.decode_request(encoded) == request_
    assert m.decode_request(cbor2.dumps(value)) == request_


@pytest.mark.parametrize(("response", "value"), RESPONSES.values(), ids=RESPONSES.keys())
def test_responses_have_the_specified_form_and_order(response: m.Response, value: Any) -> None:
    encoded = m.encode_response(response)
    assert encoded == cbor2.dumps(value)
    assert m.decode_response(encoded) == response


def test_the_error_codes_are_those_of_the_device() -> None:
    assert [code.value for code in ErrorCode] == [
        "Success", "InvalidArgument", "InvalidIndex", "InvalidResponse", "ReadOnlyIndex", "InvalidOperation",
        "BufferTooSmall", "InputTooLarge", "InternalError",
    ]  # fmt: skip


LENIENT = {
    "absent optional fields": ({"Attestation": {}}, m.Attestation()),
    "text for bytes": ({"Attestation": {"nonce": "né"}}, m.Attestation(nonce="né".encode())),
    "empty bytes stay empty": ({"Attestation": {"nonce": b""}}, m.Attestation(nonce=b"")),
    "unknown fields": ({"LockPCR": {"index": 1, "more": [], 7: None}}, m.LockPcr(1)),
    "text to extend by": ({"ExtendPCR": {"index": 16, "data": "금고"}}, m.ExtendPcr(16, "금고".encode())),
    "nothing to extend by": ({"ExtendPCR": {"index": 16, "data": b""}}, m.ExtendPcr(16, b"")),
    "an index beyond the registers": ({"DescribePCR": {"index": 0xFFFF}}, m.DescribePcr(0xFFFF)),
}


@pytest.mark.parametrize(("value", "request_"), LENIENT.values(), ids=LENIENT.keys())
def test_requests_are_read_as_the_device_reads_them(value: Any, request_: m.Request) -> None:
    assert m.decode_request(cbor2.dumps(value)) == request_


BAD_REQUESTS = {
    "null": None,
    "an array": ["DescribeNSM"],
    "an empty map": {},
    "an unknown word": "Reboot",
    "an unknown name": {"Reboot": {}},
    "a word's case": "describeNSM",
    "two names": {"LockPCR": {"index": 1}, "DescribePCR": {"index": 1}},
    "a word as a map": {"DescribeNSM": {}},
    "a word with null": {"GetRandom": None},
    "a map as a word": "LockPCR",
    "no arguments": {"LockPCR": None},
    "arguments in an array": {"LockPCR": [1]},
    "a bytes name": {b"LockPCR": {"index": 1}},
    "no index": {"DescribePCR": {}},
    "index is text": {"DescribePCR": {"index": "1"}},
    "index is null": {"DescribePCR": {"index": None}},
    "index is bytes": {"DescribePCR": {"index": b"\x01"}},
    "index is true": {"DescribePCR": {"index": True}},
    "index is a float": {"DescribePCR": {"index": 1.0}},
    "index is negative": {"DescribePCR": {"index": -1}},
    "index is over 16 bits": {"DescribePCR": {"index": 0x10000}},
    "index is over 32 bits": {"LockPCR": {"index": 1 << 32}},
    "range is over 16 bits": {"LockPCRs": {"range": 0x10000}},
    "data is missing": {"ExtendPCR": {"index": 16}},
    "data is null": {"ExtendPCR": {"index": 16, "data": None}},
    "data is a number": {"ExtendPCR": {"index": 16, "data": 1}},
    "nonce is a number": {"Attestation": {"nonce": 1}},
    "user_data is an array": {"Attestation": {"user_data": [1]}},
    "public_key is true": {"Attestation": {"public_key": True}},
    "attestation of an array": {"Attestation": []},
}


@pytest.mark.parametrize("value", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_requests_are_refused(value: Any) -> None:
    with pytest.raises(MessageError) as caught:
        m.decode_request(cbor2.dumps(value))
    assert caught.value.code == "malformed"


def test_a_request_fits_into_4096_bytes() -> None:
    overhead = len(m.encode_request(m.Attestation(public_key=bytes(1000)))) - 1000
    largest = m.Attestation(public_key=bytes(m.MAX_REQUEST_SIZE - overhead))
    assert m.decode_request(m.encode_request(largest)) == largest
    with pytest.raises(MessageError) as caught:
        m.encode_request(m.Attestation(public_key=bytes(m.MAX_REQUEST_SIZE - overhead + 1)))
    assert caught.value.code == "too_large"
    with pytest.raises(MessageError) as caught:
        m.decode_request(bytes(m.MAX_REQUEST_SIZE + 1))
    assert caught.value.code == "too_large"


BAD_RESPONSES = {
    "null": None,
    "an unknown word": "Reboot",
    "an unknown name": {"Reboot": {}},
    "an error that is not known": {"Error": "OutOfCoffee"},
    "an error number": {"Error": 3},
    "an error with fields": {"Error": {"code": 1}},
    "no random": {"GetRandom": {}},
    "empty random": {"GetRandom": {"random": b""}},
    "too much random": {"GetRandom": {"random": bytes(257)}},
    "a short register": {"DescribePCR": {"lock": True, "data": bytes(32)}},
    "a lock that is a number": {"DescribePCR": {"lock": 1, "data": PCR}},
    "an extension without data": {"ExtendPCR": {}},
    "an empty document": {"Attestation": {"document": b""}},
    "a document that is text": {"Attestation": {"document": "doc"}},
    "a description without id": {"DescribeNSM": {**DESCRIPTION, "module_id": ""}},
    "a description with a long id": {"DescribeNSM": {**DESCRIPTION, "module_id": "i" * 257}},
    "locks that are no list": {"DescribeNSM": {**DESCRIPTION, "locked_pcrs": 16}},
    "locks that are no numbers": {"DescribeNSM": {**DESCRIPTION, "locked_pcrs": ["a"]}},
    "a negative version": {"DescribeNSM": {**DESCRIPTION, "version_major": -1}},
}


@pytest.mark.parametrize("value", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
def test_bad_responses_are_refused(value: Any) -> None:
    with pytest.raises(MessageError):
        m.decode_response(cbor2.dumps(value))


def test_fields_that_a_later_device_adds_are_ignored() -> None:
    assert m.decode_response(cbor2.dumps({"ExtendPCR": {"data": PCR, "more": 1}})) == m.ExtendPcrResponse(PCR)


def test_a_response_over_the_drivers_limit_is_refused() -> None:
    with pytest.raises(MessageError):
        m.decode_response(cbor2.dumps({"Attestation": {"document": bytes(m.MAX_RESPONSE_SIZE)}}))


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_any_bytes_give_a_message_or_our_error(data: bytes) -> None:
    for decode in (m.decode_request, m.decode_response):
        with contextlib.suppress(MessageError):
            decode(data)


_FIELDS = st.sampled_from(["index", "data", "range", "nonce", "user_data", "public_key", "lock", "Error"])
_NAMES = st.sampled_from(
    ["DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "Attestation", "Error", "GetRandom"]
)
_VALUES = st.none() | st.booleans() | st.integers(-2, 70_000) | st.binary(max_size=50) | st.text(max_size=5)


@settings(max_examples=300)
@given(st.dictionaries(_NAMES, st.dictionaries(_FIELDS, _VALUES, max_size=4) | _VALUES, max_size=2))
def test_messages_of_any_shape_give_a_message_or_our_error(value: Any) -> None:
    test_any_bytes_give_a_message_or_our_error.hypothesis.inner_test(cbor2.dumps(value))  # type: ignore[attr-defined]


@given(st.integers(0, 0xFFFF), st.binary(max_size=200))
def test_requests_survive_the_way(index: int, data: bytes) -> None:
    for request in (
        m.ExtendPcr(index, data),
        m.DescribePcr(index),
        m.LockPcrs(index),
        m.Attestation(nonce=data, user_data=data[::-1]),
    ):
        assert m.decode_request(m.encode_request(request)) == request
