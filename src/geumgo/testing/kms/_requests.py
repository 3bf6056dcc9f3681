"""What callers send, one type an action. A member that is not listed is refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from geumgo.testing.kms._errors import ServiceError

__all__ = (
    "CreateAlias",
    "CreateKey",
    "Decrypt",
    "DeleteAlias",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateRandom",
    "GetKeyPolicy",
    "KeyOnly",
    "ListAliases",
    "ListKeys",
    "PutKeyPolicy",
    "Recipient",
    "ScheduleKeyDeletion",
    "decode",
)

MAX_CONTEXT = 64
"""Entries of an encryption context; KMS bounds it by 8 KiB of the whole request instead."""

KeyId = Annotated[str, Meta(min_length=1, max_length=2048)]
AliasName = Annotated[str, Meta(pattern=r"^alias/[a-zA-Z0-9/_-]{1,250}\Z")]
Blob = Annotated[bytes, Meta(min_length=1, max_length=6144)]
Plaintext = Annotated[bytes, Meta(min_length=1, max_length=4096)]
Document = Annotated[bytes, Meta(min_length=1, max_length=262144)]
Context = Annotated[dict[str, str], Meta(max_length=MAX_CONTEXT)]
Algorithm = Literal["SYMMETRIC_DEFAULT"]
Limit = Annotated[int, Meta(ge=1, le=1000)]
RandomSize = Annotated[int, Meta(ge=1, le=1024)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    pass


class Recipient(_Request, frozen=True):
    attestation_document: Document
    key_encryption_algorithm: Literal["RSAES_OAEP_SHA_256"]


class CreateKey(_Request, frozen=True):
    policy: Annotated[str, Meta(min_length=1)] | None = None
    description: Annotated[str, Meta(max_length=8192)] = ""
    key_usage: Literal["ENCRYPT_DECRYPT"] = "ENCRYPT_DECRYPT"
    key_spec: Literal["SYMMETRIC_DEFAULT"] = "SYMMETRIC_DEFAULT"
    customer_master_key_spec: Literal["SYMMETRIC_DEFAULT"] = "SYMMETRIC_DEFAULT"
    origin: Literal["AWS_KMS"] = "AWS_KMS"
    multi_region: bool = False
    bypass_policy_lockout_safety_check: bool = False


class KeyOnly(_Request, frozen=True):
    """DescribeKey, EnableKey, DisableKey."""

    key_id: KeyId


class PutKeyPolicy(_Request, frozen=True):
    key_id: KeyId
    policy: Annotated[str, Meta(min_length=1)]
    policy_name: Literal["default"] = "default"
    bypass_policy_lockout_safety_check: bool = False


class GetKeyPolicy(_Request, frozen=True):
    key_id: KeyId
    policy_name: Literal["default"] = "default"


class ScheduleKeyDeletion(_Request, frozen=True):
    key_id: KeyId
    pending_window_in_days: Annotated[int, Meta(ge=7, le=30)] = 30


class Encrypt(_Request, frozen=True):
    key_id: KeyId
    plaintext: Plaintext
    encryption_context: Context = {}
    encryption_algorithm: Algorithm = "SYMMETRIC_DEFAULT"


class Decrypt(_Request, frozen=True):
    ciphertext_blob: Blob
    key_id: KeyId | None = None
    encryption_context: Context = {}
    encryption_algorithm: Algorithm = "SYMMETRIC_DEFAULT"
    recipient: Recipient | None = None


class GenerateDataKeyWithoutPlaintext(_Request, frozen=True):
    key_id: KeyId
    key_spec: Literal["AES_256", "AES_128"] | None = None
    number_of_bytes: RandomSize | None = None
    encryption_context: Context = {}

    def size(self) -> int:
        """Return the number of bytes of the data key."""
        if (self.key_spec is None) is (self.number_of_bytes is None):
            raise ServiceError("ValidationException", "Give exactly one of KeySpec and NumberOfBytes")
        return self.number_of_bytes or {"AES_256": 32, "AES_128": 16}[self.key_spec or ""]


class GenerateDataKey(GenerateDataKeyWithoutPlaintext, frozen=True):
    recipient: Recipient | None = None


class GenerateRandom(_Request, frozen=True):
    number_of_bytes: RandomSize
    recipient: Recipient | None = None


class CreateAlias(_Request, frozen=True):
    alias_name: AliasName
    target_key_id: KeyId


class DeleteAlias(_Request, frozen=True):
    alias_name: AliasName


class ListKeys(_Request, frozen=True):
    limit: Limit = 100
    marker: str = ""


class ListAliases(_Request, frozen=True):
    key_id: KeyId | None = None
    limit: Limit = 50
    marker: str = ""


_T = TypeVar("_T", bound=_Request)


def decode(body: bytes, kind: type[_T]) -> _T:
    """Return the request that `body` holds.

    Raises:
        ServiceError: ``ValidationException`` or ``SerializationException``; the text names members, never values.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise ServiceError("ValidationException", _without_values(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise ServiceError("SerializationException", "The body is not a JSON object") from None


def _without_values(text: str) -> str:
    # msgspec quotes an invalid enum's value; everything else that it says is names, types and bounds.
    return (
        text
        if not text.startswith("Invalid enum value")
        else f"Invalid value - at{text.rpartition(' - at')[2]}"
    )
