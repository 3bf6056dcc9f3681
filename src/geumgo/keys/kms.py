"""The client of AWS KMS (and of its emulator): JSON 1.1, SigV4, TLS ended here.

It works inside an enclave, where a byte stream is all there is: no HTTP library, no sockets of its own. With
`recipient` it asks KMS to encrypt the answer to a key that an attestation document vouches for
(KMS "Recipient" of Decrypt, GenerateDataKey and GenerateRandom). Nothing here retries: an error says whether
a retry can help.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from geumgo._base import Clock
from geumgo.keys._http import Response, encode_request, read_response
from geumgo.keys._kms_errors import error_from
from geumgo.keys._sigv4 import Credentials, sign
from geumgo.keys._stream import Dial
from geumgo.keys._tls import TlsStream, client_context
from geumgo.keys.errors import KmsError
from geumgo.keys.recipient import open_ciphertext_for_recipient

__all__ = ("CALL_TIMEOUT", "MAX_REQUEST", "KmsClient", "Recipient")

CALL_TIMEOUT = 10.0
"""Seconds for one call with its connection and handshake; KMS answers in a tenth of a second."""

MAX_REQUEST = 128 << 10
"""Bytes of a request: a key policy of 32 KiB, or a document of 16 KiB, escaped."""

CREDENTIALS_MARGIN_MS = 10_000
"""Credentials that run out within this time are not worth a call."""

_RECIPIENT_ALGORITHM = "RSAES_OAEP_SHA_256"

Recipient = Callable[[], Awaitable[tuple[bytes, RSAPrivateKey]]]
"""Makes an attestation document and the RSA key whose public half is in it."""


class KmsClient:
    """Calls the key service at one endpoint.

    Args:
        endpoint: ``https://host[:port]``.
        region: the region in the signature.
        ca_pem: the only authorities to trust; None or empty for the system's.
        credentials: asked before each call.
        dial: opens a byte stream to the endpoint's host.
        clock: the time in signatures.
        recipient: where given, plaintext comes encrypted to its key and in no other way.
        timeout: seconds for one call.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        region: str,
        ca_pem: str | None,
        credentials: Callable[[], Awaitable[Credentials]],
        dial: Dial,
        clock: Clock,
        recipient: Recipient | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        self._host, self._port, self._authority = _split_endpoint(endpoint)
        self._region = region
        self._context = client_context(ca_pem)
        self._credentials = credentials
        self._dial = dial
        self._clock = clock
        self._recipient = recipient
        self._timeout = timeout

    def __repr__(self) -> str:
        attested = "attested" if self._recipient is not None else "not attested"
        return f"KmsClient({self._authority}, {self._region}, {attested})"

    async def call(self, action: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Make one call.

        Args:
            action: ``Decrypt`` and so on.
            payload: the JSON object to send; values of type bytes become base64.

        Returns:
            The JSON object that KMS answered.

        Raises:
            KmsError: see its codes.
        """
        try:
            body = msgspec.json.encode(payload)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise KmsError(
                f"a call's payload is not JSON ({type(error).__name__})", code="invalid_kms_request"
            ) from None
        if len(body) > MAX_REQUEST:
            raise KmsError(f"a call of {len(body)} bytes is over the limit", code="invalid_kms_request")
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._exchange(action, body)
        except TimeoutError:
            raise KmsError(
                f"the key service did not answer {action} within {self._timeout:g} s",
                code="kms_timeout",
                retryable=True,
            ) from None
        if response.status != 200:
            raise error_from(action, response.status, response.body)
        return _json_object(response.body)

    async def decrypt(
        self, ciphertext: bytes, *, key_id: str, context: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the plaintext of a CiphertextBlob.

        Raises:
            KmsError: also ``kms_key_mismatch`` where KMS used another key than `key_id`.
        """
        payload = {"CiphertextBlob": ciphertext, "KeyId": key_id, "EncryptionContext": dict(context or {})}
        answer, private = await self._call_with_recipient("Decrypt", payload)
        _check_key(answer, key_id)
        return _plaintext(answer, private)

    async def generate_data_key(
        self, key_id: str, context: Mapping[str, str] | None = None
    ) -> tuple[bytes, bytes]:
        """Return a new 32-byte key and the same wrapped under `key_id`."""
        payload = {"KeyId": key_id, "KeySpec": "AES_256", "EncryptionContext": dict(context or {})}
        answer, private = await self._call_with_recipient("GenerateDataKey", payload)
        _check_key(answer, key_id)
        plaintext = _plaintext(answer, private)
        if len(plaintext) != 32:
            raise _unexpected("a data key of another length")
        return plaintext, _blob(answer, "CiphertextBlob")

    async def generate_random(self, size: int) -> bytes:
        """Return `size` random bytes, 1 to 1024, made by the key service."""
        answer, private = await self._call_with_recipient("GenerateRandom", {"NumberOfBytes": size})
        plaintext = _plaintext(answer, private)
        if len(plaintext) != size:
            raise _unexpected("another number of random bytes")
        return plaintext

    async def generate_data_key_without_plaintext(
        self, key_id: str, context: Mapping[str, str] | None = None
    ) -> bytes:
        """Return a new 32-byte key wrapped under `key_id`; nobody has seen it."""
        payload = {"KeyId": key_id, "KeySpec": "AES_256", "EncryptionContext": dict(context or {})}
        answer = await self.call("GenerateDataKeyWithoutPlaintext", payload)
        _check_key(answer, key_id)
        return _blob(answer, "CiphertextBlob")

    async def encrypt(
        self, plaintext: bytes, *, key_id: str, context: Mapping[str, str] | None = None
    ) -> bytes:
        """Return `plaintext` (at most 4096 bytes) encrypted under `key_id`."""
        payload = {"KeyId": key_id, "Plaintext": plaintext, "EncryptionContext": dict(context or {})}
        answer = await self.call("Encrypt", payload)
        _check_key(answer, key_id)
        return _blob(answer, "CiphertextBlob")

    async def create_key(self, policy: str, *, description: str = "") -> str:
        """Make a symmetric, single-Region key of origin AWS_KMS under `policy`; return its ARN.

        The lockout safety check is bypassed: the policies of a pool lock everyone out on purpose.
        """
        answer = await self.call(
            "CreateKey",
            {
                "Policy": policy,
                "Description": description,
                "Origin": "AWS_KMS",
                "MultiRegion": False,
                "KeySpec": "SYMMETRIC_DEFAULT",
                "KeyUsage": "ENCRYPT_DECRYPT",
                "BypassPolicyLockoutSafetyCheck": True,
            },
        )
        return _text(_object(answer, "KeyMetadata"), "Arn")

    async def describe_key(self, key_id: str) -> dict[str, Any]:
        """Return KeyMetadata."""
        return _object(await self.call("DescribeKey", {"KeyId": key_id}), "KeyMetadata")

    async def put_key_policy(self, key_id: str, policy: str, *, bypass_lockout_check: bool = False) -> None:
        """Replace the key's policy."""
        await self.call(
            "PutKeyPolicy",
            {
                "KeyId": key_id,
                "PolicyName": "default",
                "Policy": policy,
                "BypassPolicyLockoutSafetyCheck": bypass_lockout_check,
            },
        )

    async def get_key_policy(self, key_id: str) -> str:
        """Return the key's policy, JSON text."""
        return _text(await self.call("GetKeyPolicy", {"KeyId": key_id, "PolicyName": "default"}), "Policy")

    async def create_alias(self, alias: str, key_id: str) -> None:
        """Give the key a name that begins with ``alias/``."""
        await self.call("CreateAlias", {"AliasName": alias, "TargetKeyId": key_id})

    async def _call_with_recipient(
        self, action: str, payload: dict[str, Any]
    ) -> tuple[dict[str, Any], RSAPrivateKey | None]:
        if self._recipient is None:
            return await self.call(action, payload), None
        document, private = await self._recipient()
        recipient = {"KeyEncryptionAlgorithm": _RECIPIENT_ALGORITHM, "AttestationDocument": document}
        return await self.call(action, {**payload, "Recipient": recipient}), private

    async def _exchange(self, action: str, body: bytes) -> Response:
        credentials = await self._fresh_credentials()
        headers = sign(
            host=self._authority,
            target=f"TrentService.{action}",
            body=body,
            credentials=credentials,
            region=self._region,
            service="kms",
            now_ms=self._clock.now_ms(),
        )
        request = encode_request(headers, body)
        try:
            stream = await self._dial(self._host, self._port)
            try:
                tls = TlsStream(stream, self._context, self._host)
                await tls.handshake()
                await tls.send(request)
                return await read_response(tls)
            finally:
                await stream.aclose()
        except TimeoutError:
            raise
        except OSError as error:
            raise KmsError(
                f"the connection to the key service broke ({type(error).__name__})", retryable=True
            ) from None

    async def _fresh_credentials(self) -> Credentials:
        credentials = await self._credentials()
        expires = credentials.expires_ms
        if expires is not None and expires - CREDENTIALS_MARGIN_MS <= self._clock.now_ms():
            raise KmsError(
                "the AWS credentials have expired",
                fix="The parent hands over new ones; try again when it has.",
                code="credentials_expired",
                retryable=True,
            )
        return credentials


def _split_endpoint(endpoint: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if (
        parts.scheme != "https"
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or "@" in parts.netloc
    ):
        raise KmsError("the key service's endpoint must be https://host[:port]", code="invalid_kms_request")
    name = f"[{host}]" if ":" in host else host
    return host, port or 443, name if port in (None, 443) else f"{name}:{port}"


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise _unexpected("something else than a JSON object") from None


def _check_key(answer: Mapping[str, Any], key_id: str) -> None:
    """Compare KeyId with the one asked for: a swapped wrapped key must not pass for the measured one.

    KMS answers with the ARN. Where the caller named the bare id, it must be the ARN's end.
    """
    used = _text(answer, "KeyId")
    if used != key_id and (key_id.startswith("arn:") or used.rpartition("/")[2] != key_id):
        raise KmsError(
            "the key service used another key than the one asked for",
            why="The wrapped key was exchanged for one under another key.",
            code="kms_key_mismatch",
        )


def _plaintext(answer: Mapping[str, Any], private: RSAPrivateKey | None) -> bytes:
    if private is None:
        return _blob(answer, "Plaintext")
    if answer.get("Plaintext"):
        raise KmsError(
            "the key service answered in plaintext although it was asked to encrypt to the enclave",
            fix="The endpoint does not honour Recipient; use AWS KMS or Geumgo's emulator.",
            code="kms_protocol",
        )
    return open_ciphertext_for_recipient(_blob(answer, "CiphertextForRecipient"), private)


def _object(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = answer.get(name)
    if not isinstance(value, dict):
        raise _unexpected(f"no {name}")
    return value


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise _unexpected(f"no {name}")
    return value


def _blob(answer: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_text(answer, name), validate=True)
    except (binascii.Error, ValueError):
        raise _unexpected(f"a {name} that is not base64") from None


def _unexpected(what: str) -> KmsError:
    return KmsError(f"the key service answered {what}", code="kms_protocol")
