"""Whether a key policy allows a call: pure, as IAM evaluates (IAM user guide, "Policy evaluation logic").

The emulator has no IAM policies besides: an allowance to the account (its root) stands for every identity in it,
as if IAM allowed each of them ``kms:*``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from geumgo.testing.kms._policy import Condition, Policy, Statement
from geumgo.testing.kms._wildcard import wildcard_match

__all__ = ("Decision", "Principal", "evaluate")


class Decision(enum.Enum):
    """What a policy says."""

    ALLOW = "allow"
    NOT_ALLOWED = "no statement allows"
    DENY = "a statement denies"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the ARN of a user, or of a role's session."""

    arn: str

    @property
    def account(self) -> str:
        """Number of the account."""
        return self.arn.split(":")[4]

    def names(self) -> frozenset[str]:
        """Return every way in which a policy may name this principal."""
        partition = self.arn.split(":")[1]
        names = {"*", self.arn, self.account, f"arn:{partition}:iam::{self.account}:root"}
        kind, _, rest = self.arn.split(":", 5)[5].partition("/")
        if kind == "assumed-role":
            names.add(f"arn:{partition}:iam::{self.account}:role/{rest.partition('/')[0]}")
        return frozenset(names)


def evaluate(
    policy: Policy, *, principal: Principal, action: str, resource: str, context: Mapping[str, str]
) -> Decision:
    """Return what `policy` says.

    Args:
        policy: the key's.
        principal: who calls.
        action: such as ``Decrypt``.
        resource: the key's ARN.
        context: condition key in lower case → value; absent keys are not in it.
    """
    names = principal.names()
    matching = [
        s for s in policy.statements if _matches(s, names, f"kms:{action}".lower(), resource, context)
    ]
    if any(not statement.allow for statement in matching):
        return Decision.DENY
    return Decision.ALLOW if matching else Decision.NOT_ALLOWED


def _matches(
    statement: Statement, names: frozenset[str], action: str, resource: str, context: Mapping[str, str]
) -> bool:
    return (
        not names.isdisjoint(statement.principals)
        and any(wildcard_match(pattern, action) for pattern in statement.actions)
        and any(wildcard_match(pattern, resource) for pattern in statement.resources)
        and all(_holds(condition, context.get(condition.key)) for condition in statement.conditions)
    )


def _holds(condition: Condition, value: str | None) -> bool:
    if condition.operator == "Null":
        return str(value is None).lower() in condition.values
    negated = "Not" in condition.operator
    if value is None:
        # An absent key satisfies only a negation, or any operator with IfExists.
        return negated or condition.if_exists
    return negated is not any(_equal(condition.operator, expected, value) for expected in condition.values)


def _equal(operator: str, expected: str, value: str) -> bool:
    if operator.endswith("Like"):
        return wildcard_match(expected, value)
    if operator.endswith("IgnoreCase") or operator == "Bool":
        return expected.lower() == value.lower()
    return expected == value
