"""Policies turn claims into allow or deny, with reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from geumgo.attestation.claims import DEBUG_MEASUREMENTS, Claims
from geumgo.attestation.errors import PolicyInvalid, StaleEvidence, VerificationError
from geumgo.attestation.verifier import DEFAULT_MAX_AGE_MS, check_age

__all__ = ("MAX_VALUES", "Decision", "Policy", "PolicyDenied", "Reason")

MAX_VALUES = 256
"""Values that a policy may list for one measurement: images that are in use at the same time."""

_NAME = re.compile(r"pcr(?:[0-9]|[12][0-9]|3[01])")
_SIZES = (64, 96, 128)  # hex digits of SHA-256, SHA-384, SHA-512
_WHOLE_IMAGE = ({"pcr0"}, {"pcr1", "pcr2"}, {"pcr8"})
"""What says which code runs: the whole image; its kernel and its application; who signed it. PCR2 alone lets
anybody's kernel run the application, and PCR3 and PCR4 are the parent's to choose."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why claims are refused.

    Attributes:
        code: `wrong_measurement`, `debug_measurements`, `simulated_evidence`, `stale_evidence` or `wrong_pool`.
        message: what is wrong, and what to do.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says of claims.

    Attributes:
        allowed: whether they are accepted; false exactly if there are reasons.
        reasons: every reason against them.
        warnings: what was accepted though nothing hardware-backed speaks for it. Show these.
    """

    allowed: bool
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the decision and everything behind it, one line each."""
        lines = ["allowed" if self.allowed else "denied"]
        lines += [f"{reason.code}: {reason.message}" for reason in self.reasons]
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join(lines)


class PolicyDenied(VerificationError):
    """Raised when a policy refuses claims; `code` is that of the first reason.

    Attributes:
        decision: with all the reasons.
    """

    def __init__(self, decision: Decision) -> None:
        first = decision.reasons[0]
        super().__init__(
            "; ".join(reason.message for reason in decision.reasons),
            why="The evidence is authentic, but the policy does not allow what it says.",
            code=first.code,
        )
        self.decision = decision


@dataclass(frozen=True, slots=True)
class Policy:
    """What claims must say to be accepted.

    Attributes:
        measurements: for each measurement that matters, its accepted values in lower-case hex.
        allow_debug: accept debug enclaves, about whose code nothing is known.
        allow_simulated: accept evidence that no hardware made.
        max_age_ms: age that the evidence may have when it is checked.
        pools: names of the pools to accept; None accepts any.

    Raises:
        PolicyInvalid: neither PCR0, nor PCR1 and PCR2, nor a PCR8 that isn't zero is named though debug enclaves
            aren't allowed (it would accept programs of anyone), or a name or value is none, or a value is
            that of debug mode.
    """

    measurements: Mapping[str, frozenset[str]] = field(hash=False)
    allow_debug: bool = False
    allow_simulated: bool = False
    max_age_ms: int = DEFAULT_MAX_AGE_MS
    pools: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not self.measurements and not self.allow_debug:
            raise PolicyInvalid(
                "the policy names no measurement, so it would accept any program",
                fix="Name at least pcr0 of the image; its builder prints it, and so does describe-eif.",
            )
        if type(self.max_age_ms) is not int or self.max_age_ms <= 0:
            raise PolicyInvalid("the policy's max_age_ms is not a positive number of milliseconds")
        for name, values in self.measurements.items():
            self._check(name, values)
        if not self.allow_debug and not self._names_the_code():
            raise PolicyInvalid(
                "the policy's measurements don't say which code runs, so it would accept anyone's program",
                fix="Name pcr0, or pcr1 and pcr2, or the pcr8 of a signed image (unsigned ones have zeros).",
            )
        copy = {name: frozenset(values) for name, values in self.measurements.items()}
        object.__setattr__(self, "measurements", MappingProxyType(copy))

    def _names_the_code(self) -> bool:
        named = {
            name for name, values in self.measurements.items() if all(value.strip("0") for value in values)
        }
        return any(needed <= named for needed in _WHOLE_IMAGE)

    def _check(self, name: str, values: frozenset[str]) -> None:
        if not _NAME.fullmatch(name):
            raise PolicyInvalid("a measurement's name is not pcr0 to pcr31")
        if not 0 < len(values) <= MAX_VALUES:
            raise PolicyInvalid(f"the policy lists {len(values)} values for {name}, not 1 to {MAX_VALUES}")
        for value in values:
            if len(value) not in _SIZES or not re.fullmatch(r"[0-9a-f]+", value):
                raise PolicyInvalid(f"a value of {name} is not a digest in lower-case hex")
            if name in DEBUG_MEASUREMENTS[:3] and not value.strip("0") and not self.allow_debug:
                raise PolicyInvalid(
                    f"the policy's value of {name} is zero, which every debug enclave has",
                    fix="Name the image's real measurement, or set allow_debug to say that you mean it.",
                )

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> Policy:
        """Return the policy in JSON or YAML types.

        `measurements` maps a name to one hex value or a list of them, in any case, and may be what
        `nitro-cli build-enclave` prints, "HashAlgorithm" included; the other keys are the attributes'.

        Raises:
            PolicyInvalid: an unknown key, a wrong type, or what the constructor refuses.
        """
        if not isinstance(value, Mapping):
            raise PolicyInvalid("the policy is not a mapping")
        unknown = [key for key in value if key not in _KEYS]
        if unknown:
            raise PolicyInvalid(
                f"the policy has a key that is not known: {str(unknown[0])[:40]!r}",
                fix=f"The keys are {', '.join(sorted(_KEYS))}.",
            )
        return cls(
            measurements=_measurements(value.get("measurements", {})),
            allow_debug=_boolean(value, "allow_debug"),
            allow_simulated=_boolean(value, "allow_simulated"),
            max_age_ms=value.get("max_age_ms", DEFAULT_MAX_AGE_MS),
            pools=_pools(value.get("pools")),
        )

    def check(self, claims: Claims, *, now_ms: int) -> Decision:
        """Return what this policy says of claims at a time."""
        reasons: list[Reason] = []
        warnings: list[str] = []
        if claims.simulated:
            if self.allow_simulated:
                warnings.append("SIMULATED: no hardware stands behind this evidence")
            else:
                reasons.append(
                    Reason(
                        "simulated_evidence",
                        "the evidence is a simulator's; a policy accepts it by allow_simulated only",
                    )
                )
        if claims.debug:
            if self.allow_debug:
                warnings.append("DEBUG: the enclave's code is not measured and its console can be read")
            else:
                reasons.append(
                    Reason(
                        "debug_measurements",
                        "the enclave runs in debug mode (PCR0, 1 or 2 is zero); launch it without --debug",
                    )
                )
        reasons += self._check_measurements(claims)
        if self.pools is not None and (claims.statement is None or claims.statement.pool not in self.pools):
            reasons.append(Reason("wrong_pool", "the enclave belongs to another pool than the policy names"))
        try:
            check_age(claims.issued_ms, now_ms=now_ms, max_age_ms=self.max_age_ms)
        except StaleEvidence as error:
            reasons.append(Reason(error.code, f"{error.what}; ask for new evidence"))
        return Decision(not reasons, tuple(reasons), tuple(warnings))

    def require(self, claims: Claims, *, now_ms: int) -> Claims:
        """Return claims that this policy accepts.

        Raises:
            PolicyDenied: it does not; `decision` has every reason.
        """
        decision = self.check(claims, now_ms=now_ms)
        if not decision.allowed:
            raise PolicyDenied(decision)
        return claims

    def _check_measurements(self, claims: Claims) -> list[Reason]:
        if claims.debug:
            # Debug mode has zeroed them; whether that is accepted was decided above.
            wanted = {k: v for k, v in self.measurements.items() if k not in DEBUG_MEASUREMENTS}
        elif not self.measurements:
            message = "the policy names no measurement, so it accepts debug enclaves only"
            return [Reason("wrong_measurement", message)]
        else:
            wanted = dict(self.measurements)
        return [
            Reason(
                "wrong_measurement",
                f"{name} is {claims.measurements.get(name, 'absent')}, which the policy does not list; this is "
                "another image than expected, or the policy is out of date",
            )
            for name, values in wanted.items()
            if claims.measurements.get(name) not in values
        ]


_KEYS = frozenset({"measurements", "allow_debug", "allow_simulated", "max_age_ms", "pools"})


def _measurements(value: Any) -> dict[str, frozenset[str]]:
    if not isinstance(value, Mapping):
        raise PolicyInvalid("the policy's measurements are not a mapping")
    found: dict[str, frozenset[str]] = {}
    for name, values in value.items():
        if name == "HashAlgorithm":
            continue
        listed = [values] if isinstance(values, str) else values
        if not isinstance(listed, list | tuple | set | frozenset) or not all(
            isinstance(v, str) for v in listed
        ):
            raise PolicyInvalid("a measurement's value is neither hex text nor a list of it")
        if not isinstance(name, str) or name.lower() in found:
            raise PolicyInvalid("a measurement's name is no text, or stands twice")
        found[name.lower()] = frozenset(v.lower() for v in listed)
    return found


def _boolean(value: Mapping[str, Any], key: str) -> bool:
    found = value.get(key, False)
    if not isinstance(found, bool):
        raise PolicyInvalid(f"the policy's {key} is neither true nor false")
    return found


def _pools(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(v, str) for v in value):
        raise PolicyInvalid("the policy's pools are not a list of names")
    return frozenset(value)
