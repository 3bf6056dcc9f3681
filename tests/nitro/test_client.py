"""The client: what it sends, and what it makes of answers. The real device's part is a script."""

from __future__ import annotations

from collections.abc import Callable

import cbor2
import pytest

from geumgo.nitro import ErrorCode, MessageError, NitroError, NsmClient, NsmRefused
from geumgo.nitro import messages as m

PCR = bytes(range(48))


class Script:
    """A transport that answers in the order given and remembers what it was asked."""

    def __init__(self, *responses: m.Response | bytes) -> None:
        self._responses = list(responses)
        self.requests: list[m.Request] = []

    def exchange(self, request: bytes) -> bytes:
        self.requests.append(m.decode_request(request))
        response = self._responses.pop(0)
        return response if isinstance(response, bytes) else m.encode_response(response)


def test_describe() -> None:
    description = m.DescribeNsmResponse(1, 0, 0, "i-1-enc1", 32, frozenset({0, 1}), "SHA384")
    script = Script(description)
    assert NsmClient(script).describe() == description
    assert script.requests == [m.DescribeNsm()]


def test_registers() -> None:
    script = Script(
        m.DescribePcrResponse(False, PCR), m.ExtendPcrResponse(PCR), m.LockPcrResponse(), m.LockPcrsResponse()
    )
    client = NsmClient(script)
    assert client.describe_pcr(16) == m.DescribePcrResponse(False, PCR)
    assert client.extend_pcr(16, b"data") == PCR
    client.lock_pcr(16)
    client.lock_pcrs(20)
    assert script.requests == [m.DescribePcr(16), m.ExtendPcr(16, b"data"), m.LockPcr(16), m.LockPcrs(20)]


def test_attest() -> None:
    script = Script(m.AttestationResponse(b"document"))
    assert NsmClient(script).attest(public_key=b"k", user_data=b"u", nonce=b"n") == b"document"
    assert script.requests == [m.Attestation(user_data=b"u", nonce=b"n", public_key=b"k")]


def test_random_asks_until_it_has_enough() -> None:
    script = Script(
        m.GetRandomResponse(b"a" * 256), m.GetRandomResponse(b"b" * 3), m.GetRandomResponse(b"c" * 256)
    )
    assert NsmClient(script).random(300) == b"a" * 256 + b"b" * 3 + b"c" * 41
    assert len(script.requests) == 3


def test_no_random_needs_no_question() -> None:
    assert NsmClient(Script()).random(0) == b""


@pytest.mark.parametrize("count", [-1, (64 << 10) + 1])
def test_random_is_bounded(count: int) -> None:
    with pytest.raises(MessageError):
        NsmClient(Script()).random(count)


def test_an_nsm_without_randomness_does_not_hold_the_client() -> None:
    with pytest.raises(MessageError):
        NsmClient(Script(cbor2.dumps({"GetRandom": {"random": b""}}))).random(1)


@pytest.mark.parametrize(
    ("field", "limit"),
    [("public_key", 1024), ("user_data", 512), ("nonce", 512)],
    ids=lambda value: str(value),
)
def test_documents_are_asked_for_within_the_stricter_limits(field: str, limit: int) -> None:
    script = Script(m.AttestationResponse(b"document"))
    client = NsmClient(script)
    client.attest(**{field: bytes(limit)})
    with pytest.raises(MessageError):
        client.attest(**{field: bytes(limit + 1)})
    assert len(script.requests) == 1


def test_an_empty_public_key_is_refused_and_empty_data_is_not() -> None:
    client = NsmClient(Script(m.AttestationResponse(b"document")))
    with pytest.raises(MessageError):
        client.attest(public_key=b"")
    assert client.attest(user_data=b"", nonce=b"") == b"document"


CALLS: dict[str, Callable[[NsmClient], object]] = {
    "describe": lambda client: client.describe(),
    "random": lambda client: client.random(1),
    "attest": lambda client: client.attest(),
    "describe_pcr": lambda client: client.describe_pcr(0),
    "extend_pcr": lambda client: client.extend_pcr(16, b""),
    "lock_pcr": lambda client: client.lock_pcr(16),
    "lock_pcrs": lambda client: client.lock_pcrs(1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_refusal_has_a_code(call: Callable[[NsmClient], object], code: ErrorCode) -> None:
    with pytest.raises(NsmRefused) as caught:
        call(NsmClient(Script(m.ErrorResponse(code))))
    assert caught.value.error is code
    assert caught.value.code.startswith("nsm_")
    assert code.value in caught.value.what


def test_refusals_that_a_person_can_help_say_how() -> None:
    with pytest.raises(NsmRefused) as caught:
        NsmClient(Script(m.ErrorResponse(ErrorCode.READ_ONLY_INDEX))).lock_pcr(3)
    assert caught.value.code == "nsm_read_only_index"
    assert "locked" in caught.value.fix


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no CBOR"),
        pytest.param(cbor2.dumps("LockPCRsX"), id="unknown"),
        pytest.param(cbor2.dumps({"Attestation": {"document": 1}}), id="wrong type"),
    ],
)
def test_answers_that_make_no_sense_are_errors_of_ours(
    call: Callable[[NsmClient], object], response: bytes
) -> None:
    with pytest.raises(MessageError):
        call(NsmClient(Script(response)))


def test_another_requests_answer_is_refused() -> None:
    with pytest.raises(MessageError, match="another"):
        NsmClient(Script(m.LockPcrsResponse())).lock_pcr(16)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.extend_pcr(16, bytes(5000)), id="data too large"),
        pytest.param(lambda client: client.extend_pcr(16, object()), id="data of no CBOR type"),
    ],
)
def test_requests_that_can_not_be_sent_are_errors_of_ours(call: Callable[[NsmClient], object]) -> None:
    with pytest.raises(NitroError):
        call(NsmClient(Script()))
