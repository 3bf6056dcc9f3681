"""AWS Signature Version 4 for JSON requests to KMS: one path, no query, the payload always hashed.

Source: AWS "Signature Version 4 signing process"; checked in tests against botocore's signer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ("ALGORITHM", "Credentials", "amz_date", "canonical_request", "sign", "signature")

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials; `expires_ms` where they are temporary."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires_ms: int | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key_id={self.access_key_id!r})"


def amz_date(now_ms: int) -> str:
    """Return the time as ``20261122T122337Z``."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, str], signed: tuple[str, ...], payload_hash: str
) -> str:
    """Return the canonical request.

    Args:
        method: HTTP method.
        path: canonical path.
        query: canonical query string.
        headers: lower-case name → value, with every name in `signed`.
        signed: lower-case names, sorted.
        payload_hash: hex SHA-256 of the body.
    """
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed)
    return f"{method}\n{path}\n{query}\n{lines}\n{';'.join(signed)}\n{payload_hash}"


def signature(secret: str, date: str, scope: str, canonical: str) -> str:
    """Return the hex signature of a canonical request.

    Args:
        secret: secret access key.
        date: ``20261122T122337Z``.
        scope: ``20261122/<region>/<service>/aws4_request``.
        canonical: result of `canonical_request`.
    """
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{date}\n{scope}\n{hashed}"
    key = b"AWS4" + secret.encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def sign(
    *, host: str, target: str, body: bytes, credentials: Credentials, region: str, service: str, now_ms: int
) -> dict[str, str]:
    """Return the headers of a signed POST to ``/``, lower-case names, without content-length."""
    date = amz_date(now_ms)
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": host,
        "x-amz-date": date,
        "x-amz-target": target,
    }
    if credentials.session_token is not None:
        headers["x-amz-security-token"] = credentials.session_token
    signed = tuple(sorted(headers))
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    canonical = canonical_request("POST", "/", "", headers, signed, hashlib.sha256(body).hexdigest())
    value = signature(credentials.secret_access_key, date, scope, canonical)
    headers["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={';'.join(signed)}, Signature={value}"
    )
    return headers
