"""The enclave API of one enclave: every request goes down the control connection."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import asdict

from geumgo.api import ApiError, Attested, Call, ask_attest, ask_call
from geumgo.channel import Connection
from geumgo.manager._state_file import State
from geumgo.manager._supervisor import Supervisor

__all__ = ("OneEnclave",)

MAX_IN_FLIGHT = 256
"""Calls under way at a time; beyond it a call is refused at once instead of waiting in the dark."""


class OneEnclave:
    """Answers the edge from the supervisor's enclave."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._in_flight = 0
        self.draining = False

    async def call(self, call: Call, body: bytes) -> bytes:
        """Pass one request on, as the bytes it came in."""
        connection = self._connection()
        self._in_flight += 1
        try:
            return await ask_call(connection, call, body)
        finally:
            self._in_flight -= 1

    async def stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer each message in turn; the manager has no streaming edge of its own."""
        async for message in messages:
            yield await self.call(call, message)

    async def attest(self, nonce: bytes, use: str, *, deadline: float) -> Attested:
        """Ask the enclave for evidence."""
        return await ask_attest(self._connection(), nonce, use, timeout=deadline - time.monotonic())

    def enclaves(self) -> Sequence[Mapping[str, object]]:
        """Return the one enclave: what the manager knows, and `enclave_*`, the enclave's own word."""
        state = self._supervisor.state
        described = self._supervisor.described
        operations = described.operations if described else {}
        return [
            {
                "name": state.name,
                "state": state.state.value,
                "reason": (described.reason if described else None) or state.reason,
                "backend": state.backend,
                "sandbox": state.sandbox,
                "cid": state.cid,
                "debug": state.debug,
                "restarts": state.restarts,
                "measurements": dict(state.measurements or {}),
                "enclave_state": described.state if described else None,
                "pool": described.pool if described else None,
                "key_id": described.key_id.hex() if described and described.key_id else None,
                "operations": {name: asdict(operation) for name, operation in operations.items()},
            }
        ]

    def ready(self) -> str | None:
        """Return None where the enclave runs and has its key."""
        if self.draining:
            return "draining"
        if self._supervisor.connection is None:
            state = self._supervisor.state.state
            return "unavailable" if state in (State.BACKOFF, State.CRASH_LOOP, State.STOPPED) else "starting"
        described = self._supervisor.described
        return None if described and described.state == "ready" else "starting"

    def _connection(self) -> Connection:
        connection = self._supervisor.connection
        if connection is None:
            code = self.ready() or "unavailable"
            raise ApiError("There is no running enclave", code=code)
        if self._in_flight >= MAX_IN_FLIGHT:
            raise ApiError("The enclave has as many calls as it may", code="busy")
        return connection
