"""The statement: what a piece of evidence vouches for (`docs/spec/statement.md`).

Its digest is in the evidence, so that one document ties a key to a use, a pool and a configuration, and
can't be shown for anything else.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

from geumgo.attestation.errors import StatementInvalid
from geumgo.codec import cbor

__all__ = (
    "CONFIGURATION_SIZE",
    "MAX_KEY",
    "MAX_NAME",
    "MAX_STATEMENT_SIZE",
    "STATEMENT_VERSION",
    "Statement",
    "Use",
)

STATEMENT_VERSION = 1
"""Version of the format; a reader refuses any other, since fields may mean something else there."""

CONFIGURATION_SIZE = 48
"""Bytes of the measured configuration's digest: SHA-384."""

MAX_KEY = 1024
"""Bytes of the key: what an attestation document's `public_key` holds."""

MAX_NAME = 128
"""Bytes of the suite's and of the pool's name in UTF-8; names for people, not data."""

MAX_STATEMENT_SIZE = 2048
"""Bytes of a statement: its largest fields and what frames them."""

_FIELDS = frozenset({"v", "use", "suite", "key", "pool", "configuration"})


class Use(enum.Enum):
    """What a key that is vouched for is used for."""

    SEAL = "seal"
    """Callers seal requests to it."""

    KMS = "kms"
    """A key service encrypts its answers to it."""

    CHANNEL = "channel"
    """A channel of its own is set up with it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What evidence vouches for.

    Attributes:
        use: the only use that the key may be put to.
        suite: name of the cryptographic suite, which says how to read `key`.
        key: the public key, 1 to 1024 bytes.
        pool: name of the pool; empty where the enclave belongs to none.
        configuration: SHA-384 of the measured configuration's bytes.

    Raises:
        StatementInvalid: a field is over its limit or empty where it may not be.
    """

    use: Use
    suite: str
    key: bytes
    pool: str
    configuration: bytes

    def __post_init__(self) -> None:
        if not 0 < _utf8_size(self.suite) <= MAX_NAME:
            raise StatementInvalid(f"a statement's suite is a name of 1 to {MAX_NAME} bytes")
        if _utf8_size(self.pool) > MAX_NAME:
            raise StatementInvalid(f"a statement's pool is a name of at most {MAX_NAME} bytes")
        if not 0 < len(self.key) <= MAX_KEY:
            raise StatementInvalid(f"a statement's key has 1 to {MAX_KEY} bytes")
        if len(self.configuration) != CONFIGURATION_SIZE:
            raise StatementInvalid(f"a statement's configuration digest has {CONFIGURATION_SIZE} bytes")

    def to_bytes(self) -> bytes:
        """Return the statement's one encoding."""
        return cbor.dumps(
            {
                "v": STATEMENT_VERSION,
                "use": self.use.value,
                "suite": self.suite,
                "key": self.key,
                "pool": self.pool,
                "configuration": self.configuration,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Return the statement that `data` holds.

        Raises:
            StatementInvalid: not deterministic CBOR, another version, an unknown or missing field, a field of
                another type or over its limit.
        """
        try:
            value = cbor.loads(data, max_size=MAX_STATEMENT_SIZE, max_depth=2, deterministic=True)
        except cbor.CborError as error:
            raise StatementInvalid(f"the statement is malformed: {error.what}") from None
        if not isinstance(value, dict):
            raise StatementInvalid("the statement is not a map")
        version = value.get("v")
        if type(version) is not int or version != STATEMENT_VERSION:
            raise StatementInvalid(
                f"the statement is not of version {STATEMENT_VERSION}",
                fix="Upgrade whichever side is older.",
            )
        if value.keys() != _FIELDS:
            raise StatementInvalid("the statement lacks a field, or has one that is not known")
        match value:
            case {
                "use": str(use),
                "suite": str(suite),
                "key": bytes(key),
                "pool": str(pool),
                "configuration": bytes(configuration),
            }:
                pass
            case _:
                raise StatementInvalid("a field of the statement is of the wrong type")
        try:
            known = Use(use)
        except ValueError:
            raise StatementInvalid("the statement names a use that is not known") from None
        return cls(use=known, suite=suite, key=key, pool=pool, configuration=configuration)

    def digest(self) -> bytes:
        """Return SHA-384 of the encoding, 48 bytes: a Nitro document's `user_data`."""
        return hashlib.sha384(self.to_bytes()).digest()


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise StatementInvalid("a name in the statement is not Unicode text") from None
