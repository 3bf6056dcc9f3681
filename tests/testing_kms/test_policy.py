"""Key policies: what is well formed, and what they allow, as IAM evaluates."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._evaluate import Decision, Principal, evaluate
from geumgo.testing.kms._policy import Policy
from geumgo.testing.kms._wildcard import wildcard_match

ACCOUNT = "111122223333"
USER = Principal(f"arn:aws:iam::{ACCOUNT}:user/ada")
SESSION = Principal(f"arn:aws:sts::{ACCOUNT}:assumed-role/parent/i-0123")
STRANGER = Principal("arn:aws:iam::444455556666:user/eve")
KEY = f"arn:aws:kms:ap-northeast-2:{ACCOUNT}:key/k"
PCR0 = "ab" * 48
ZERO = "00" * 48


def statement(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    return {name: value for name, value in {**base, **changes}.items() if value is not ...}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements or (statement(),))})


def decide(
    text: str, *, principal: Principal = USER, action: str = "Decrypt", context: dict[str, str] | None = None
) -> Decision:
    return evaluate(
        Policy.parse(text), principal=principal, action=action, resource=KEY, context=context or {}
    )


def allowed(operator: str, key: str, values: object, context: dict[str, str]) -> bool:
    return decide(policy(statement(Condition={operator: {key: values}})), context=context) is Decision.ALLOW


@pytest.mark.parametrize(
    ("principal", "who", "matches"),
    [
        pytest.param("*", STRANGER, True, id="everyone"),
        pytest.param({"AWS": "*"}, STRANGER, True, id="every AWS principal"),
        pytest.param({"AWS": ACCOUNT}, USER, True, id="the account's number"),
        pytest.param({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, USER, True, id="the account's root"),
        pytest.param({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, SESSION, True, id="the root, for a session"),
        pytest.param({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, STRANGER, False, id="the root, for a stranger"),
        pytest.param({"AWS": USER.arn}, USER, True, id="the user"),
        pytest.param({"AWS": USER.arn}, SESSION, False, id="the user, for another"),
        pytest.param({"AWS": f"arn:aws:iam::{ACCOUNT}:role/parent"}, SESSION, True, id="the session's role"),
        pytest.param({"AWS": SESSION.arn}, SESSION, True, id="the session"),
        pytest.param({"AWS": f"arn:aws:iam::{ACCOUNT}:role/other"}, SESSION, False, id="another role"),
        pytest.param({"AWS": [STRANGER.arn, USER.arn]}, USER, True, id="one of two"),
        pytest.param({"Service": "logs.amazonaws.com"}, USER, False, id="a service"),
    ],
)
def test_principals(principal: object, who: Principal, matches: bool) -> None:
    expected = Decision.ALLOW if matches else Decision.NOT_ALLOWED
    assert decide(policy(statement(Principal=principal)), principal=who) is expected


@pytest.mark.parametrize(
    ("action", "called", "matches"),
    [
        ("kms:Decrypt", "Decrypt", True),
        ("KMS:decrypt", "Decrypt", True),
        ("kms:*", "Decrypt", True),
        ("*", "Decrypt", True),
        ("kms:Generate*", "GenerateDataKeyWithoutPlaintext", True),
        ("kms:GenerateDataKey", "GenerateDataKeyWithoutPlaintext", False),
        ("kms:Describe???", "DescribeKey", True),
        (["kms:Encrypt", "kms:Decrypt"], "Decrypt", True),
        ("kms:Encrypt", "Decrypt", False),
    ],
)
def test_actions(action: object, called: str, matches: bool) -> None:
    expected = Decision.ALLOW if matches else Decision.NOT_ALLOWED
    assert decide(policy(statement(Action=action)), action=called) is expected


@pytest.mark.parametrize(
    ("resource", "matches"), [("*", True), (KEY, True), (KEY[:-1] + "*", True), (KEY + "x", False)]
)
def test_resources(resource: str, matches: bool) -> None:
    expected = Decision.ALLOW if matches else Decision.NOT_ALLOWED
    assert decide(policy(statement(Resource=resource))) is expected


def test_deny_wins() -> None:
    text = policy(statement(), statement(Effect="Deny", Principal={"AWS": USER.arn}))
    assert decide(text) is Decision.DENY
    assert decide(text, principal=SESSION) is Decision.ALLOW


IMAGE = "kms:RecipientAttestation:ImageSha384"
MATCHING = {"kms:recipientattestation:imagesha384": PCR0, "kms:recipientattestation:pcr0": PCR0}


@pytest.mark.parametrize(
    ("operator", "values", "context", "holds"),
    [
        pytest.param("StringEquals", PCR0, MATCHING, True, id="equal"),
        pytest.param("StringEquals", ["x", PCR0], MATCHING, True, id="one of two"),
        pytest.param("StringEquals", PCR0.upper(), MATCHING, False, id="upper case is another text"),
        pytest.param("StringEquals", "x", MATCHING, False, id="another"),
        pytest.param("StringEquals", PCR0, {}, False, id="absent"),
        pytest.param("StringEqualsIgnoreCase", PCR0.upper(), MATCHING, True, id="case ignored"),
        pytest.param("StringEqualsIgnoreCase", PCR0, {}, False, id="case ignored, absent"),
        pytest.param("StringNotEquals", "x", MATCHING, True, id="not equal"),
        pytest.param("StringNotEquals", PCR0, MATCHING, False, id="not equal, but is"),
        pytest.param("StringNotEquals", ["x", PCR0], MATCHING, False, id="none of two, but one is"),
        pytest.param("StringNotEquals", PCR0, {}, True, id="a negation holds of an absent key"),
        pytest.param("StringNotEqualsIgnoreCase", PCR0.upper(), MATCHING, False, id="negation, case ignored"),
        pytest.param("StringNotEqualsIgnoreCase", PCR0.upper(), {}, True, id="negation, absent"),
        pytest.param("StringLike", "ab*", MATCHING, True, id="like"),
        pytest.param("StringLike", "a?" * 48, MATCHING, True, id="like, character by character"),
        pytest.param("StringLike", "AB*", MATCHING, False, id="like minds case"),
        pytest.param("StringLike", "*", {}, False, id="like anything, absent"),
        pytest.param("StringNotLike", "ab*", MATCHING, False, id="not like"),
        pytest.param("StringNotLike", "ab*", {}, True, id="not like, absent"),
        pytest.param("StringEqualsIfExists", PCR0, {}, True, id="if it exists, absent"),
        pytest.param("StringEqualsIfExists", PCR0, MATCHING, True, id="if it exists, equal"),
        pytest.param("StringEqualsIfExists", "x", MATCHING, False, id="if it exists, another"),
        pytest.param("StringEqualsIgnoreCaseIfExists", PCR0.upper(), MATCHING, True, id="both suffixes"),
        pytest.param("StringNotEqualsIfExists", PCR0, MATCHING, False, id="negation if it exists"),
        pytest.param("Null", "true", {}, True, id="null, absent"),
        pytest.param("Null", "true", MATCHING, False, id="null, present"),
        pytest.param("Null", False, MATCHING, True, id="not null, present"),
        pytest.param("stringequals", PCR0, MATCHING, True, id="operators have no case"),
        pytest.param("StringEquals", ZERO, MATCHING, False, id="debug's zeros against an image"),
        pytest.param("StringEquals", PCR0, dict.fromkeys(MATCHING, ZERO), False, id="an image against debug"),
        pytest.param(
            "StringEquals", ZERO, dict.fromkeys(MATCHING, ZERO), True, id="zeros against debug: asked for"
        ),
    ],
)
def test_operators(operator: str, values: object, context: dict[str, str], holds: bool) -> None:
    assert allowed(operator, IMAGE, values, context) is holds
    assert allowed(operator, "kms:RecipientAttestation:PCR0", values, context) is holds
    assert allowed(operator, "KMS:recipientattestation:pcr0", values, context) is holds


def test_bool() -> None:
    key = "aws:SecureTransport"
    assert allowed("Bool", key, True, {"aws:securetransport": "true"})
    assert allowed("Bool", key, "True", {"aws:securetransport": "true"})
    assert not allowed("Bool", key, "false", {"aws:securetransport": "true"})
    assert not allowed("Bool", key, "false", {})


def test_all_conditions_must_hold() -> None:
    conditions = {
        "StringEquals": {IMAGE: PCR0, "kms:EncryptionContext:app": "crm"},
        "StringNotEquals": {"kms:CallerAccount": "444455556666"},
    }
    text = policy(statement(Condition=conditions))
    good = {**MATCHING, "kms:encryptioncontext:app": "crm", "kms:calleraccount": ACCOUNT}
    assert decide(text, context=good) is Decision.ALLOW
    for name in ("kms:recipientattestation:imagesha384", "kms:encryptioncontext:app"):
        assert decide(text, context={k: v for k, v in good.items() if k != name}) is Decision.NOT_ALLOWED
    assert decide(text, context={**good, "kms:calleraccount": "444455556666"}) is Decision.NOT_ALLOWED


def test_encryption_context_keys_have_no_case() -> None:
    """AWS: a condition key has no case, the value of an encryption context has."""
    context = {"kms:encryptioncontext:appname": "CRM"}
    assert allowed("StringEquals", "kms:EncryptionContext:AppName", "CRM", context)
    assert not allowed("StringEquals", "kms:EncryptionContext:AppName", "crm", context)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "JSON", id="nothing"),
        pytest.param("[]", "object", id="a list"),
        pytest.param("{", "JSON", id="half"),
        pytest.param("[" * 20000, "JSON", id="deep"),
        pytest.param('{"Statement":[],"Statement":[]}', "unique", id="a key twice"),
        pytest.param(json.dumps({"Version": "2012-10-17"}), "statement", id="no statement"),
        pytest.param(json.dumps({"Version": "2012-10-17", "Statement": []}), "statement", id="an empty list"),
        pytest.param(
            json.dumps({"Version": "2020-01-01", "Statement": [statement()]}), "Version", id="another version"
        ),
        pytest.param(
            json.dumps({"Statement": [statement()], "Extra": 1}), "Version, Id", id="an unknown member"
        ),
        pytest.param(policy(statement(Effect="Permit")), "Effect", id="another effect"),
        pytest.param(policy(statement(Effect=...)), "Effect", id="no effect"),
        pytest.param(policy(statement(Principal=...)), "Principal", id="no principal"),
        pytest.param(policy(statement(Principal={})), "Principal", id="an empty principal"),
        pytest.param(policy(statement(Principal={"AWS": "ada"})), "'ada'", id="a bare name"),
        pytest.param(policy(statement(Principal={"AWS": []})), "Principal", id="an empty list of principals"),
        pytest.param(policy(statement(Principal={"Federated": "x"})), "Principal", id="a federation"),
        pytest.param(
            policy(statement(Principal={"Service": "evil"})), "Service", id="a service that is none"
        ),
        pytest.param(
            policy(statement(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"})), "user", id="a wildcard"
        ),
        pytest.param(policy(statement(NotPrincipal="*")), "NotPrincipal", id="NotPrincipal"),
        pytest.param(policy(statement(NotAction="kms:*")), "NotAction", id="NotAction"),
        pytest.param(policy(statement(Action=...)), "Action", id="no action"),
        pytest.param(policy(statement(Action="kms:Decypt")), "Decypt", id="a misspelt action"),
        pytest.param(policy(statement(Action="s3:GetObject")), "s3", id="another service's action"),
        pytest.param(policy(statement(Action="kms:Dec*x")), "Dec", id="a wildcard that matches nothing"),
        pytest.param(policy(statement(Action=[1])), "Action", id="a number as action"),
        pytest.param(policy(statement(Resource=...)), "Resource", id="no resource"),
        pytest.param(policy(statement(Resource="key")), "Resource", id="a resource that is no ARN"),
        pytest.param(policy(statement(Condition=[])), "Condition", id="conditions in a list"),
        pytest.param(
            policy(statement(Condition={"StringMatches": {IMAGE: "x"}})), "StringMatches", id="operator"
        ),
        pytest.param(
            policy(statement(Condition={"IfExists": {IMAGE: "x"}})), "IfExists", id="a suffix alone"
        ),
        pytest.param(
            policy(statement(Condition={"NullIfExists": {IMAGE: "true"}})), "Null", id="NullIfExists"
        ),
        pytest.param(
            policy(statement(Condition={"ForAnyValue:StringEquals": {IMAGE: "x"}})),
            "ForAnyValue",
            id="a set operator",
        ),
        pytest.param(policy(statement(Condition={"StringEquals": {}})), "condition keys", id="no key"),
        pytest.param(policy(statement(Condition={"StringEquals": {IMAGE: []}})), "value", id="no value"),
        pytest.param(policy(statement(Condition={"StringEquals": {IMAGE: 1}})), "value", id="a number"),
        pytest.param(
            policy(statement(Condition={"Bool": {IMAGE: "maybe"}})), "true or false", id="a bool that is none"
        ),
        pytest.param(
            policy(statement(Condition={"StringEquals": {"kms:RecipientAttestation:PCR32": "x"}})),
            "PCR32",
            id="PCR32",
        ),
        pytest.param(
            policy(statement(Condition={"StringEquals": {"kms:RecipientAttestation:ImageSha256": "x"}})),
            "ImageSha256",
            id="a misspelt key",
        ),
        pytest.param(
            policy(statement(Condition={"StringEquals": {"kms:EncryptionContext:": "x"}})),
            "key",
            id="half a key",
        ),
        pytest.param(
            policy(statement(Condition={"StringEquals": {"aws:SourceIp": "x"}})), "SourceIp", id="another key"
        ),
        pytest.param(
            policy(statement(Condition={"StringEquals": {IMAGE: "${aws:username}"}})),
            "variables",
            id="a variable",
        ),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(ServiceError) as caught:
        Policy.parse(text)
    assert caught.value.kind == "MalformedPolicyDocumentException"
    assert says in caught.value.message


def test_size_limit() -> None:
    with pytest.raises(ServiceError) as caught:
        Policy.parse(policy(statement(Sid="x" * 33000)))
    assert caught.value.kind == "LimitExceededException"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(member=st.sampled_from(["Effect", "Principal", "Action", "Resource", "Condition"]), value=json_values)
def test_anything_is_parsed_or_malformed(member: str, value: object) -> None:
    try:
        parsed = Policy.parse(policy(statement(**{member: value})))
    except ServiceError:
        return
    evaluate(parsed, principal=USER, action="Decrypt", resource=KEY, context={})


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_garbage(text: str) -> None:
    with pytest.raises(ServiceError):
        Policy.parse(text)


@settings(max_examples=300)
@given(pattern=st.text("ab*?", max_size=8), text=st.text("ab", max_size=8))
def test_wildcards_agree_with_a_regular_expression(pattern: str, text: str) -> None:
    import re

    expression = "".join(".*" if c == "*" else "." if c == "?" else c for c in pattern)
    assert wildcard_match(pattern, text) is (re.fullmatch(expression, text) is not None)


def test_wildcards_do_not_backtrack_for_years() -> None:
    started = time.process_time()
    assert not wildcard_match("a*" * 500 + "b", "a" * 2000)
    assert time.process_time() - started < 2
