"""A Nitro Secure Module as a program in the enclave uses it."""

from __future__ import annotations

from typing import TypeVar

from geumgo.nitro import messages
from geumgo.nitro.document import MAX_NONCE_EMITTED, MAX_PUBLIC_KEY, MAX_USER_DATA_EMITTED
from geumgo.nitro.errors import MessageError, NsmRefused
from geumgo.nitro.messages import Request, Response
from geumgo.nitro.transport import NsmTransport

__all__ = ("MAX_RANDOM_TOTAL", "NsmClient")

MAX_RANDOM_TOTAL = 64 << 10
"""Bytes that one :meth:`NsmClient.random` gives: 256 exchanges; who needs more seeds a generator."""

_R = TypeVar("_R", bound=Response)


class NsmClient:
    """Asks an NSM and returns what it said. Calls block; from asyncio, use a thread.

    Every method raises :class:`~geumgo.nitro.NsmRefused` where the NSM answers with an error,
    :class:`~geumgo.nitro.NsmUnavailable` where none answers, and :class:`~geumgo.nitro.MessageError`
    where its answer makes no sense or an argument could not be sent.
    """

    def __init__(self, transport: NsmTransport) -> None:
        self._transport = transport

    def describe(self) -> messages.DescribeNsmResponse:
        """Return the module's version, id and locked registers."""
        return self._ask(messages.DescribeNsm(), messages.DescribeNsmResponse, "DescribeNSM")

    def random(self, count: int) -> bytes:
        """Return `count` random bytes from the NSM, at most :data:`MAX_RANDOM_TOTAL`."""
        if not 0 <= count <= MAX_RANDOM_TOTAL:
            raise MessageError(f"the NSM gives 0 to {MAX_RANDOM_TOTAL} random bytes at a time, not {count}")
        collected = bytearray()
        while len(collected) < count:
            # A response with no bytes does not decode, so every turn makes progress.
            collected += self._ask(messages.GetRandom(), messages.GetRandomResponse, "GetRandom").random
        return bytes(collected[:count])

    def attest(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return a signed attestation document that carries the three.

        The device takes more than verifiers do (aws-nitro-enclaves-nsm-api#52), so the stricter of the
        documented limits are held here: 1..1024 bytes of key, 512 of user data, 512 of nonce.
        """
        if public_key is not None and not 1 <= len(public_key) <= MAX_PUBLIC_KEY:
            raise MessageError(f"a public key in a document has 1 to {MAX_PUBLIC_KEY} bytes")
        if user_data is not None and len(user_data) > MAX_USER_DATA_EMITTED:
            raise MessageError(f"user data in a document has at most {MAX_USER_DATA_EMITTED} bytes")
        if nonce is not None and len(nonce) > MAX_NONCE_EMITTED:
            raise MessageError(f"a nonce in a document has at most {MAX_NONCE_EMITTED} bytes")
        request = messages.Attestation(user_data=user_data, nonce=nonce, public_key=public_key)
        return self._ask(request, messages.AttestationResponse, "Attestation").document

    def describe_pcr(self, index: int) -> messages.DescribePcrResponse:
        """Return a register's value and whether it is locked."""
        return self._ask(messages.DescribePcr(index), messages.DescribePcrResponse, "DescribePCR")

    def extend_pcr(self, index: int, data: bytes) -> bytes:
        """Extend a register by `data`; return its new value."""
        return self._ask(messages.ExtendPcr(index, data), messages.ExtendPcrResponse, "ExtendPCR").data

    def lock_pcr(self, index: int) -> None:
        """Make a register read-only until the enclave ends."""
        self._ask(messages.LockPcr(index), messages.LockPcrResponse, "LockPCR")

    def lock_pcrs(self, range_: int) -> None:
        """Make the registers 0 to `range_` - 1 read-only until the enclave ends."""
        self._ask(messages.LockPcrs(range_), messages.LockPcrsResponse, "LockPCRs")

    def _ask(self, request: Request, expected: type[_R], operation: str) -> _R:
        response = messages.decode_response(self._transport.exchange(messages.encode_request(request)))
        if isinstance(response, messages.ErrorResponse):
            raise NsmRefused(operation, response.error)
        if not isinstance(response, expected):
            raise MessageError(f"the NSM answered {operation} with another request's response")
        return response
