"""Keys that the key service released to this enclave: of purposes, and of applications' encrypted fields."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from geumgo._base import GeumgoError
from geumgo.enclave._errors import Refused
from geumgo.enclave._events import word
from geumgo.enclave._limits import Limits
from geumgo.enclave._log import EventLog
from geumgo.enclave._once import OnceCache
from geumgo.keys import PurposeKey

if TYPE_CHECKING:
    from geumgo.keys import WrappedKey

__all__ = ("KeyService", "KeyStore")

_KEY_BYTES = 32


class KeyService(Protocol):
    """The part of the key service's client that the enclave uses; it compares the KeyId of each answer."""

    def decrypt(self, ciphertext: bytes, *, key_id: str, context: Mapping[str, str]) -> Awaitable[bytes]:
        """Return the plaintext of a wrapped key."""
        ...


class KeyStore:
    """Unwraps keys when they are first needed, and keeps them.

    Python can't erase memory: what was unwrapped stays in the process until the enclave ends.

    Args:
        service: the key service; None where the configuration names none.
        purposes: the wrapped purpose keys of the measured configuration.
        limits: bounds of the cache and of calls.
        log: where refusals are told.
    """

    def __init__(
        self,
        service: KeyService | None,
        purposes: Mapping[str, WrappedKey],
        limits: Limits,
        log: EventLog,
        time: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._wrapped = dict(purposes)
        self._log = log
        self._purposes: OnceCache[str, bytes] = OnceCache(
            max(1, len(self._wrapped)), None, limits.data_key_calls, time
        )
        self._derived: dict[tuple[str, str], bytes] = {}
        self._data_keys: OnceCache[tuple[str, bytes, frozenset[tuple[str, str]]], bytes] = OnceCache(
            limits.data_keys, limits.data_key_age, limits.data_key_calls, time, limits.data_key_waiting
        )

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Return a key of the configuration.

        Raises:
            GeumgoError: the key service did not release it.
        """
        if self._service is None:
            raise Refused("keys_unavailable", "the measured configuration names no key service")
        return await self._service.decrypt(wrapped.ciphertext, key_id=wrapped.key_id, context=wrapped.context)

    async def purposes(self, names: Iterable[str]) -> Callable[[str, str], bytes]:
        """Return a function (purpose, use) → 32-byte key for the named purposes.

        Raises:
            Refused: `keys_unavailable`.
        """
        keys = {name: await self._purpose(name) for name in names}

        def derived(purpose: str, use: str) -> bytes:
            key = self._derived.get((purpose, use))
            if key is None:
                key = self._derived[purpose, use] = PurposeKey.derive(keys[purpose], use)
            return key

        return derived

    async def _purpose(self, name: str) -> bytes:
        async def ask() -> bytes:
            try:
                key = await self.unwrap(self._wrapped[name])
            except GeumgoError as error:
                self._log.emit("purpose_key_refused", purpose=word(name), reason=word(error.code))
                raise Refused("keys_unavailable", f"the key service answered {error.code}") from None
            if len(key) != _KEY_BYTES:
                self._log.emit("purpose_key_refused", purpose=word(name), reason="wrong_length")
                raise Refused("keys_unavailable", "the purpose key has another length than 32 bytes")
            return key

        if name not in self._wrapped:
            raise Refused("bad_policy", "the measured configuration has no such purpose")
        return await self._purposes.get(name, ask)

    async def data_key(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Return an application's data key. The caller's right to it has been checked.

        Raises:
            Refused: `keys_unavailable` (the service can't be reached or refuses), `busy` (too many wait for
                it) or `invalid_request` (the wrapped key is not one of the service's).
        """

        async def ask() -> bytes:
            if self._service is None:
                raise Refused("keys_unavailable", "the measured configuration names no key service")
            try:
                key = await self._service.decrypt(wrapped, key_id=key_id, context=context)
            except GeumgoError as error:
                self._log.emit("data_key_refused", reason=word(error.code))
                if error.code == "invalid_ciphertext":
                    raise Refused(
                        "invalid_request", "the key service does not know this wrapped key"
                    ) from None
                raise Refused("keys_unavailable", f"the key service answered {error.code}") from None
            if len(key) != _KEY_BYTES:
                raise Refused("invalid_request", "the wrapped key is no data key")
            return key

        return await self._data_keys.get((key_id, wrapped, frozenset(context.items())), ask)

    async def aclose(self) -> None:
        """Cancel what is being asked for."""
        await self._purposes.aclose()
        await self._data_keys.aclose()
