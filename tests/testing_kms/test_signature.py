"""Signature checks: botocore's signatures are good, everything changed is not."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.keys._sigv4 import amz_date
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._evaluate import Principal
from geumgo.testing.kms._signature import MAX_SKEW_MS, Identity, verify_signature

NOW = 1_800_000_000_000
USER = Principal("arn:aws:iam::111122223333:user/ada")
ROLE = Principal("arn:aws:sts::111122223333:assumed-role/parent/i")
IDENTITIES = {
    "AKIDUSER": Identity("AKIDUSER", "usersecret", None, USER),
    "ASIAROLE": Identity("ASIAROLE", "rolesecret", "token", ROLE),
}
BODY = b'{"KeyId":"x"}'


def signed(
    access: str = "AKIDUSER", secret: str = "usersecret", token: str | None = None, **changes: Any
) -> dict[str, str]:
    request = AWSRequest(
        "POST",
        "https://localhost:8443/",
        data=changes.get("body", BODY),
        headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.DescribeKey"},
    )
    signer: Any = SigV4Auth(
        Credentials(access, secret, token),
        changes.get("service", "kms"),
        changes.get("region", "ap-northeast-2"),
    )
    request.context["timestamp"] = amz_date(changes.get("now_ms", NOW))
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signer._inject_signature_to_request(
        request, signer.signature(signer.string_to_sign(request, canonical), request)
    )
    headers = {name.lower(): str(value) for name, value in request.headers.items()}
    return {"host": "localhost:8443", **headers}


def check(headers: dict[str, str], body: bytes = BODY, **changes: Any) -> Principal:
    arguments: dict[str, Any] = {
        "method": "POST",
        "path": "/",
        "query": "",
        "identities": IDENTITIES,
        "region": "ap-northeast-2",
        "now_ms": NOW,
    }
    return verify_signature(headers, body, **{**arguments, **changes})


def refused(headers: dict[str, str], body: bytes = BODY, **changes: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        check(headers, body, **changes)
    return caught.value


def test_botocores_signatures_are_good() -> None:
    assert check(signed()) == USER
    assert check(signed("ASIAROLE", "rolesecret", "token")) == ROLE


@pytest.mark.parametrize("skew", [0, MAX_SKEW_MS, -MAX_SKEW_MS])
def test_skew_within_five_minutes(skew: int) -> None:
    assert check(signed(now_ms=NOW + skew)) == USER


@pytest.mark.parametrize(("skew", "says"), [(-301_000, "Signature expired"), (301_000, "not yet current")])
def test_skew_beyond(skew: int, says: str) -> None:
    error = refused(signed(now_ms=NOW + skew))
    assert error.kind == "InvalidSignatureException"
    assert says in error.message


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        pytest.param(signed(secret="other"), "InvalidSignatureException", id="another secret"),
        pytest.param(signed("AKIDNOBODY"), "UnrecognizedClientException", id="an unknown key"),
        pytest.param(signed("ASIAROLE", "rolesecret"), "UnrecognizedClientException", id="no token"),
        pytest.param(
            signed("ASIAROLE", "rolesecret", "x"), "UnrecognizedClientException", id="another token"
        ),
        pytest.param(signed(token="token"), "UnrecognizedClientException", id="a token too many"),
        pytest.param(signed(region="us-east-1"), "InvalidSignatureException", id="another region"),
        pytest.param(signed(service="s3"), "InvalidSignatureException", id="another service"),
        pytest.param({}, "MissingAuthenticationTokenException", id="nothing"),
        pytest.param({"authorization": "Basic YTpi"}, "IncompleteSignatureException", id="another scheme"),
        pytest.param(
            {**signed(), "x-amz-date": "now"}, "IncompleteSignatureException", id="a date that is none"
        ),
        pytest.param(
            {**signed(), "x-amz-date": "20279999T999999Z"},
            "InvalidSignatureException",
            id="an impossible date",
        ),
        pytest.param(
            {**signed(), "x-amz-extra": "1"}, "InvalidSignatureException", id="an unsigned x-amz header"
        ),
        pytest.param(
            {**signed(), "x-amz-content-sha256": "0" * 64},
            "InvalidSignatureException",
            id="another body's hash",
        ),
        pytest.param(
            {n: v for n, v in signed().items() if n != "x-amz-target"},
            "InvalidSignatureException",
            id="a signed header that is missing",
        ),
    ],
)
def test_refused(headers: dict[str, str], kind: str) -> None:
    error = refused(headers)
    assert error.kind == kind
    assert "secret" not in error.message.lower().replace("secret access key", "")


def test_anything_changed_is_noticed() -> None:
    headers = signed()
    assert refused(headers, BODY + b" ").kind == "InvalidSignatureException"
    for name in ("host", "x-amz-target", "x-amz-date"):
        error = refused({**headers, name: headers[name][:-1] + "X"})
        assert error.kind in ("InvalidSignatureException", "IncompleteSignatureException")
    for change in ({"method": "PUT"}, {"path": "/x"}, {"query": "a=b"}):
        assert refused(headers, **change).kind == "InvalidSignatureException"


def test_headers_must_be_listed_once_and_sorted() -> None:
    headers = signed()
    listed = headers["authorization"].split("SignedHeaders=")[1].split(",")[0]
    for changed in (
        ";".join(reversed(listed.split(";"))),
        listed + ";" + listed,
        listed.replace("host;", ""),
    ):
        error = refused({**headers, "authorization": headers["authorization"].replace(listed, changed)})
        assert error.kind == "InvalidSignatureException"


@settings(max_examples=200)
@given(
    authorization=st.text(max_size=100)
    | st.from_regex(r"AWS4-HMAC-SHA256 Credential=.*, SignedHeaders=.*, Signature=.*", fullmatch=True),
    date=st.text(max_size=20),
)
def test_garbage(authorization: str, date: str) -> None:
    refused({"host": "localhost", "authorization": authorization, "x-amz-date": date})


def test_identities_do_not_show_their_secret() -> None:
    shown = repr(IDENTITIES)
    assert "usersecret" not in shown
    assert "'token'" not in shown
