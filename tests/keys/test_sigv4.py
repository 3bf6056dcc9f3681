"""Signature Version 4 against botocore's own signer."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.keys._sigv4 import Credentials, amz_date, sign

NOW = 1_800_000_123_456


def botocore_sign(
    *, host: str, target: str, body: bytes, credentials: Credentials, region: str, service: str, now_ms: int
) -> str:
    """Return the Authorization header that botocore makes of the same request at the same time."""
    request = AWSRequest(
        "POST",
        f"https://{host}/",
        data=body,
        headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target},
    )
    signer: Any = SigV4Auth(
        BotoCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token),
        service,
        region,
    )
    request.context["timestamp"] = amz_date(now_ms)
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signer._inject_signature_to_request(
        request, signer.signature(signer.string_to_sign(request, canonical), request)
    )
    return str(request.headers["Authorization"])


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=200),
    host=st.sampled_from(["localhost:8443", "kms.ap-northeast-2.amazonaws.com", "[::1]:8443"]),
    target=st.sampled_from(["TrentService.Decrypt", "TrentService.GenerateDataKey"]),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,80}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9+/]{40}", fullmatch=True),
    region=st.sampled_from(["ap-northeast-2", "us-east-1"]),
    now=st.integers(0, 4_000_000_000_000),
)
def test_same_as_botocore(
    body: bytes, host: str, target: str, token: str | None, secret: str, region: str, now: int
) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    request: dict[str, Any] = {
        "host": host,
        "target": target,
        "body": body,
        "credentials": credentials,
        "region": region,
        "service": "kms",
        "now_ms": now,
    }
    headers = sign(**request)
    # botocore signs the security token and leaves out nothing that we sign; order and spacing are its own.
    assert headers["authorization"] == botocore_sign(**request)
    assert headers["x-amz-date"] == amz_date(now)
    assert headers.get("x-amz-security-token") == token


def test_date() -> None:
    assert amz_date(NOW) == dt.datetime.fromtimestamp(NOW // 1000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    assert amz_date(0) == "19700101T000000Z"


@pytest.mark.parametrize("token", [None, "token"])
def test_credentials_do_not_show_their_secret(token: str | None) -> None:
    shown = repr(Credentials("AKID", "SECRET", token))
    assert "SECRET" not in shown
    assert "token" not in shown
