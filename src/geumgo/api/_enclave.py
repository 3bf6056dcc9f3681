"""What a parent says to an enclave over a channel: describe, attest, operations (docs/spec/channel.md)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from geumgo._base import GeumgoError
from geumgo.api._backend import Attested, Call
from geumgo.channel import Connection
from geumgo.codec import cbor

__all__ = (
    "Description",
    "EnclaveAnswerError",
    "Operation",
    "ask_attest",
    "ask_call",
    "ask_describe",
    "ask_stream",
)

MAX_DESCRIPTION = 64 << 10
"""Bytes of a description: some hundred operations."""

MAX_EVIDENCE = 64 << 10
"""Bytes of evidence; a Nitro document has some 5 KiB, an SGX quote with its collateral some 20."""

_STATES = ("starting", "ready", "failed")


class EnclaveAnswerError(GeumgoError):
    """Raised when an enclave answers something that is not in the protocol."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a parent knows of an operation."""

    open: bool
    """Whether it takes unsealed requests."""
    idempotent: bool
    """Whether the same request may be carried out twice."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an enclave says of itself. Nobody vouches for it: it steers the balancing, never trust."""

    pool: str
    key_id: bytes | None
    state: str
    reason: str | None
    in_flight: int
    version: str
    operations: Mapping[str, Operation]

    @classmethod
    def parse(cls, data: bytes) -> Description:
        """Read the answer to `describe`.

        Raises:
            EnclaveAnswerError: it is something else.
        """
        fields = _mapping(data, MAX_DESCRIPTION, "description")
        operations = fields.get("operations")
        if not isinstance(operations, dict):
            raise EnclaveAnswerError("The enclave's description names no operations")
        description = cls(
            pool=_typed(fields, "pool", str),
            key_id=_typed(fields, "key_id", (bytes, type(None))),
            state=_typed(fields, "state", str),
            reason=_typed(fields, "reason", (str, type(None))),
            in_flight=_typed(fields, "in_flight", int),
            version=_typed(fields, "version", str),
            operations={_name(name): _operation(value) for name, value in operations.items()},
        )
        if description.state not in _STATES:
            raise EnclaveAnswerError("The enclave is in no state that we know")
        return description


async def ask_describe(connection: Connection, *, timeout: float) -> Description:
    """Return what the enclave says of itself.

    Raises:
        EnclaveAnswerError: it says something else.
        GeumgoError: the connection is gone, or no answer came in `timeout` seconds.
    """
    return Description.parse(await connection.call("describe", timeout=timeout))


async def ask_attest(connection: Connection, nonce: bytes, use: str, *, timeout: float) -> Attested:
    """Return fresh evidence over `nonce` for `use`; raises as :func:`ask_describe`."""
    request = cbor.dumps({"nonce": nonce, "use": use})
    fields = _mapping(await connection.call("attest", request, timeout=timeout), MAX_EVIDENCE, "evidence")
    return Attested(
        kind=_typed(fields, "kind", str),
        document=_typed(fields, "document", bytes),
        statement=_typed(fields, "statement", (bytes, type(None))),
    )


async def ask_call(connection: Connection, call: Call, body: bytes) -> bytes:
    """Return the answer of an operation; raises what the channel raises."""
    metadata: dict[str, str | int | bool | bytes] = {"name": call.operation, "sealed": call.sealed}
    return await connection.call(
        "operation", body, metadata=metadata, timeout=call.deadline - time.monotonic()
    )


async def ask_stream(
    connection: Connection, call: Call, messages: AsyncIterator[bytes]
) -> AsyncGenerator[bytes]:
    """Yield the answers to `messages`, one each; both directions flow at once, as far as the windows allow.

    Raises what the channel raises, and what `messages` raises. Closing the generator resets the stream.
    """
    metadata: dict[str, str | int | bool | bytes] = {"name": call.operation, "sealed": call.sealed}
    stream = await connection.open("operation", metadata=metadata, timeout=call.deadline - time.monotonic())
    refused: list[Exception] = []

    async def feed() -> None:
        try:
            async for message in messages:
                await stream.send(message)
            stream.end()
        except Exception as error:
            refused.append(error)
            stream.reset("cancelled")

    feeder = asyncio.get_running_loop().create_task(feed())
    ended = False
    try:
        while (answer := await stream.receive()) is not None:
            yield answer
        ended = True
    except GeumgoError:
        if refused:
            raise refused[0] from None
        raise
    finally:
        feeder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeder
        if not ended:
            stream.reset("cancelled")


def _mapping(data: bytes, limit: int, what: str) -> dict[Any, Any]:
    try:
        value = cbor.loads(data, max_size=limit)
    except GeumgoError:
        raise EnclaveAnswerError(f"The enclave's {what} is not CBOR") from None
    if not isinstance(value, dict):
        raise EnclaveAnswerError(f"The enclave's {what} is not a map")
    return value


def _typed(fields: Mapping[Any, Any], name: str, kind: Any) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
        raise EnclaveAnswerError(f"The enclave's answer has no usable {name!r}")
    return value


def _name(name: object) -> str:
    if not isinstance(name, str) or len(name) > 64:
        raise EnclaveAnswerError("An operation of the enclave has no usable name")
    return name


def _operation(value: object) -> Operation:
    if not isinstance(value, dict):
        raise EnclaveAnswerError("An operation of the enclave is not described by a map")
    return Operation(open=_typed(value, "open", bool), idempotent=_typed(value, "idempotent", bool))
