"""AWS KMS's behaviour: actions on keys, each allowed or refused by the key's policy, each recorded.

No IO but the store. Order of a call, as KMS has it: parse, find the key, verify the recipient, ask the policy,
look at the key's state, act, record.
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from geumgo._base import Clock
from geumgo.attestation import TrustRoots
from geumgo.testing.kms import _ciphertext
from geumgo.testing.kms import _requests as api
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._evaluate import Decision, Principal, evaluate
from geumgo.testing.kms._policy import Policy
from geumgo.testing.kms._recipient import AttestedRecipient, encrypt_to, verify_recipient
from geumgo.testing.kms._store import KeyRecord, Store

__all__ = ("KmsService",)

_DAY_MS = 86_400_000
_ENABLED, _DISABLED, _PENDING = "Enabled", "Disabled", "PendingDeletion"
_ALGORITHM = "SYMMETRIC_DEFAULT"
_KEPT_EVENTS = frozenset({"CreateKey", "PutKeyPolicy"})


@dataclass(slots=True)
class _Call:
    """One call on its way through the service."""

    action: str
    principal: Principal
    key_arn: str | None = None
    recipient: AttestedRecipient | None = None


class KmsService:
    """Answers calls.

    Args:
        store: where keys are.
        roots: who may have issued a recipient's attestation document; empty roots accept none.
        clock: time of policies, deletions and documents.
        account: number of the one account.
        region: the one region.
    """

    def __init__(self, store: Store, *, roots: TrustRoots, clock: Clock, account: str, region: str) -> None:
        self._store = store
        self._roots = roots
        self._clock = clock
        self._account = account
        self._region = region
        self._actions: dict[str, tuple[type[Any], Callable[[_Call, Any], dict[str, Any]]]] = {
            "CreateKey": (api.CreateKey, self._create_key),
            "DescribeKey": (api.KeyOnly, self._describe_key),
            "PutKeyPolicy": (api.PutKeyPolicy, self._put_key_policy),
            "GetKeyPolicy": (api.GetKeyPolicy, self._get_key_policy),
            "EnableKey": (api.KeyOnly, self._enable_key),
            "DisableKey": (api.KeyOnly, self._disable_key),
            "ScheduleKeyDeletion": (api.ScheduleKeyDeletion, self._schedule_key_deletion),
            "Encrypt": (api.Encrypt, self._encrypt),
            "Decrypt": (api.Decrypt, self._decrypt),
            "GenerateDataKey": (api.GenerateDataKey, self._generate_data_key),
            "GenerateDataKeyWithoutPlaintext": (
                api.GenerateDataKeyWithoutPlaintext,
                self._generate_data_key_without_plaintext,
            ),
            "GenerateRandom": (api.GenerateRandom, self._generate_random),
            "CreateAlias": (api.CreateAlias, self._create_alias),
            "DeleteAlias": (api.DeleteAlias, self._delete_alias),
            "ListAliases": (api.ListAliases, self._list_aliases),
            "ListKeys": (api.ListKeys, self._list_keys),
        }

    def handle(self, action: str, body: bytes, principal: Principal) -> dict[str, Any]:
        """Carry out one call of an authenticated principal.

        Raises:
            ServiceError: the call was refused; nothing has changed but the record of it.
        """
        if action not in self._actions:
            raise ServiceError("UnknownOperationException", f"This emulator has no action {action[:80]!r}")
        kind, method = self._actions[action]
        call = _Call(action, principal)
        request: Any = None
        try:
            request = api.decode(body, kind)
            with self._store.transaction():
                self._store.delete_due(self._clock.now_ms())
                answer = method(call, request)
                self._record(call, request, answer, None)
        except ServiceError as error:
            with self._store.transaction():
                self._record(call, request, {}, error)
            raise
        return answer

    # Keys

    def _create_key(self, call: _Call, request: api.CreateKey) -> dict[str, Any]:
        if request.multi_region:
            raise ServiceError("UnsupportedOperationException", "This emulator has single-Region keys only")
        text = request.policy if request.policy is not None else self._default_policy()
        key_id = str(uuid.uuid4())
        call.key_arn = self._arn(key_id)
        self._check_new_policy(call, text, request.bypass_policy_lockout_safety_check)
        now = self._clock.now_ms()
        key = KeyRecord(key_id, secrets.token_bytes(32), text, _ENABLED, request.description, now, None)
        self._store.add_key(key)
        return {"KeyMetadata": self._metadata(key)}

    def _describe_key(self, call: _Call, request: api.KeyOnly) -> dict[str, Any]:
        return {"KeyMetadata": self._metadata(self._allowed(call, request.key_id))}

    def _put_key_policy(self, call: _Call, request: api.PutKeyPolicy) -> dict[str, Any]:
        bypass = request.bypass_policy_lockout_safety_check
        key = self._allowed(call, request.key_id, {"kms:bypasspolicylockoutsafetycheck": str(bypass).lower()})
        self._check_new_policy(call, request.policy, bypass)
        if key.state == _PENDING:
            raise _invalid_state(call, key)
        self._store.set_policy(key.key_id, request.policy)
        return {}

    def _get_key_policy(self, call: _Call, request: api.GetKeyPolicy) -> dict[str, Any]:
        return {"Policy": self._allowed(call, request.key_id).policy, "PolicyName": "default"}

    def _enable_key(self, call: _Call, request: api.KeyOnly) -> dict[str, Any]:
        return self._change_state(call, request.key_id, _ENABLED)

    def _disable_key(self, call: _Call, request: api.KeyOnly) -> dict[str, Any]:
        return self._change_state(call, request.key_id, _DISABLED)

    def _change_state(self, call: _Call, key_id: str, state: str) -> dict[str, Any]:
        key = self._allowed(call, key_id)
        if key.state == _PENDING:
            raise _invalid_state(call, key)
        self._store.set_state(key.key_id, state, None)
        return {}

    def _schedule_key_deletion(self, call: _Call, request: api.ScheduleKeyDeletion) -> dict[str, Any]:
        key = self._allowed(call, request.key_id)
        if key.state == _PENDING:
            raise _invalid_state(call, key)
        deletion = self._clock.now_ms() + request.pending_window_in_days * _DAY_MS
        self._store.set_state(key.key_id, _PENDING, deletion)
        return {
            "KeyId": call.key_arn,
            "DeletionDate": deletion / 1000,
            "KeyState": _PENDING,
            "PendingWindowInDays": request.pending_window_in_days,
        }

    def _list_keys(self, call: _Call, request: api.ListKeys) -> dict[str, Any]:
        found = self._store.key_ids(request.marker, request.limit + 1)
        page = found[: request.limit]
        keys = [{"KeyId": key_id, "KeyArn": self._arn(key_id)} for key_id in page]
        return {"Keys": keys, **_next_marker(page, found)}

    # Cryptography

    def _encrypt(self, call: _Call, request: api.Encrypt) -> dict[str, Any]:
        key = self._usable(call, request.key_id, request.encryption_context)
        blob = _ciphertext.encrypt(key.key_id, key.material, request.plaintext, request.encryption_context)
        return {"CiphertextBlob": _base64(blob), "KeyId": call.key_arn, "EncryptionAlgorithm": _ALGORITHM}

    def _decrypt(self, call: _Call, request: api.Decrypt) -> dict[str, Any]:
        self._verify_recipient(call, request.recipient)
        made_by = _ciphertext.key_id_of(request.ciphertext_blob)
        if self._store.key(made_by) is None:
            raise ServiceError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this "
                "region, or you are not allowed to access.",
            )
        if request.key_id is not None and self._resolve(call, request.key_id) != made_by:
            raise ServiceError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a key that can perform this operation.",
            )
        key = self._usable(call, made_by, request.encryption_context)
        plaintext = _ciphertext.decrypt(request.ciphertext_blob, key.material, request.encryption_context)
        answer = {"KeyId": call.key_arn, "EncryptionAlgorithm": _ALGORITHM}
        return answer | self._to_caller(call, plaintext)

    def _generate_data_key(self, call: _Call, request: api.GenerateDataKey) -> dict[str, Any]:
        self._verify_recipient(call, request.recipient)
        plaintext, answer = self._new_data_key(call, request)
        return answer | self._to_caller(call, plaintext)

    def _generate_data_key_without_plaintext(
        self, call: _Call, request: api.GenerateDataKeyWithoutPlaintext
    ) -> dict[str, Any]:
        return self._new_data_key(call, request)[1]

    def _new_data_key(
        self, call: _Call, request: api.GenerateDataKeyWithoutPlaintext
    ) -> tuple[bytes, dict[str, Any]]:
        plaintext = secrets.token_bytes(request.size())
        key = self._usable(call, request.key_id, request.encryption_context)
        blob = _ciphertext.encrypt(key.key_id, key.material, plaintext, request.encryption_context)
        return plaintext, {"CiphertextBlob": _base64(blob), "KeyId": call.key_arn}

    def _generate_random(self, call: _Call, request: api.GenerateRandom) -> dict[str, Any]:
        self._verify_recipient(call, request.recipient)
        return self._to_caller(call, secrets.token_bytes(request.number_of_bytes))

    # Aliases

    def _create_alias(self, call: _Call, request: api.CreateAlias) -> dict[str, Any]:
        key = self._allowed(call, request.target_key_id)
        if request.alias_name.startswith("alias/aws/"):
            raise ServiceError("InvalidAliasNameException", "Names under alias/aws/ are AWS's own")
        if not self._store.add_alias(request.alias_name, key.key_id, self._clock.now_ms()):
            raise ServiceError("AlreadyExistsException", f"An alias {request.alias_name} already exists")
        return {}

    def _delete_alias(self, call: _Call, request: api.DeleteAlias) -> dict[str, Any]:
        self._allowed(call, request.alias_name)
        self._store.delete_alias(request.alias_name)
        return {}

    def _list_aliases(self, call: _Call, request: api.ListAliases) -> dict[str, Any]:
        key_id = None if request.key_id is None else self._resolve(call, request.key_id)
        found = self._store.aliases(key_id, request.marker, request.limit + 1)
        page = found[: request.limit]
        aliases = [
            {
                "AliasName": name,
                "AliasArn": self._arn(name, kind=""),
                "TargetKeyId": target,
                "CreationDate": created / 1000,
                "LastUpdatedDate": created / 1000,
            }
            for name, target, created in page
        ]
        return {"Aliases": aliases, **_next_marker([row[0] for row in page], found)}

    # What every action needs

    def _resolve(self, call: _Call, name: str) -> str:
        """Return the key id that an id, ARN, alias or alias's ARN names, and note it in the call."""
        prefix = f"arn:aws:kms:{self._region}:{self._account}:"
        local = name.removeprefix(prefix)
        key_id = self._store.alias(local) if local.startswith("alias/") else local.removeprefix("key/")
        if key_id is None or self._store.key(key_id) is None:
            # Names that the caller sent, cut: KMS quotes them too.
            raise ServiceError("NotFoundException", f"Key {name[:200]!r} does not exist")
        call.key_arn = self._arn(key_id)
        return key_id

    def _allowed(self, call: _Call, name: str, conditions: Mapping[str, str] | None = None) -> KeyRecord:
        """Return the key if its policy allows the call."""
        key = self._store.key(self._resolve(call, name))
        if key is None:
            raise AssertionError("a resolved key exists")
        decision = evaluate(
            Policy.parse(key.policy),
            principal=call.principal,
            action=call.action,
            resource=self._arn(key.key_id),
            context=self._conditions(call, conditions or {}),
        )
        if decision is not Decision.ALLOW:
            raise self._denied(call, decision)
        return key

    def _usable(self, call: _Call, name: str, context: Mapping[str, str]) -> KeyRecord:
        """Return the key if its policy allows this use of it and it is enabled."""
        conditions = {f"kms:encryptioncontext:{key.lower()}": value for key, value in context.items()}
        if len(conditions) != len(context):
            # Condition keys have no case, so a policy could not tell these two entries apart.
            raise ServiceError(
                "ValidationException", "Two keys of the encryption context differ in case only"
            )
        key = self._allowed(call, name, {**conditions, "kms:encryptionalgorithm": _ALGORITHM})
        if key.state == _DISABLED:
            raise ServiceError("DisabledException", f"{call.key_arn} is disabled.")
        if key.state != _ENABLED:
            raise _invalid_state(call, key)
        return key

    def _conditions(self, call: _Call, own: Mapping[str, str]) -> dict[str, str]:
        recipient = call.recipient.conditions if call.recipient is not None else {}
        return {
            "aws:principalarn": call.principal.arn,
            "aws:principalaccount": call.principal.account,
            "aws:securetransport": "true",
            "kms:calleraccount": call.principal.account,
            "kms:keyorigin": "AWS_KMS",
            "kms:keyspec": _ALGORITHM,
            "kms:keyusage": "ENCRYPT_DECRYPT",
            "kms:multiregion": "false",
            **own,
            **recipient,
        }

    def _verify_recipient(self, call: _Call, recipient: api.Recipient | None) -> None:
        if recipient is not None:
            call.recipient = verify_recipient(
                recipient.attestation_document, self._roots, now_ms=self._clock.now_ms()
            )

    @staticmethod
    def _to_caller(call: _Call, plaintext: bytes) -> dict[str, Any]:
        if call.recipient is None:
            return {"Plaintext": _base64(plaintext)}
        return {"CiphertextForRecipient": _base64(encrypt_to(call.recipient, plaintext))}

    def _check_new_policy(self, call: _Call, text: str, bypass: bool) -> None:
        policy = Policy.parse(text)
        if bypass:
            return
        decision = evaluate(
            policy,
            principal=call.principal,
            action="PutKeyPolicy",
            resource=call.key_arn or "",
            context=self._conditions(call, {"kms:bypasspolicylockoutsafetycheck": "false"}),
        )
        if decision is not Decision.ALLOW:
            raise ServiceError(
                "MalformedPolicyDocumentException",
                "The new key policy will not allow you to update the key policy in the future.",
            )

    def _default_policy(self) -> str:
        statement = {
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{self._account}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
        return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]})

    def _denied(self, call: _Call, decision: Decision) -> ServiceError:
        why = (
            "with an explicit deny in a resource-based policy"
            if decision is Decision.DENY
            else f"because no resource-based policy allows the kms:{call.action} action"
        )
        return ServiceError(
            "AccessDeniedException",
            f"User: {call.principal.arn} is not authorized to perform: kms:{call.action} on resource: "
            f"{call.key_arn} {why}",
        )

    def _arn(self, name: str, *, kind: str = "key/") -> str:
        return f"arn:aws:kms:{self._region}:{self._account}:{kind}{name}"

    def _metadata(self, key: KeyRecord) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "AWSAccountId": self._account,
            "KeyId": key.key_id,
            "Arn": self._arn(key.key_id),
            "CreationDate": key.created_ms / 1000,
            "Enabled": key.state == _ENABLED,
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": key.state,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": _ALGORITHM,
            "KeySpec": _ALGORITHM,
            "EncryptionAlgorithms": [_ALGORITHM],
            "MultiRegion": False,
        }
        if key.deletion_ms is not None:
            metadata["DeletionDate"] = key.deletion_ms / 1000
        return metadata

    def _record(
        self, call: _Call, request: Any, answer: Mapping[str, Any], error: ServiceError | None
    ) -> None:
        """Record the call in CloudTrail's form; no plaintext, no ciphertext, no document."""
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        record: dict[str, Any] = {
            "eventVersion": "1.11",
            "userIdentity": {"arn": call.principal.arn, "accountId": call.principal.account},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": "kms.amazonaws.com",
            "eventName": call.action,
            "awsRegion": self._region,
            "requestParameters": _loggable(request),
            "responseElements": None,
            "eventID": str(uuid.uuid4()),
            "resources": [],
        }
        if call.key_arn is not None:
            record["resources"] = [{"accountId": self._account, "type": "AWS::KMS::Key", "ARN": call.key_arn}]
        if call.recipient is not None:
            digest = call.recipient.conditions.get("kms:recipientattestation:imagesha384", "")
            record["additionalEventData"] = {"recipient": {"attestationDocumentEnclaveImageDigest": digest}}
        if "KeyMetadata" in answer:
            metadata = answer["KeyMetadata"]
            record["responseElements"] = {"keyMetadata": {"arn": metadata["Arn"], "keyId": metadata["KeyId"]}}
        if error is not None:
            record["errorCode"] = error.kind.removesuffix("Exception")
            record["errorMessage"] = error.message
        self._store.add_event(record, keep=call.action in _KEPT_EVENTS and error is None)


_LOGGED = {
    "alias_name": "aliasName",
    "bypass_policy_lockout_safety_check": "bypassPolicyLockoutSafetyCheck",
    "description": "description",
    "encryption_context": "encryptionContext",
    "key_id": "keyId",
    "key_spec": "keySpec",
    "key_usage": "keyUsage",
    "multi_region": "multiRegion",
    "number_of_bytes": "numberOfBytes",
    "origin": "origin",
    "pending_window_in_days": "pendingWindowInDays",
    "policy": "policy",
    "policy_name": "policyName",
    "target_key_id": "targetKeyId",
}
"""Members that a record may repeat. A list of what may, not of what may not: a new member stays out by itself."""


def _loggable(request: Any) -> dict[str, Any]:
    found = {shown: getattr(request, name, None) for name, shown in _LOGGED.items()}
    return {name: value for name, value in found.items() if value is not None}


def _invalid_state(call: _Call, key: KeyRecord) -> ServiceError:
    return ServiceError("KMSInvalidStateException", f"{call.key_arn} is {key.state}.")


def _next_marker(page: list[str], found: list[Any]) -> dict[str, Any]:
    if len(found) == len(page):
        return {"Truncated": False}
    return {"Truncated": True, "NextMarker": page[-1]}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
