"""The same client for code that does not run an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from geumgo import attestation, keys
from geumgo._base import Clock
from geumgo.client._async import AsyncClient, ClientSettings

__all__ = ("Client",)

T = TypeVar("T")


class Client:
    """:class:`AsyncClient` with blocking methods; safe to use from several threads.

    Its connections live on an event loop in a thread of its own until :meth:`close`.
    """

    def __init__(
        self,
        gateways: str | Sequence[str],
        *,
        roots: attestation.TrustRoots,
        policy: attestation.Policy,
        caller: keys.CallerKey | None = None,
        clock: Clock | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="geumgo-client", daemon=True)
        self._thread.start()

        async def build() -> AsyncClient:
            return AsyncClient(
                gateways, roots=roots, policy=policy, caller=caller, clock=clock, settings=settings
            )

        try:
            self._client = self._run(build())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.aclose())
        self._stop()

    def attest(self, *, timeout: float | None = None) -> attestation.Claims:
        """See :meth:`AsyncClient.attest`."""
        return self._run(self._client.attest(timeout=timeout))

    def call(
        self,
        operation: str,
        body: bytes,
        *,
        policy: bytes = b"",
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> bytes:
        """See :meth:`AsyncClient.call`."""
        return self._run(
            self._client.call(operation, body, policy=policy, timeout=timeout, idempotent=idempotent)
        )

    def call_open(self, operation: str, body: bytes, *, timeout: float | None = None) -> bytes:
        """See :meth:`AsyncClient.call_open`."""
        return self._run(self._client.call_open(operation, body, timeout=timeout))

    def stream(
        self, operation: str, bodies: Iterable[bytes], *, policy: bytes = b"", timeout: float | None = None
    ) -> Iterator[bytes]:
        """See :meth:`AsyncClient.stream`. `bodies` is read on the client's own thread."""
        answers = self._client.stream(operation, bodies, policy=policy, timeout=timeout)

        async def following() -> bytes | None:
            return await anext(answers, None)

        async def end() -> None:
            await answers.aclose()  # type: ignore[attr-defined]

        try:
            while (answer := self._run(following())) is not None:
                yield answer
        finally:
            self._run(end())

    def enclaves(self, *, timeout: float | None = None) -> list[Mapping[str, object]]:
        """See :meth:`AsyncClient.enclaves`."""
        return self._run(self._client.enclaves(timeout=timeout))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
