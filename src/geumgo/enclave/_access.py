"""Who may do what: the design's first promise, as sets made once from the measured configuration.

The configuration lists, for each operation, the callers that may use it and, for each caller, what it may
name: purposes, KMS keys with their encryption context, and policies. What isn't listed is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from geumgo.enclave._errors import ConfigurationError, Refused

if TYPE_CHECKING:
    from geumgo.enclave.app import Operation
    from geumgo.keys import MeasuredConfiguration

__all__ = ("Access", "Grant", "PolicyFacts")

_Key = tuple[str, frozenset[tuple[str, str]]]


class PolicyFacts(Protocol):
    """What of a compiled policy decides who may bring it."""

    @property
    def purposes(self) -> frozenset[str]:
        """Purposes whose keys it uses."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether equal inputs give equal outputs somewhere, so that guesses can be tested."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether some field can be turned back."""
        ...

    @property
    def encrypted_fields(self) -> frozenset[str]:
        """Fields that arrive encrypted by an application."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """What one request may name.

    Attributes:
        caller: who signed it; None where it came unsealed.
        operation: what it asks for.
        open: the operation is open to everyone, so the request gets no keys, whoever sent it.
        purposes: purposes whose keys it may use.
        policies: SHA-256 of the policies that it may bring; None for any.
        keys: KMS keys with the exact encryption context of what it may have decrypted.
    """

    caller: str | None
    operation: str
    open: bool
    purposes: frozenset[str] = frozenset()
    policies: frozenset[bytes] | None = frozenset()
    keys: frozenset[_Key] = frozenset()

    def check_policy(self, digest: bytes, policy: PolicyFacts) -> None:
        """Check that the request may bring this policy.

        Raises:
            Refused: `forbidden`.
        """
        if self.open:
            if policy.deterministic or policy.reversible or policy.encrypted_fields or policy.purposes:
                raise Refused("forbidden", "an open operation takes policies without keys only")
            return
        if self.policies is None:
            # With any policy one could keep a field that arrives encrypted, and so have it decrypted.
            if policy.encrypted_fields:
                raise Refused(
                    "forbidden",
                    "a policy with encrypted fields must be listed for the caller by its hash",
                    fix="Add the policy's SHA-256 to the caller's `policies` and build the image anew.",
                )
        elif digest not in self.policies:
            raise Refused("forbidden", "the configuration does not list this policy for the caller")
        missing = policy.purposes - self.purposes
        if missing:
            raise Refused(
                "forbidden", f"the configuration does not list purpose {min(missing)!r} for the caller"
            )

    def check_purpose(self, purpose: str) -> None:
        """Check that the request may use keys of `purpose`.

        Raises:
            Refused: `forbidden`.
        """
        if self.open:
            raise Refused("forbidden", "an open operation may not use purpose keys")
        if purpose not in self.purposes:
            raise Refused("forbidden", f"the configuration does not list purpose {purpose!r} for the caller")

    def check_key(self, key_id: str, context: Mapping[str, str]) -> None:
        """Check that the request may have data under `key_id` with exactly `context` decrypted.

        Raises:
            Refused: `forbidden`.
        """
        if self.open:
            raise Refused("forbidden", "an open operation may not decrypt")
        if (key_id, frozenset(context.items())) not in self.keys:
            raise Refused(
                "forbidden",
                "the configuration does not list this key with this encryption context for the caller",
            )


class Access:
    """The rules of one enclave.

    Args:
        configuration: the measured configuration.
        operations: what the program can do.

    Raises:
        ConfigurationError: the two don't fit together.
    """

    def __init__(self, configuration: MeasuredConfiguration, operations: Mapping[str, Operation]) -> None:
        check(configuration, operations)
        self.operations = {name: operations[name] for name in configuration.operations}
        self.open = frozenset(name for name, rule in configuration.operations.items() if rule.open)
        self.callers = {name: caller.public_key for name, caller in configuration.callers.items()}
        self._allowed = {name: frozenset(rule.callers) for name, rule in configuration.operations.items()}
        self._anonymous = {name: Grant(None, name, open=True) for name in self.open}
        self._grants: dict[str, tuple[frozenset[str], frozenset[bytes] | None, frozenset[_Key]]] = {}
        for name, caller in configuration.callers.items():
            policies = caller.policies
            self._grants[name] = (
                frozenset(caller.purposes),
                None if policies == "any" else frozenset(bytes.fromhex(digest) for digest in policies),
                frozenset((key.key_id, frozenset(key.context.items())) for key in caller.keys),
            )

    def anonymous(self, operation: str) -> Grant:
        """Return the grant of an unsealed request.

        Raises:
            Refused: `unknown_operation` or `seal_required`.
        """
        grant = self._anonymous.get(operation)
        if grant is None:
            self.require(operation)
            raise Refused("seal_required")
        return grant

    def require(self, operation: str) -> None:
        """Check that the enclave serves `operation`.

        Raises:
            Refused: `unknown_operation`.
        """
        if operation not in self.operations:
            raise Refused("unknown_operation")

    def grant(self, operation: str, caller: str) -> Grant:
        """Return what `caller`, who signed the request, may name in `operation`.

        Raises:
            Refused: `unknown_operation` or `forbidden`.
        """
        self.require(operation)
        if operation in self.open:
            return Grant(caller, operation, open=True)
        if caller not in self._allowed[operation]:
            raise Refused(
                "forbidden", f"the configuration does not list caller {caller!r} for operation {operation!r}"
            )
        purposes, policies, keys = self._grants[caller]
        return Grant(caller, operation, open=False, purposes=purposes, policies=policies, keys=keys)


def check(configuration: MeasuredConfiguration, operations: Mapping[str, Operation]) -> None:
    """Check that the measured configuration and the program fit together.

    Raises:
        ConfigurationError: an operation that the program lacks, one that is open in the configuration only,
            or one that may not run twice in a pool of more than one.
    """
    for name, rule in configuration.operations.items():
        operation = operations.get(name)
        if operation is None:
            raise ConfigurationError(
                f"the configuration lists operation {name!r}, which the program does not have",
                fix=f"The program has: {', '.join(sorted(operations))}.",
                code="operation_missing",
            )
        if rule.open and not operation.open:
            raise ConfigurationError(
                f"the configuration opens operation {name!r}, which the program does not declare open",
                fix="Declare it with `open=True` if it needs no keys, or take `open` out of the configuration.",
                code="operation_not_open",
            )
        if configuration.pool_key is not None and not operation.idempotent:
            raise ConfigurationError(
                f"operation {name!r} is not idempotent and the pool may have several enclaves",
                why="Each enclave remembers only the requests that it carried out itself.",
                fix="Declare it with `idempotent=True`, or build an image without `pool_key`: a pool of one.",
                code="operation_not_idempotent",
            )
