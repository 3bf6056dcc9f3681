"""What an operation may use beside its request: the caller's name, keys, the policy, worker threads.

Everything here is bounded by what the measured configuration grants to the caller of this one request.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from geumgo._base import GeumgoError
from geumgo.enclave._errors import Refused

if TYPE_CHECKING:
    from geumgo._base import Clock
    from geumgo.deid import CompiledPolicy, Engine
    from geumgo.enclave._access import Grant
    from geumgo.enclave._keystore import KeyStore
    from geumgo.enclave._limits import Limits
    from geumgo.enclave._workers import Workers
    from geumgo.keys import Envelope

__all__ = ("Context", "PolicyCache", "Services")

_P = ParamSpec("_P")
_T = TypeVar("_T")
_WrappedKey = tuple[str, bytes, tuple[tuple[str, str], ...]]  # KMS key, wrapped data key, encryption context


class PolicyCache:
    """Policies that were parsed before, and their engines, by SHA-256: most requests bring the same one.

    What a request may do with them is checked anew each time. Safe from several threads.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._policies: OrderedDict[bytes, CompiledPolicy] = OrderedDict()
        self._engines: dict[bytes, Engine] = {}

    def parse(self, digest: bytes, policy: bytes) -> CompiledPolicy:
        """Return the policy.

        Raises:
            Refused: `bad_policy`; the detail is the policy room's own message.
        """
        with self._lock:
            known = self._policies.get(digest)
            if known is not None:
                self._policies.move_to_end(digest)
                return known
        # Imported when first needed: the detectors' tables take a third of the whole start otherwise.
        from geumgo.deid import CompiledPolicy

        try:
            parsed = CompiledPolicy.from_bytes(policy)
        except GeumgoError as error:
            raise Refused("bad_policy", error.diagnostics()) from None
        with self._lock:
            self._policies[digest] = parsed
            if len(self._policies) > self._capacity:
                self._engines.pop(self._policies.popitem(last=False)[0], None)
        return parsed

    def engine(self, digest: bytes, policy: CompiledPolicy, keys: Callable[[str, str], bytes]) -> Engine:
        """Return the policy's engine; `keys` are the same for everyone who may have them."""
        from geumgo.deid import Engine

        with self._lock:
            engine = self._engines.get(digest)
        if engine is None:
            engine = Engine(policy, keys, random=secrets.token_bytes)
            with self._lock:
                if digest in self._policies:
                    self._engines[digest] = engine
        return engine


@dataclass(frozen=True, slots=True)
class Services:
    """What the contexts of one enclave share."""

    clock: Clock
    keys: KeyStore
    workers: Workers
    """For operations that may wait."""
    processor: Workers
    """For work that only computes: one thread, since the interpreter runs one at a time."""
    policies: PolicyCache
    limits: Limits


class Context:
    """One request's surroundings. Operations get it; they don't make it.

    Args:
        services: what all requests share.
        grant: what this request may name.
        policy: the compiled policy in the seal, its digest checked; empty where there is none.
        policy_digest: SHA-256 of it.
        request_id: 16 bytes; None where the request came unsealed.
        deadline_ms: when nobody waits any more, milliseconds since 1970; None where none was given.
        size: bytes of the request's body.
    """

    __slots__ = ("_grant", "_policy", "_policy_digest", "_services", "deadline_ms", "request_id", "size")

    def __init__(
        self,
        services: Services,
        grant: Grant,
        *,
        policy: bytes = b"",
        policy_digest: bytes = b"",
        request_id: bytes | None = None,
        deadline_ms: int | None = None,
        size: int = 0,
    ) -> None:
        self._services = services
        self._grant = grant
        self._policy = policy
        self._policy_digest = policy_digest
        self.request_id = request_id
        self.deadline_ms = deadline_ms
        self.size = size

    def __repr__(self) -> str:
        return f"<Context {self.operation}>"

    @property
    def operation(self) -> str:
        """The operation's name."""
        return self._grant.operation

    @property
    def caller(self) -> str | None:
        """Who signed the request; None where it came unsealed."""
        return self._grant.caller

    def now_ms(self) -> int:
        """Return trusted time, milliseconds since 1970-01-01T00:00:00Z."""
        return self._services.clock.now_ms()

    def random(self, count: int) -> bytes:
        """Return `count` random bytes."""
        return secrets.token_bytes(count)

    @property
    def policy(self) -> CompiledPolicy:
        """The policy that the caller brought; it may bring it, and names purposes that it may name.

        Raises:
            Refused: `bad_policy` (none, or not a policy) or `forbidden`.
        """
        if not self._policy:
            raise Refused("bad_policy", "this operation needs a policy", fix="Seal one with the request.")
        policy = self._services.policies.parse(self._policy_digest, self._policy)
        self._grant.check_policy(self._policy_digest, policy)
        return policy

    async def engine(self) -> Engine:
        """Return an engine for :attr:`policy`, with the keys of its purposes.

        Raises:
            Refused: as :attr:`policy` and :meth:`purpose_keys`.
        """
        policy = self.policy
        keys = await self.purpose_keys(policy.purposes)
        return self._services.policies.engine(self._policy_digest, policy, keys)

    async def purpose_keys(self, purposes: Iterable[str]) -> Callable[[str, str], bytes]:
        """Return a function (purpose, use) → 32-byte key; uses are `pseudonym`, `token` and `encrypt`.

        Raises:
            Refused: `forbidden` (also in every open operation) or `keys_unavailable`.
        """
        names = sorted(set(purposes))
        for name in names:
            self._grant.check_purpose(name)
        return await self._services.keys.purposes(names)

    async def purpose_key(self, purpose: str, use: str) -> bytes:
        """Return the 32-byte key of one use of one purpose; see :meth:`purpose_keys`."""
        return (await self.purpose_keys((purpose,)))(purpose, use)

    async def decrypt(self, envelopes: Sequence[str]) -> list[bytes | None]:
        """Return what an application encrypted under its own KMS data keys.

        Args:
            envelopes: base64 texts as :func:`geumgo.keys.encrypt_field` makes them.

        Returns:
            The plaintexts in order; None for what is no envelope or doesn't open.

        Raises:
            Refused: `forbidden` (a key or an encryption context isn't listed for the caller; every open
                operation), `invalid_request` (too many data keys), `keys_unavailable`.
        """
        if self._grant.open:
            raise Refused("forbidden", "an open operation may not decrypt")
        parsed = await self.run(_parse_all, envelopes)
        keys: dict[_WrappedKey, bytes | None] = {}
        for envelope in parsed:
            if envelope is not None:
                keys[_wrapped_key(envelope)] = None
        for key_id, _, context in keys:
            self._grant.check_key(key_id, dict(context))
        limit = self._services.limits.data_keys_per_request
        if len(keys) > limit:
            raise Refused(
                "invalid_request",
                f"the request needs more than {limit} data keys",
                fix="Use one data key for many fields, or send smaller batches.",
            )
        asked = [
            self._services.keys.data_key(key_id, wrapped, dict(context)) for key_id, wrapped, context in keys
        ]
        for key, plaintext in zip(list(keys), await _all(asked), strict=True):
            keys[key] = plaintext
        return await self.run(_open_all, parsed, keys)

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `function` returns, run in a worker thread where the request is large.

        For work that takes time with the request's size. What waits or sleeps belongs into an operation
        without `async`, which always has a thread.
        """
        if self.size <= self._services.limits.inline_bytes:
            return function(*args, **kwargs)
        return await self._services.processor.run(function, *args, **kwargs)


async def _all(calls: Sequence[Coroutine[Any, Any, bytes]]) -> list[bytes | None]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except* GeumgoError as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


def _wrapped_key(envelope: Envelope) -> _WrappedKey:
    return envelope.key_id, envelope.wrapped, tuple(sorted(envelope.context.items()))


def _parse_all(texts: Sequence[str]) -> list[Envelope | None]:
    from geumgo.keys import parse_envelope

    parsed: list[Envelope | None] = []
    for text in texts:
        try:
            parsed.append(parse_envelope(text))
        except GeumgoError:
            parsed.append(None)
    return parsed


def _open_all(
    envelopes: Sequence[Envelope | None], keys: Mapping[_WrappedKey, bytes | None]
) -> list[bytes | None]:
    from geumgo.keys import open_envelope

    opened: list[bytes | None] = []
    for envelope in envelopes:
        key = None if envelope is None else keys[_wrapped_key(envelope)]
        try:
            opened.append(None if envelope is None or key is None else open_envelope(envelope, key))
        except GeumgoError:
            opened.append(None)
    return opened
