"""The birth of a pool: its key, the key's two policies, and the audit of who wrote what.

Order (design, "Birth of a pool"): `create_pool` makes the key under `first_policy` and lets KMS make the seed
and the purpose keys; the image is built around the configuration; only when its PCRs are known, `release`
writes `release_policy`, and after that nobody can write another. `audit` reads the records of CreateKey and
PutKeyPolicy (CloudTrail's form) and says whether that is all that happened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from geumgo.keys._names import is_name
from geumgo.keys.configuration import (
    POOL_CONTEXT,
    PURPOSE_CONTEXT,
    SEED_PURPOSE,
    Caller,
    KmsSettings,
    MeasuredConfiguration,
    Operation,
    WrappedKey,
)
from geumgo.keys.errors import PoolError
from geumgo.keys.kms import KmsClient

__all__ = (
    "Finding",
    "PoolMaterial",
    "audit",
    "create_pool",
    "first_policy",
    "release",
    "release_policy",
)

_T = TypeVar("_T")
_ARN = re.compile(
    r"arn:aws[a-z-]*:(?:iam|sts)::([0-9]{12}):(?:root|(?:user|role|assumed-role)/[\w+=,.@/-]+)", re.ASCII
)
_UNBORN = "arn:aws:kms:none:000000000000:key/unborn"  # stands for the key before there is one
_HEX = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})", re.ASCII)

_DESCRIBE = ("kms:DescribeKey", "kms:GetKeyPolicy")
_BIRTH = (*_DESCRIBE, "kms:GenerateDataKeyWithoutPlaintext", "kms:PutKeyPolicy")
_OLD_AGE = (*_DESCRIBE, "kms:DisableKey", "kms:ScheduleKeyDeletion")

_HARMFUL = frozenset(
    {
        "CreateGrant",
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "ImportKeyMaterial",
        "ReEncrypt",
        "ReplicateKey",
        "UpdatePrimaryRegion",
    }
)
"""Events that must not have succeeded before the release; after it, only Decrypt may."""


@dataclass(frozen=True, slots=True)
class PoolMaterial:
    """A pool before its image: the configuration to build in, and the key whose policy waits for the PCRs."""

    configuration: MeasuredConfiguration
    key_id: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in the records that should not be there, or is missing."""

    code: str
    what: str


def first_policy(admin: str) -> str:
    """Return the policy under which the key is made: `admin` may describe it, have keys made, and write the policy.

    Nobody can encrypt, so nobody can plant a seed that he knows; nobody can decrypt.

    Args:
        admin: ARN of the user or role that creates the pool.

    Raises:
        PoolError: it is not such an ARN.
    """
    _account(admin)
    return _policy({"Sid": "Birth", "Effect": "Allow", "Principal": {"AWS": admin}, "Action": list(_BIRTH)})


def release_policy(
    pcrs: Mapping[int, str] | Mapping[str, str], admin: str, *, parents: Sequence[str] = ()
) -> str:
    """Return the last policy: `Decrypt` for these measurements, old age for `admin`, nothing else for anyone.

    Args:
        pcrs: PCR number → hex; PCR0 at least. Names like ``PCR0`` and ``pcr0`` are understood too.
        admin: ARN of the administrator.
        parents: ARNs of the roles of the enclaves' parents; the account's IAM policies decide where empty.

    Raises:
        PoolError: a value is no measurement, or is zero, as it is of a debug enclave.
    """
    account = _account(admin)
    for parent in parents:
        _account(parent)
    partition = admin.split(":")[1]
    principals = list(parents) or [f"arn:{partition}:iam::{account}:root"]
    conditions = {
        f"kms:RecipientAttestation:PCR{n}": value for n, value in sorted(_measurements(pcrs).items())
    }
    return _policy(
        {
            "Sid": "Release",
            "Effect": "Allow",
            "Principal": {"AWS": principals if len(principals) > 1 else principals[0]},
            "Action": "kms:Decrypt",
            "Condition": {"StringEqualsIgnoreCase": conditions},
        },
        {"Sid": "OldAge", "Effect": "Allow", "Principal": {"AWS": admin}, "Action": list(_OLD_AGE)},
    )


async def create_pool(
    kms: KmsClient,
    *,
    pool: str,
    purposes: Sequence[str],
    operations: Mapping[str, Operation | Mapping[str, Any]],
    callers: Mapping[str, Caller | Mapping[str, Any]],
    kms_settings: KmsSettings,
    egress: Sequence[str] = (),
    admin: str,
) -> PoolMaterial:
    """Make the pool's KMS key and have KMS make the seed and one key a purpose under it.

    Args:
        kms: a client with the administrator's credentials and no recipient.
        pool: the pool's name.
        purposes: names of the uses of data that get keys.
        operations, callers: who may do what; as types or as the mappings that the file has.
        kms_settings: where the enclave finds the key service.
        egress: further ``host:port`` that the enclave may dial; the key service is added.
        admin: ARN of the administrator.

    Raises:
        PoolError: a bad name; ConfigurationError: operations and callers do not fit; KmsError: a call failed.
    """
    for name in (pool, *purposes):
        if not is_name(name) or name == SEED_PURPOSE:
            raise PoolError(f"{name[:80]!r} can't be the name of a pool or purpose")
    wrapped: dict[str, WrappedKey] = {}

    def configuration() -> MeasuredConfiguration:
        host, port = kms_settings.host_port()
        endpoint = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        made = MeasuredConfiguration(
            version=1,
            pool=pool,
            operations=_convert(operations, dict[str, Operation], "operations"),
            callers=_convert(callers, dict[str, Caller], "callers"),
            kms=kms_settings,
            pool_key=wrapped[SEED_PURPOSE],
            purposes={name: wrapped[name] for name in purposes},
            egress=tuple(dict.fromkeys((endpoint, *egress))),
        )
        made.check()
        return made

    # A dry run with placeholders: mistakes in the configuration should not leave a KMS key behind.
    for name in (SEED_PURPOSE, *purposes):
        wrapped[name] = WrappedKey(_UNBORN, b"\0", _context(pool, name))
    configuration()
    key_id = await kms.create_key(first_policy(admin), description=f"Geumgo pool {pool}")
    for name in (SEED_PURPOSE, *purposes):
        context = _context(pool, name)
        ciphertext = await kms.generate_data_key_without_plaintext(key_id, context)
        wrapped[name] = WrappedKey(key_id, ciphertext, context)
    return PoolMaterial(configuration(), key_id)


async def release(
    kms: KmsClient,
    key_id: str,
    pcrs: Mapping[int, str] | Mapping[str, str],
    admin: str,
    *,
    parents: Sequence[str] = (),
) -> str:
    """Write the last policy; return it. There is no way back: not even `admin` can write another.

    Raises:
        PoolError: bad measurements; KmsError: the call failed.
    """
    policy = release_policy(pcrs, admin, parents=parents)
    await kms.put_key_policy(key_id, policy, bypass_lockout_check=True)
    return policy


def audit(
    records: Iterable[Mapping[str, Any]],
    *,
    key_id: str,
    admin: str,
    pcrs: Mapping[int, str] | Mapping[str, str] | None,
    parents: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Compare what happened to a key with what may happen to a pool's key.

    Args:
        records: events in CloudTrail's form, in order, from the key's creation on; the emulator's log has the same.
        key_id: the key's ARN.
        admin: as given to `create_pool`.
        pcrs: measurements that it was released to; None where it has not been released.
        parents: as given to `release`.

    Returns:
        Findings, none where all is well.
    """
    mine = [record for record in records if _concerns(record, key_id)]
    events = [(str(record.get("eventName")), _mapping(record, "requestParameters")) for record in mine]
    created = [parameters for name, parameters in events if name == "CreateKey"]
    written = [parameters for name, parameters in events if name == "PutKeyPolicy"]
    findings = _audit_creation(created, first_policy(admin))
    if pcrs is not None:
        findings += _audit_release(written, release_policy(pcrs, admin, parents=parents))
    elif written:
        findings.append(Finding("policy_rewritten", "PutKeyPolicy was called before the release"))
    released = False
    for name, _ in events:
        if name in _HARMFUL and not (released and name == "Decrypt"):
            findings.append(Finding("unexpected_use", f"{name} succeeded on the pool's key"))
        released = released or name == "PutKeyPolicy"
    return tuple(findings)


def _convert(value: Mapping[str, Any], kind: type[_T], place: str) -> _T:
    try:
        return msgspec.convert(msgspec.to_builtins(value), kind)  # bytes pass through as base64
    except (msgspec.ValidationError, TypeError) as error:
        raise PoolError(f"{place} of the pool: {str(error)[:200]}") from None


def _audit_creation(created: Sequence[Mapping[str, Any]], policy: str) -> list[Finding]:
    if len(created) != 1:
        return [Finding("creation_missing", f"{len(created)} records of CreateKey, not one")]
    parameters = created[0]
    findings = []
    if not _same_policy(parameters.get("policy"), policy):
        findings.append(Finding("first_policy", "the key was made under another policy"))
    if parameters.get("origin", "AWS_KMS") != "AWS_KMS":
        findings.append(Finding("origin", "the key's material did not come from AWS KMS"))
    if parameters.get("multiRegion", False) is not False:
        findings.append(Finding("multi_region", "the key can be copied to other Regions"))
    return findings


def _audit_release(written: Sequence[Mapping[str, Any]], policy: str) -> list[Finding]:
    if not written:
        return [Finding("release_missing", "PutKeyPolicy was not called")]
    findings = []
    if len(written) > 1:
        findings.append(
            Finding("policy_rewritten", f"PutKeyPolicy was called {len(written)} times, not once")
        )
    if not _same_policy(written[-1].get("policy"), policy):
        findings.append(
            Finding("release_policy", "the last policy is not the release for these measurements")
        )
    return findings


def _concerns(record: Mapping[str, Any], key_id: str) -> bool:
    if record.get("errorCode") or record.get("eventSource", "kms.amazonaws.com") != "kms.amazonaws.com":
        return False
    bare = key_id.rpartition("/")[2]
    metadata = _mapping(_mapping(record, "responseElements"), "keyMetadata")
    resources = record.get("resources")
    named: list[object] = [
        _mapping(record, "requestParameters").get("keyId"),
        metadata.get("arn"),
        metadata.get("keyId"),
    ]
    if isinstance(resources, list):
        named += [resource.get("ARN") for resource in resources if isinstance(resource, Mapping)]
    return any(name in (key_id, bare) for name in named)


def _mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _same_policy(found: object, expected: str) -> bool:
    if not isinstance(found, str):
        return False
    try:
        return bool(json.loads(found) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def _policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{**s, "Resource": "*"} for s in statements]})


def _context(pool: str, purpose: str) -> dict[str, str]:
    return {POOL_CONTEXT: pool, PURPOSE_CONTEXT: purpose}


def _account(arn: str) -> str:
    match = _ARN.fullmatch(arn)
    if match is None:
        raise PoolError(
            f"{arn[:120]!r} is not the ARN of a user or role",
            fix="`aws sts get-caller-identity` prints yours.",
        )
    return match[1]


def _measurements(pcrs: Mapping[int, str] | Mapping[str, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, value in pcrs.items():
        digits = str(name).lower().removeprefix("pcr")
        lower = value.lower()
        if not digits.isdecimal() or int(digits) > 31 or _HEX.fullmatch(lower) is None:
            raise PoolError(f"{str(name)[:20]!r} is not a PCR with a hex value")
        if not lower.strip("0"):
            raise PoolError(
                f"PCR{digits} is zero",
                why="All debug enclaves have it.",
                fix="Release to measurements of an image.",
            )
        found[int(digits)] = lower
    if 0 not in found:
        raise PoolError("a release without PCR0 would name no image", fix="Give PCR0, PCR1 and PCR2.")
    return found
