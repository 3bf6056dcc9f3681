"""What stands behind the edges: one enclave (manager) or several (gateway)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ("Attested", "Backend", "Call")


@dataclass(frozen=True, slots=True)
class Call:
    """What the edge knows about one request for an operation."""

    operation: str
    sealed: bool
    deadline: float
    """`time.monotonic()` at which the client stops waiting."""
    request_id: str


@dataclass(frozen=True, slots=True)
class Attested:
    """Evidence as the enclave gave it; the edge carries it and vouches for nothing."""

    kind: str
    document: bytes
    statement: bytes | None

    def to_json(self) -> bytes:
        """Return the JSON of `attestation.Evidence`: kind, document and statement, both in base64."""
        return json.dumps(
            {
                "kind": self.kind,
                "document": base64.b64encode(self.document).decode(),
                "statement": None if self.statement is None else base64.b64encode(self.statement).decode(),
            },
            separators=(",", ":"),
        ).encode()


class Backend(Protocol):
    """Answers for the edges. Every method may raise a :class:`~geumgo._base.GeumgoError` with a wire code."""

    async def call(self, call: Call, body: bytes) -> bytes:
        """Return the operation's answer to `body`. Cancelled when the client goes away."""
        ...

    def stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Return the answers to `messages`, one each and in their order. Closed when the client goes away."""
        ...

    async def attest(self, nonce: bytes, use: str, *, deadline: float) -> Attested:
        """Return fresh evidence over `nonce` for `use` ("seal" or "channel")."""
        ...

    def enclaves(self) -> Sequence[Mapping[str, object]]:
        """Return what `GET /v1/enclaves` shows of each enclave; values that JSON can hold."""
        ...

    def ready(self) -> str | None:
        """Return None where calls can be answered now, else the code that says why not."""
        ...
