"""One request, from its bytes to its answer's bytes: unseal, check, carry out, seal.

Nothing but an error code leaves here unsealed. What an operation raises is reduced to `operation_failed`
and the name of a built-in exception, since its text may hold a record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from geumgo._base import CODES, GeumgoError
from geumgo.enclave._access import Access
from geumgo.enclave._errors import Refused
from geumgo.enclave._events import exception_name, word
from geumgo.enclave._ledger import RequestLedger
from geumgo.enclave._log import EventLog
from geumgo.enclave.app import Operation
from geumgo.enclave.context import Context, Services
from geumgo.keys import OpenedRequest, PoolKeyPair, SealError, open_request, seal_answer, seal_failure

__all__ = ("Dispatcher", "KeyHolder")

OnRaise = Callable[[BaseException], None]


class KeyHolder(Protocol):
    """Who has the pool's keys once they are there."""

    def require(self) -> PoolKeyPair:
        """Return the pair, or raise `Refused` with `starting`, `draining` or `unavailable`."""
        ...


class Dispatcher:
    """Answers requests.

    Args:
        access: who may do what.
        keys: holder of the pool's keys.
        services: what contexts share.
        log: where raising operations are told.
        raised: sees exceptions of operations, for the console of a debug enclave; None elsewhere.
    """

    def __init__(
        self,
        access: Access,
        keys: KeyHolder,
        services: Services,
        log: EventLog,
        raised: OnRaise | None = None,
    ) -> None:
        self._access = access
        self._keys = keys
        self._services = services
        self._log = log
        self._raised = raised
        self._plain = frozenset(name for name, operation in access.operations.items() if operation.plain)
        limits = services.limits
        self._ledger = RequestLedger(
            limits.remembered_requests, limits.remembered_per_caller, int(limits.remembered_ahead * 1000)
        )

    def growth(self, name: str, *, sealed: bool) -> int:
        """Return how many bytes each byte of a message counts for while it is worked on."""
        if name in self._plain:
            return 1
        return self._services.limits.sealed_growth if sealed else self._services.limits.open_growth

    async def answer(self, name: str, message: bytes, *, sealed: bool) -> bytes:
        """Return the answer to one request message.

        Args:
            name: the operation, as said in clear.
            message: the body, or the sealed request.
            sealed: which of the two.

        Raises:
            GeumgoError: to be told outside the seal: its code is one of the wire's.
        """
        if not sealed:
            try:
                operation, context = self._open(name, message)
                return await self._carry_out(operation, context, message)
            except GeumgoError as error:
                raise _outside(error) from None
        self._access.require(name)
        opened = await self._unseal(message)
        if opened.operation != name:
            raise SealError("the request is sealed for another operation")
        try:
            grant = self._access.grant(name, opened.caller)
            operation = self._access.operations[name]
            now = self._services.clock.now_ms()
            if not operation.idempotent:
                key = opened.request_id + opened.sequence.to_bytes(8, "big")
                self._ledger.claim(opened.caller, key, deadline_ms=opened.deadline_ms, now_ms=now)
            seconds = (opened.deadline_ms - now) / 1000
            context = Context(
                self._services,
                grant,
                policy=opened.policy,
                policy_digest=opened.policy_digest,
                request_id=opened.request_id,
                deadline_ms=opened.deadline_ms,
                size=len(opened.body),
            )
            body = await self._before(seconds, operation, context, opened.body)
            return await self._seal(opened, body)
        except GeumgoError as error:
            told = _outside(error)
            if told.retryable:
                # Told outside, where manager and gateway can act on it; there is no secret in "busy".
                raise told from None
            return seal_failure(opened, told.code, error.diagnostics(), False)

    def _open(self, name: str, message: bytes) -> tuple[Operation, Context]:
        grant = self._access.anonymous(name)
        limit = self._services.limits.open_body
        if len(message) > limit:
            raise Refused("too_large", f"an unsealed request has at most {limit} bytes")
        return self._access.operations[name], Context(self._services, grant, size=len(message))

    async def _unseal(self, message: bytes) -> OpenedRequest:
        pair = self._keys.require()
        now = self._services.clock.now_ms()
        if len(message) <= self._services.limits.inline_seal:
            return open_request(message, pair, self._access.callers, now_ms=now)
        return await self._services.workers.run(open_request, message, pair, self._access.callers, now_ms=now)

    async def _seal(self, opened: OpenedRequest, body: bytes) -> bytes:
        if len(body) <= self._services.limits.inline_seal:
            return seal_answer(opened, body)
        return await self._services.processor.run(seal_answer, opened, body)

    async def _before(self, deadline: float, operation: Operation, context: Context, body: bytes) -> bytes:
        """Carry out within `deadline` seconds. A stream's own deadline is the channel's to keep."""
        try:
            async with asyncio.timeout(deadline):
                return await self._carry_out(operation, context, body)
        except TimeoutError:  # the operation's own would be `operation_failed`
            raise Refused("deadline_exceeded") from None

    async def _carry_out(self, operation: Operation, context: Context, body: bytes) -> bytes:
        try:
            if operation.asynchronous and len(body) <= self._services.limits.inline_bytes:
                return operation.encode(await operation.call(operation.decode(body), context))
            return await self._call(operation, context, body)
        except (GeumgoError, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._failed(operation, error) from None
        except BaseException as error:  # SystemExit too: an operation must not end the enclave
            raise self._failed(operation, error) from None

    def _failed(self, operation: Operation, error: BaseException) -> Refused:
        if self._raised is not None:
            self._raised(error)
        name = exception_name(error)
        self._log.emit("operation_raised", operation=word(operation.name), exception=name)
        return Refused("operation_failed", f"the operation raised {name}")

    async def _call(self, operation: Operation, context: Context, body: bytes) -> bytes:
        """Carry out with what takes long, decoding included, outside the loop's thread."""
        if not operation.asynchronous:
            return await self._services.workers.run(_call_in_thread, operation, context, body)
        request = await context.run(operation.decode, body)
        response = await operation.call(request, context)
        return await context.run(operation.encode, response)


def _outside(error: GeumgoError) -> Refused:
    """Return what may be told outside the seal: a code of the wire and whether to repeat."""
    return Refused(error.code if error.code in CODES else "operation_failed")


def _call_in_thread(operation: Operation, context: Context, body: bytes) -> bytes:
    return operation.encode(operation.call(operation.decode(body), context))
