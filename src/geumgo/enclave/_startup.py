"""From start to ready: the clock is set, the key service releases the pool key (or the enclave makes one)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from geumgo._base import GeumgoError
from geumgo.enclave._errors import Refused
from geumgo.enclave._events import exception_name, word
from geumgo.enclave._once import OnceCache
from geumgo.keys import PoolKeyPair, generate_recipient_key, public_key_der

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from geumgo.enclave._attester import Attester
    from geumgo.enclave._clock import TrustedClock
    from geumgo.enclave._control import ControlLink
    from geumgo.enclave._keystore import KeyStore
    from geumgo.enclave._limits import Limits
    from geumgo.enclave._log import EventLog
    from geumgo.keys import MeasuredConfiguration

__all__ = ("Lifecycle", "Recipient", "State", "back_off", "become_ready")

_SEED_BYTES = 32
_CREDENTIAL_CODES = frozenset({"credentials_rejected", "credentials_expired", "access_denied"})


class State(Enum):
    """What `describe` says."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class Lifecycle:
    """The state of the enclave, and the pool's keys once they are there."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.reason: str | None = None
        self._pair: PoolKeyPair | None = None
        self._ready = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Lifecycle {self.state.value}{f': {self.reason}' if self.reason else ''}>"

    @property
    def key_id(self) -> bytes | None:
        """SHA-256 of the pool's public key."""
        return None if self._pair is None else self._pair.key_id

    def waits(self, reason: str) -> None:
        """Say why the enclave isn't ready yet."""
        if self.state is State.STARTING:
            self.reason = reason

    def became_ready(self, pair: PoolKeyPair) -> None:
        """Serve with `pair` from now on."""
        self.state, self.reason, self._pair = State.READY, None, pair
        self._ready.set()

    def failed(self, reason: str) -> None:
        """Never become ready."""
        self.state, self.reason = State.FAILED, reason

    def require(self) -> PoolKeyPair:
        """Return the pool's keys.

        Raises:
            Refused: `starting`, or `unavailable` in an enclave that will never be ready.
        """
        if self._pair is None:
            raise Refused("unavailable" if self.state is State.FAILED else "starting")
        return self._pair

    async def wait_ready(self) -> None:
        """Return when the enclave is ready."""
        await self._ready.wait()


class Recipient:
    """Makes what a KMS call needs to get its answer encrypted to this enclave.

    The RSA key is made once, since that takes a tenth of a second; the document is fresh for each call.
    """

    def __init__(self, attester: Attester) -> None:
        self._attester = attester
        self._key: OnceCache[None, RSAPrivateKey] = OnceCache(1, None, 1, time.monotonic)

    async def __call__(self) -> tuple[bytes, RSAPrivateKey]:
        """Return a document that carries the public key, and the private key."""
        key = await self._key.get(None, lambda: asyncio.to_thread(generate_recipient_key))
        return await self._attester.kms_document(public_key_der(key)), key


def back_off(attempt: int, limits: Limits, chance: float) -> float:
    """Return the pause after failed attempt number `attempt` (from 1): doubling, with full jitter above half.

    Args:
        attempt: how many attempts have failed.
        limits: first and longest pause.
        chance: 0 to 1; spreads the enclaves of a fleet that lost the key service at the same moment.
    """
    longest = min(limits.retry_max, limits.retry_first * 2.0 ** min(attempt - 1, 32))
    return longest * (0.5 + chance / 2)


async def become_ready(
    *,
    configuration: MeasuredConfiguration,
    attester: Attester,
    clock: TrustedClock,
    control: ControlLink,
    keys: KeyStore,
    lifecycle: Lifecycle,
    log: EventLog,
    limits: Limits,
    chance: Callable[[], float] = random.random,
) -> None:
    """Bring the enclave from starting to ready, however long that takes."""
    began = time.monotonic()
    attempt = 0
    while True:
        attempt += 1
        try:
            if not clock.synchronised:
                log.emit("clock_set", moved_ms=await attester.synchronise())
            if configuration.pool_key is None:
                seed = await attester.random(_SEED_BYTES)
            else:
                if control.connection is None:
                    lifecycle.waits("no_control")
                    await control.wait()
                seed = await keys.unwrap(configuration.pool_key)
            pair = PoolKeyPair.from_seed(seed)
        except GeumgoError as error:
            reason = word(error.code)
            if reason in _CREDENTIAL_CODES:
                control.forget_credentials()
        except Exception as error:
            log.emit("internal_error", place="startup", exception=exception_name(error))
            reason = "internal"
        else:
            lifecycle.became_ready(pair)
            log.emit("ready", milliseconds=int((time.monotonic() - began) * 1000), attempts=attempt)
            return
        lifecycle.waits(reason)
        pause = back_off(attempt, limits, chance())
        log.emit("pool_key_refused", reason=reason, attempt=attempt, pause_ms=int(pause * 1000))
        await control.pause(pause)
