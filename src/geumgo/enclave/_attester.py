"""The one user of the security module: evidence for askers, documents for the key service, the clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from geumgo.attestation import Statement, Use
from geumgo.enclave._clock import TrustedClock
from geumgo.enclave._errors import Refused
from geumgo.enclave._limits import MAX_NONCE, MIN_NONCE, Limits
from geumgo.enclave._rate import TokenBucket
from geumgo.enclave._workers import Workers
from geumgo.nitro import AttestationDocument, NsmClient

__all__ = ("KMS_SUITE", "Attester")

KMS_SUITE = "rsaes-oaep-sha256"
"""Suite of the statement in documents for the key service."""

_PCR_BYTES = 48


class Attester:
    """Asks the security module, one request at a time, in a thread of its own.

    Askers are bounded in rate and number, so that a flood of them costs operations a thread at most.

    Args:
        nsm: the security module.
        clock: set from its documents.
        pool: the pool's name, for statements.
        configuration: SHA-384 of the measured configuration, 48 bytes.
        limits: bounds of askers.
    """

    def __init__(
        self,
        nsm: NsmClient,
        clock: TrustedClock,
        *,
        pool: str,
        configuration: bytes,
        limits: Limits,
        time: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nsm = nsm
        self._clock = clock
        self._pool = pool
        self._configuration = configuration
        self._limits = limits
        self._bucket = TokenBucket(limits.attest_rate, limits.attest_burst, time)
        self._worker = Workers(1, "nsm")
        self._waiting = 0
        self.debug = False
        """Whether the module reports a debug enclave: PCR0 of zeros."""

    def statement(self, use: Use, suite: str, key: bytes) -> Statement:
        """Return what a document with `key` vouches for."""
        return Statement(use=use, suite=suite, key=key, pool=self._pool, configuration=self._configuration)

    async def evidence(self, statement: Statement, nonce: bytes) -> tuple[bytes, bytes]:
        """Return a document with the asker's nonce, and the statement's bytes.

        Raises:
            Refused: `invalid_request` (length of the nonce) or `busy`.
            GeumgoError: the module failed.
        """
        if not MIN_NONCE <= len(nonce) <= MAX_NONCE:
            raise Refused("invalid_request", f"a nonce has {MIN_NONCE} to {MAX_NONCE} bytes")
        if self._waiting >= self._limits.attest_waiting or not self._bucket.take():
            raise Refused("busy")
        self._waiting += 1
        try:
            document = await self._document(statement, nonce)
        finally:
            self._waiting -= 1
        return document, statement.to_bytes()

    async def kms_document(self, public_key: bytes) -> bytes:
        """Return a document for the key service's `Recipient`, for an RSA key (SubjectPublicKeyInfo DER)."""
        return await self._document(self.statement(Use.KMS, KMS_SUITE, public_key), None)

    async def _document(self, statement: Statement, nonce: bytes | None) -> bytes:
        return await self._worker.run(
            self._nsm.attest, public_key=statement.key, user_data=statement.digest(), nonce=nonce
        )

    async def random(self, count: int) -> bytes:
        """Return random bytes to which both the module and the kernel contributed."""
        theirs = await self._worker.run(self._nsm.random, count)
        return bytes(a ^ b for a, b in zip(theirs, secrets.token_bytes(count), strict=True))

    async def synchronise(self) -> int:
        """Set the clock by the faster of two fresh documents; return by how many milliseconds it moved.

        The document is the local module's and is not verified: it comes over no wire that the parent has.

        Raises:
            GeumgoError: the module failed.
        """

        def ask() -> tuple[int, int, bytes]:
            # Both readings in the worker, so that waiting for it isn't counted as the document's age.
            before = self._clock.ticks()
            document = self._nsm.attest(nonce=secrets.token_bytes(MIN_NONCE))
            return before, self._clock.ticks(), document

        # The first may find the module cold; when a document was made is known to half of what it took.
        asked = [await self._worker.run(ask) for _ in range(2)]
        before, after, document = min(asked, key=lambda one: one[1] - one[0])
        parsed = AttestationDocument.parse(document)
        self.debug = parsed.pcrs.get(0) == bytes(_PCR_BYTES)
        return self._clock.synchronise(parsed.timestamp_ms, before=before, after=after)

    async def keep_time(self, moved: Callable[[int], None], failed: Callable[[Exception], None]) -> None:
        """Set the clock again now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.clock_every)
            try:
                moved(await self.synchronise())
            except Exception as error:  # a clock that runs on is better than none
                failed(error)

    def close(self) -> None:
        """Take no more work."""
        self._worker.close()
