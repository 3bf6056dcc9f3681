"""The measured configuration: the file inside the image that decides trust.

It is part of PCR0 and PCR2, so what it says is vouched for by evidence. It is parsed once, at start, and
anything odd about it stops the enclave: a reviewer must be able to read it in one way only.
Specified in docs/spec/measured-configuration.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from geumgo.keys._names import is_name
from geumgo.keys.errors import ConfigurationError, SealError

__all__ = (
    "MAX_CONFIGURATION",
    "Caller",
    "KeyGrant",
    "KmsSettings",
    "MeasuredConfiguration",
    "Operation",
    "WrappedKey",
)

MAX_CONFIGURATION = 1 << 20
"""Bytes of the file: some 4,000 callers."""

MAX_CONTEXT = 8
"""Entries of an encryption context, as many as AWS recommends nobody exceed."""

MAX_TEXT = 2048
"""Characters of a key id, an endpoint or a value: KMS's own limit for a key id."""

MAX_WRAPPED = 6144
"""Bytes of a wrapped key, KMS's limit for a CiphertextBlob."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]{1,32}:[0-9]{12}:key/[A-Za-z0-9-]{1,128}", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)
_HOST_PORT = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})", re.ASCII)

SEED_PURPOSE = "seed"
"""The purpose in the seed's encryption context; no purpose of the data may have this name."""

OWN_CONTEXT = "geumgo:"
"""How the names begin in the encryption contexts of the pool's own keys."""

POOL_CONTEXT = "geumgo:pool"
PURPOSE_CONTEXT = "geumgo:purpose"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    pass


class Operation(_Strict, frozen=True):
    """Who may use an operation: everyone (`open`) or the named callers."""

    callers: tuple[str, ...] = ()
    open: bool = False


class KeyGrant(_Strict, frozen=True):
    """A KMS key and the one encryption context with which a caller's data keys may be unwrapped."""

    key_id: str
    context: dict[str, str] = {}


class Caller(_Strict, frozen=True):
    """A caller that the enclave knows.

    Attributes:
        public_key: raw Ed25519 public key, 32 bytes (base64 in the file).
        purposes: purposes whose keys it may have used.
        policies: SHA-256 of each compiled policy that it may bring, or ``any``.
        keys: KMS keys under which its fields may come encrypted.
    """

    public_key: bytes
    purposes: tuple[str, ...] = ()
    policies: Literal["any"] | tuple[str, ...] = ()
    keys: tuple[KeyGrant, ...] = ()


class KmsSettings(_Strict, frozen=True):
    """Where the key service is. An empty `ca` means the public certificate authorities."""

    endpoint: str
    region: str
    ca: str = ""

    def host_port(self) -> tuple[str, int]:
        """Return the endpoint's host and port."""
        parts = urlsplit(self.endpoint)
        return parts.hostname or "", parts.port or 443


class WrappedKey(_Strict, frozen=True):
    """A key that KMS made and wrapped: what to ask `Decrypt` for."""

    key_id: str
    ciphertext: bytes
    context: dict[str, str]


class MeasuredConfiguration(_Strict, frozen=True, dict=True):
    """``/etc/geumgo/measured.json``, checked. Make one with `from_json` or call `check` on it."""

    version: int
    pool: str
    operations: dict[str, Operation] = {}
    callers: dict[str, Caller] = {}
    kms: KmsSettings | None = None
    pool_key: WrappedKey | None = None
    purposes: dict[str, WrappedKey] = {}
    egress: tuple[str, ...] = ()

    PATH: ClassVar[str] = "/etc/geumgo/measured.json"

    @classmethod
    def from_json(cls, data: bytes) -> MeasuredConfiguration:
        """Return the checked configuration that a file's bytes hold.

        Raises:
            ConfigurationError: not JSON, a duplicate or unknown key, or one of the rules of `check`.
        """
        if len(data) > MAX_CONFIGURATION:
            raise ConfigurationError(f"the measured configuration is over {MAX_CONFIGURATION} bytes")
        try:
            # msgspec keeps the last of two equal keys; a reviewer might read the first.
            json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
            parsed = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"the measured configuration is not valid: {_reason(error)}",
                fix="docs/spec/measured-configuration.md lists every field.",
            ) from None
        parsed.check()
        parsed.__dict__["source"] = bytes(data)
        return parsed

    def to_json(self) -> bytes:
        """Return the file's bytes: keys sorted, two spaces of indentation, a newline at the end."""
        encoded = msgspec.json.encode(self, order="deterministic")
        return msgspec.json.format(encoded, indent=2) + b"\n"

    def digest(self) -> bytes:
        """Return SHA-384 of the file's bytes (of `to_json` where it came from no file), 48 bytes."""
        source: bytes | None = self.__dict__.get("source")
        return hashlib.sha384(self.to_json() if source is None else source).digest()

    def caller_keys(self) -> Mapping[str, bytes]:
        """Return name → raw public key, as `open_request` wants it."""
        return MappingProxyType({name: caller.public_key for name, caller in self.callers.items()})

    def authorize(self, operation: str, caller: str, policy_digest: bytes | None = None) -> Caller:
        """Return what the caller may name, if it may use the operation (with this policy).

        Args:
            operation: name out of the signed header.
            caller: who signed.
            policy_digest: SHA-256 of the policy that it brings; None where the operation takes no policy.

        Raises:
            SealError: ``unknown_operation``, ``unknown_caller`` or ``forbidden``.
        """
        if operation not in self.operations:
            raise SealError("the enclave has no such operation", code="unknown_operation")
        known = self.callers.get(caller)
        if known is None:
            raise SealError("the enclave does not know this caller", code="unknown_caller")
        rule = self.operations[operation]
        if not rule.open and caller not in rule.callers:
            raise SealError(
                "the caller may not use this operation",
                fix="The measured configuration lists who may; to change it is to build a new image.",
                code="forbidden",
            )
        if (
            policy_digest is not None
            and known.policies != "any"
            and policy_digest.hex() not in known.policies
        ):
            raise SealError(
                "the caller may not bring this policy",
                fix="Use a policy whose SHA-256 the measured configuration lists for the caller.",
                code="forbidden",
            )
        return known

    def check(self) -> None:
        """Refuse what is inconsistent or gives a caller more than it seems to.

        Raises:
            ConfigurationError: the message names the place.
        """
        if self.version != 1:
            raise ConfigurationError(f"version {self.version} of the measured configuration is not known")
        _check_names((self.pool,), "pool")
        _check_names(self.operations, "operations")
        _check_names(self.callers, "callers")
        _check_names(self.purposes, "purposes")
        self._check_operations()
        self._check_callers()
        self._check_keys()

    def _check_operations(self) -> None:
        for name, rule in self.operations.items():
            place = f"operations.{name}"
            _check_unique(rule.callers, f"{place}.callers")
            for caller in rule.callers:
                if caller not in self.callers:
                    raise ConfigurationError(f"{place} names the caller {caller!r}, who is not in callers")
            if rule.open and rule.callers:
                raise ConfigurationError(
                    f"{place} is open and lists callers",
                    fix="An open operation has an empty list of callers.",
                )
            if rule.open and name in ("decrypt", "reidentify"):
                raise ConfigurationError(f"{place} may not be open: it would give plaintext to everyone")

    def _check_callers(self) -> None:
        owners: dict[bytes, str] = {}
        for name, caller in self.callers.items():
            place = f"callers.{name}"
            if len(caller.public_key) != 32:
                raise ConfigurationError(f"{place}.public_key has {len(caller.public_key)} bytes, not 32")
            if caller.public_key in owners:
                raise ConfigurationError(f"{place} has the same public key as {owners[caller.public_key]!r}")
            owners[caller.public_key] = name
            _check_unique(caller.purposes, f"{place}.purposes")
            for purpose in caller.purposes:
                if purpose not in self.purposes:
                    raise ConfigurationError(
                        f"{place} names the purpose {purpose!r}, which is not in purposes"
                    )
            if caller.policies != "any":
                _check_unique(caller.policies, f"{place}.policies")
                if not all(_DIGEST.fullmatch(digest) for digest in caller.policies):
                    raise ConfigurationError(f"{place}.policies holds something else than lower-case SHA-256")
            self._check_grants(name, caller)

    def _check_grants(self, name: str, caller: Caller) -> None:
        place = f"callers.{name}.keys"
        pool_keys = {key.key_id.rpartition("/")[2] for key in self._wrapped_keys().values()}
        for grant in caller.keys:
            _check_key_id(grant.key_id, f"{place} key_id")
            _check_context(grant.context, f"{place} context")
            if any(name.lower().startswith(OWN_CONTEXT) for name in grant.context):
                raise ConfigurationError(
                    f"{place} names an encryption context that begins with {OWN_CONTEXT!r}",
                    why="Such contexts are of pools' own keys.",
                )
            if grant.key_id.rpartition("/")[2] in pool_keys:
                raise ConfigurationError(
                    f"{place} names a key under which the pool's own keys lie",
                    why="Who may have its ciphertexts opened can have the pool's seed opened.",
                    fix="Data that others encrypt needs a key of its own.",
                )
        deidentify = self.operations.get("deidentify")
        if caller.keys and caller.policies == "any" and deidentify is not None and name in deidentify.callers:
            raise ConfigurationError(
                f"callers.{name} may bring any policy and encrypted fields to deidentify",
                why="A policy that keeps a field would turn deidentify into decrypt.",
                fix="List the SHA-256 of the policies that this caller may bring.",
            )
        if caller.keys and self.kms is None:
            raise ConfigurationError(f"{place} are listed, but kms is null")

    def _wrapped_keys(self) -> dict[str, WrappedKey]:
        keys = {f"purposes.{name}": key for name, key in self.purposes.items()}
        return keys if self.pool_key is None else {"pool_key": self.pool_key, **keys}

    def _check_keys(self) -> None:
        if SEED_PURPOSE in self.purposes:
            raise ConfigurationError(f"no purpose may be called {SEED_PURPOSE!r}: the pool's seed is")
        for place, key in self._wrapped_keys().items():
            if self.kms is None:
                raise ConfigurationError(f"{place} is wrapped, but kms is null")
            _check_key_id(key.key_id, f"{place}.key_id")
            if not 1 <= len(key.ciphertext) <= MAX_WRAPPED:
                raise ConfigurationError(f"{place}.ciphertext has {len(key.ciphertext)} bytes")
            _check_context(key.context, f"{place}.context")
            purpose = place.removeprefix("purposes.") if place != "pool_key" else SEED_PURPOSE
            for name, value in ((POOL_CONTEXT, self.pool), (PURPOSE_CONTEXT, purpose)):
                if key.context.get(name) != value:
                    raise ConfigurationError(
                        f"{place}.context does not say {name} = {value!r}",
                        why="The context keeps one wrapped key from being passed off as another.",
                    )
        ports = {}
        _check_unique(self.egress, "egress")
        for entry in self.egress:
            match = _HOST_PORT.fullmatch(entry)
            if match is None or not 1 <= int(match[2]) <= 65535:
                raise ConfigurationError(f"egress has {entry[:80]!r}, which is not host:port")
            ports[match[1].strip("[]").lower(), int(match[2])] = entry
        if self.kms is not None:
            self._check_kms(self.kms, ports)

    @staticmethod
    def _check_kms(kms: KmsSettings, egress: Mapping[tuple[str, int], str]) -> None:
        _check_text(kms.endpoint, "kms.endpoint")
        try:
            parts = urlsplit(kms.endpoint)
            host, port = kms.host_port()
        except ValueError:
            raise ConfigurationError("kms.endpoint is not a URL") from None
        extra = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "https" or not host or extra:
            raise ConfigurationError("kms.endpoint must be https://host[:port]")
        if _REGION.fullmatch(kms.region) is None:
            raise ConfigurationError("kms.region is not the name of a region")
        if (host.lower(), port) not in egress:
            raise ConfigurationError(
                f"egress does not list the key service ({host}:{port})", fix=f'Add "{host}:{port}" to egress.'
            )
        if kms.ca:
            try:
                x509.load_pem_x509_certificates(kms.ca.encode())
            except ValueError:
                raise ConfigurationError("kms.ca is neither empty nor certificates in PEM") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError | json.JSONDecodeError):
        return str(error)[:200]
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return str(error)[:200]


def _check_names(names: Iterable[str], place: str) -> None:
    for name in names:
        if not is_name(name):
            raise ConfigurationError(
                f"{place}: {name[:80]!r} is not a name",
                fix="A name is 1 to 64 ASCII letters, digits, dots, dashes or underscores.",
            )


def _check_unique(values: tuple[str, ...], place: str) -> None:
    if len(set(values)) != len(values):
        raise ConfigurationError(f"{place} lists something twice")


def _check_key_id(text: str, place: str) -> None:
    if _KEY_ARN.fullmatch(text) is None:
        raise ConfigurationError(
            f"{place} is not the ARN of a KMS key",
            why="An id or alias means another key in another account, and the parent chooses the account.",
            fix="Write it as arn:aws:kms:REGION:ACCOUNT:key/ID.",
        )


def _check_text(text: str, place: str) -> None:
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
        raise ConfigurationError(f"{place} is empty, too long or not printable")


def _check_context(context: Mapping[str, str], place: str) -> None:
    if len(context) > MAX_CONTEXT:
        raise ConfigurationError(f"{place} has more than {MAX_CONTEXT} entries")
    for name, value in context.items():
        _check_text(name, place)
        _check_text(value, place)
