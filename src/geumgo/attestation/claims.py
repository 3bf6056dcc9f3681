"""Claims: what verified evidence says, in one shape for every kind of hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from geumgo.attestation.document import VerifiedDocument
from geumgo.attestation.evidence import NITRO
from geumgo.attestation.statement import Statement

__all__ = ("DEBUG_MEASUREMENTS", "Claims")

DEBUG_MEASUREMENTS = ("pcr0", "pcr1", "pcr2", "pcr8")
"""Measurements that the hardware's debug mode zeroes (PCR8 is zero for unsigned images, too)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified evidence says.

    Attributes:
        kind: "nitro".
        measurements: lower-case hex by name, "pcr0" to "pcr31" for Nitro.
        debug: whether PCR0, PCR1 or PCR2 is zero, so that nothing is known about the code.
        simulated: whether no hardware stands behind it.
        issued_ms: when the evidence was made, milliseconds since 1970.
        nonce: what the asker gave.
        public_key: the key that the evidence carries.
        user_data: the digest of the statement, or what else the enclave put there.
        statement: what the evidence vouches for; None if it stands alone.
        module_id: which NSM made it.
    """

    kind: str
    measurements: Mapping[str, str] = field(hash=False)
    debug: bool
    simulated: bool
    issued_ms: int
    nonce: bytes | None
    public_key: bytes | None
    user_data: bytes | None
    statement: Statement | None
    module_id: str

    @classmethod
    def of_document(cls, verified: VerifiedDocument, statement: Statement | None = None) -> Claims:
        """Return what a verified Nitro document says.

        Args:
            verified: the document.
            statement: its statement, if that was found to be the attested one.
        """
        document = verified.document
        return cls(
            kind=NITRO,
            measurements=MappingProxyType({f"pcr{i}": pcr.hex() for i, pcr in sorted(document.pcrs.items())}),
            # A register that is missing says as little as one that is zero.
            debug=any(not any(document.pcrs.get(index, b"")) for index in (0, 1, 2)),
            simulated=verified.simulated,
            issued_ms=document.timestamp_ms,
            nonce=document.nonce,
            public_key=document.public_key,
            user_data=document.user_data,
            statement=statement,
            module_id=document.module_id,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the claims as JSON types, bytes in hex."""
        statement = self.statement
        return {
            "kind": self.kind,
            "module_id": self.module_id,
            "issued_ms": self.issued_ms,
            "debug": self.debug,
            "simulated": self.simulated,
            "measurements": dict(self.measurements),
            "nonce": _hex(self.nonce),
            "public_key": _hex(self.public_key),
            "user_data": _hex(self.user_data),
            "statement": statement
            and {
                "use": statement.use.value,
                "suite": statement.suite,
                "key": statement.key.hex(),
                "pool": statement.pool,
                "configuration": statement.configuration.hex(),
            },
        }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
