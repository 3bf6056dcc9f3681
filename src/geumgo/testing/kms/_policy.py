"""Key policies: parsed strictly, so that what the emulator does not know it refuses instead of ignoring."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geumgo.testing.kms._actions import ACTIONS
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._wildcard import wildcard_match

__all__ = ("MAX_POLICY", "Condition", "Policy", "Statement")

MAX_POLICY = 32768
"""Bytes of a key policy, KMS's limit."""

MAX_STATEMENTS = 200
"""Statements of a policy; at 32 KiB no useful policy has more."""

_OPERATORS = {
    name.lower(): name
    for name in (
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
        "Bool",
    )
}

_CONDITION_KEYS = re.compile(
    r"kms:recipientattestation:(?:imagesha384|pcr(?:[0-9]|[12][0-9]|3[01]))"
    r"|kms:encryptioncontext:.{1,2048}"
    r"|kms:(?:calleraccount|encryptionalgorithm|keyorigin|keyspec|keyusage|multiregion|bypasspolicylockoutsafetycheck)"
    r"|aws:(?:principalarn|principalaccount|securetransport)",
    re.DOTALL,
)

_PRINCIPAL = re.compile(
    r"\*|[0-9]{12}|arn:aws[a-z-]*:(?:iam|sts)::[0-9]{12}:(?:root|(?:user|role|assumed-role)/[\w+=,.@/-]+)",
    re.ASCII,
)
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com", re.ASCII)
_STATEMENT_KEYS = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})


def _malformed(what: str) -> ServiceError:
    return ServiceError("MalformedPolicyDocumentException", what)


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one condition key.

    Attributes:
        operator: canonical name without the suffix, or ``Null``.
        if_exists: whether it had the suffix ``IfExists``.
        key: condition key in lower case.
        values: any of these.
    """

    operator: str
    if_exists: bool
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: who may or may not do what, on which key, when."""

    allow: bool
    principals: tuple[str, ...]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed key policy."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Return the policy that `text` is.

        Raises:
            ServiceError: ``MalformedPolicyDocumentException``, naming what is not known.
        """
        if len(text.encode("utf-8", "replace")) > MAX_POLICY:
            raise ServiceError("LimitExceededException", f"A key policy has at most {MAX_POLICY} bytes")
        try:
            document = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise _malformed("The policy is not JSON with unique keys") from None
        if not isinstance(document, dict) or not document.keys() <= {"Version", "Id", "Statement"}:
            raise _malformed("A policy is an object with Version, Id and Statement")
        if document.get("Version", "2008-10-17") not in ("2012-10-17", "2008-10-17"):
            raise _malformed("Version must be 2012-10-17")
        statements = document.get("Statement")
        if isinstance(statements, dict):
            statements = [statements]
        if not isinstance(statements, list) or not 1 <= len(statements) <= MAX_STATEMENTS:
            raise _malformed("A policy has at least one statement")
        return cls(tuple(_parse_statement(statement) for statement in statements))


def _parse_statement(statement: object) -> Statement:
    if not isinstance(statement, dict):
        raise _malformed("A statement is an object")
    if unknown := statement.keys() - _STATEMENT_KEYS:
        raise _malformed(f"Statement element {min(unknown)[:80]!r} is not known here")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise _malformed("Effect must be Allow or Deny")
    return Statement(
        allow=statement["Effect"] == "Allow",
        principals=_parse_principals(statement.get("Principal")),
        actions=tuple(_parse_action(action) for action in _strings(statement.get("Action"), "Action")),
        resources=tuple(
            _parse_resource(resource) for resource in _strings(statement.get("Resource"), "Resource")
        ),
        conditions=_parse_conditions(statement.get("Condition", {})),
    )


def _parse_principals(principal: object) -> tuple[str, ...]:
    if principal == "*":
        return ("*",)
    if not isinstance(principal, dict) or not principal or not principal.keys() <= {"AWS", "Service"}:
        raise _malformed('Principal must be "*" or an object with AWS or Service')
    found = _strings(principal["AWS"], "Principal") if "AWS" in principal else ()
    for name in found:
        if _PRINCIPAL.fullmatch(name) is None:
            raise _malformed(f"Principal {name[:120]!r} is not an account, root, user or role")
    # AWS services never call here, so their statements match nobody; default policies may name them.
    for name in _strings(principal["Service"], "Principal") if "Service" in principal else ():
        if _SERVICE.fullmatch(name) is None:
            raise _malformed(f"Service {name[:120]!r} is not known")
    return found


def _parse_action(action: str) -> str:
    lower = action.lower()
    known = lower.startswith("kms:") and any(wildcard_match(lower, f"kms:{name.lower()}") for name in ACTIONS)
    if lower != "*" and not known:
        raise _malformed(f"Action {action[:120]!r} is not known")
    return lower


def _parse_resource(resource: str) -> str:
    if resource != "*" and not resource.startswith("arn:aws"):
        raise _malformed('Resource must be "*" or the ARN of a key')
    return resource


def _parse_conditions(block: object) -> tuple[Condition, ...]:
    if not isinstance(block, dict):
        raise _malformed("Condition is an object")
    found = []
    for operator, tests in block.items():
        name, if_exists = _parse_operator(operator)
        if not isinstance(tests, dict) or not tests:
            raise _malformed(f"{operator[:80]} must hold condition keys")
        for key, values in tests.items():
            if _CONDITION_KEYS.fullmatch(key.lower()) is None:
                raise _malformed(f"Condition key {key[:120]!r} is not known")
            found.append(Condition(name, if_exists, key.lower(), _parse_values(name, values)))
    return tuple(found)


def _parse_operator(operator: str) -> tuple[str, bool]:
    lower = operator.lower()
    if lower == "null":
        return "Null", False
    bare = lower.removesuffix("ifexists")
    if bare not in _OPERATORS:
        raise _malformed(f"Condition operator {operator[:80]!r} is not known")
    return _OPERATORS[bare], bare != lower


def _parse_values(operator: str, values: object) -> tuple[str, ...]:
    if operator not in ("Bool", "Null"):
        found = _strings(values, "A condition's value")
        if any("${" in value for value in found):
            raise _malformed("Policy variables are not known here")
        return found
    listed = values if isinstance(values, list) else [values]
    lower = tuple(str(value).lower() for value in listed)
    if not lower or not set(lower) <= {"true", "false"}:
        raise _malformed(f"{operator} takes true or false")
    return lower


def _strings(value: object, what: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        raise _malformed(f"{what} must be a text or a list of texts")
    return tuple(listed)


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found
