"""Check Signature Version 4: who calls, and that nothing of the request was changed.

Source: AWS "Signature Version 4", and KMS's limit of five minutes on a clock's difference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from geumgo.keys._sigv4 import ALGORITHM, amz_date, canonical_request, signature
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._evaluate import Principal

__all__ = ("MAX_SKEW_MS", "Identity", "verify_signature")

MAX_SKEW_MS = 300_000
"""How far a signature's time may be from ours, AWS's five minutes."""

SERVICE = "kms"

_AUTHORIZATION = re.compile(
    ALGORITHM + r" +Credential=([^,\s/]{1,128})/([0-9]{8})/([^,\s/]{1,32})/([^,\s/]{1,32})/aws4_request,? *"
    r"SignedHeaders=([a-z0-9;-]{1,512}),? *Signature=([0-9a-f]{64})",
    re.ASCII,
)
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """Someone who may call: AWS credentials and the principal that they stand for."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None
    principal: Principal

    def __repr__(self) -> str:
        return f"Identity({self.access_key_id!r}, {self.principal.arn!r})"


def verify_signature(
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    path: str,
    query: str,
    identities: Mapping[str, Identity],
    region: str,
    now_ms: int,
) -> Principal:
    """Return who signed the request.

    Args:
        headers: lower-case name → value, each name once.
        body: the whole body.
        method, path, query: of the request line.
        identities: access key id → identity.
        region: the region that the credential scope must name.
        now_ms: our time.

    Raises:
        ServiceError: by AWS's names for what is wrong.
    """
    authorization = headers.get("authorization")
    if authorization is None:
        raise ServiceError("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(authorization)
    date = headers.get("x-amz-date", "")
    if match is None or _DATE.fullmatch(date) is None:
        raise ServiceError(
            "IncompleteSignatureException", "Authorization must be AWS4-HMAC-SHA256 and x-amz-date be present"
        )
    access_key_id, day, scope_region, service, names, given = match.groups()
    identity = identities.get(access_key_id)
    if identity is None or identity.session_token != headers.get("x-amz-security-token"):
        raise ServiceError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    _check_scope(day, scope_region, service, date=date, region=region)
    signed = tuple(names.split(";"))
    _check_signed_names(signed, headers)
    payload = hashlib.sha256(body).hexdigest()
    if headers.get("x-amz-content-sha256", payload) != payload:
        raise _wrong("The body is not the one whose SHA-256 was signed.")
    canonical = canonical_request(method, path, query, headers, signed, payload)
    scope = f"{day}/{scope_region}/{service}/aws4_request"
    expected = signature(identity.secret_access_key, date, scope, canonical)
    if not hmac.compare_digest(expected, given):
        raise _wrong(
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method."
        )
    _check_time(date, now_ms)
    return identity.principal


def _check_scope(day: str, scope_region: str, service: str, *, date: str, region: str) -> None:
    if day != date[:8]:
        raise _wrong("Date in Credential scope does not match the one of x-amz-date.")
    if scope_region != region:
        raise _wrong(
            f"Credential should be scoped to a valid region, not {scope_region!r}; this one is {region!r}."
        )
    if service != SERVICE:
        raise _wrong(f"Credential should be scoped to correct service: {SERVICE!r}.")


def _check_signed_names(signed: tuple[str, ...], headers: Mapping[str, str]) -> None:
    if list(signed) != sorted(set(signed)) or not set(signed) <= headers.keys():
        raise _wrong("SignedHeaders must be names of headers that are there, sorted.")
    must = {"host"} | {name for name in headers if name.startswith("x-amz-")}
    if not must <= set(signed):
        raise _wrong(f"{min(must - set(signed))!r} must be a signed header.")


def _check_time(date: str, now_ms: int) -> None:
    try:
        signed_ms = int(datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise ServiceError("IncompleteSignatureException", "x-amz-date is not a time") from None
    now = amz_date(now_ms)
    if signed_ms < now_ms - MAX_SKEW_MS:
        oldest = amz_date(now_ms - MAX_SKEW_MS)
        raise _wrong(f"Signature expired: {date} is now earlier than {oldest} ({now} - 5 min.)")
    if signed_ms > now_ms + MAX_SKEW_MS:
        newest = amz_date(now_ms + MAX_SKEW_MS)
        raise _wrong(f"Signature not yet current: {date} is still later than {newest} ({now} + 5 min.)")


def _wrong(message: str) -> ServiceError:
    return ServiceError("InvalidSignatureException", message)
