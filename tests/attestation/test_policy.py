"""Policies: what is allowed, what is denied, and the reasons in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.attestation import Claims, Policy, PolicyDenied, PolicyInvalid, Statement, Use, VerificationError

NOW = 1_700_000_000_000
PCR = {f"pcr{i}": f"{i + 1:02x}" * 48 for i in range(16)}
ZERO = "00" * 48

Make = Callable[..., Claims]


@pytest.fixture
def make() -> Make:
    """Makes claims of a production enclave; keywords change them."""

    def claims(**changes: Any) -> Claims:
        fields: dict[str, Any] = {
            "kind": "nitro",
            "measurements": PCR,
            "debug": False,
            "simulated": False,
            "issued_ms": NOW,
            "nonce": b"n",
            "public_key": b"k",
            "user_data": None,
            "statement": Statement(Use.SEAL, "s", b"k", "demo", bytes(48)),
            "module_id": "i-1-enc1",
        }
        return Claims(**fields | changes)

    return claims


def policy(**changes: Any) -> Policy:
    return Policy(**{"measurements": {"pcr0": frozenset({PCR["pcr0"]})}} | changes)


def codes(checked: Policy, claims: Claims, now_ms: int = NOW) -> list[str]:
    decision = checked.check(claims, now_ms=now_ms)
    assert decision.allowed is (not decision.reasons)
    return [reason.code for reason in decision.reasons]


def test_what_is_named_is_allowed(make: Make) -> None:
    decision = policy().check(make(), now_ms=NOW)
    assert decision.allowed
    assert (decision.reasons, decision.warnings, str(decision)) == ((), (), "allowed")
    assert policy().require(make(), now_ms=NOW) == make()


def test_another_image_is_denied_with_its_measurement(make: Make) -> None:
    other = make(measurements=PCR | {"pcr0": "ab" * 48})
    decision = policy().check(other, now_ms=NOW)
    assert codes(policy(), other) == ["wrong_measurement"]
    assert "ab" * 48 in decision.reasons[0].message


def test_one_of_several_images_is_enough(make: Make) -> None:
    both = policy(measurements={"pcr0": frozenset({"ab" * 48, PCR["pcr0"]})})
    assert codes(both, make()) == []


def test_every_named_measurement_must_match(make: Make) -> None:
    wanted = {name: frozenset({PCR[name]}) for name in ("pcr0", "pcr1", "pcr2", "pcr8")}
    assert codes(policy(measurements=wanted), make()) == []
    for name in wanted:
        assert codes(policy(measurements=wanted), make(measurements=PCR | {name: "ab" * 48})) == [
            "wrong_measurement"
        ]


def test_an_absent_measurement_does_not_match(make: Make) -> None:
    wanted = policy(measurements={"pcr0": frozenset({PCR["pcr0"]}), "pcr20": frozenset({"ab" * 48})})
    decision = wanted.check(make(), now_ms=NOW)
    assert [reason.code for reason in decision.reasons] == ["wrong_measurement"]
    assert "absent" in decision.reasons[0].message


def _debug(make: Make, **changes: Any) -> Claims:
    zeroed = dict.fromkeys(("pcr0", "pcr1", "pcr2", "pcr8"), ZERO)
    return make(debug=True, measurements=PCR | zeroed, **changes)


def test_debug_is_denied_by_name(make: Make) -> None:
    decision = policy().check(_debug(make), now_ms=NOW)
    assert codes(policy(), _debug(make)) == ["debug_measurements"]
    assert "--debug" in decision.reasons[0].message


def test_debug_that_is_allowed_is_loud(make: Make) -> None:
    decision = policy(allow_debug=True).check(_debug(make), now_ms=NOW)
    assert decision.allowed
    assert any("DEBUG" in warning for warning in decision.warnings)
    assert "WARNING: DEBUG" in str(decision)


def test_debug_leaves_the_other_measurements_to_be_checked(make: Make) -> None:
    wanted = {"pcr0": frozenset({PCR["pcr0"]}), "pcr4": frozenset({"ab" * 48})}
    assert codes(policy(measurements=wanted, allow_debug=True), _debug(make)) == ["wrong_measurement"]


def test_a_policy_for_debug_only_does_not_let_everything_else_in(make: Make) -> None:
    debug_only = Policy({}, allow_debug=True)
    assert codes(debug_only, _debug(make)) == []
    assert codes(debug_only, make()) == ["wrong_measurement"]


def test_a_simulator_is_denied_unless_allowed(make: Make) -> None:
    assert codes(policy(), make(simulated=True)) == ["simulated_evidence"]
    decision = policy(allow_simulated=True).check(make(simulated=True), now_ms=NOW)
    assert decision.allowed
    assert any("SIMULATED" in warning for warning in decision.warnings)


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [(0, []), (300_000, []), (300_001, ["stale_evidence"]), (-3_000, []), (-3_001, ["stale_evidence"])],
)
def test_age_is_checked_when_the_policy_is(make: Make, age_ms: int, expected: list[str]) -> None:
    assert codes(policy(), make(), NOW + age_ms) == expected


def test_pools(make: Make) -> None:
    assert codes(policy(pools=frozenset({"demo"})), make()) == []
    assert codes(policy(pools=frozenset({"other"})), make()) == ["wrong_pool"]
    assert codes(policy(pools=frozenset({"demo"})), make(statement=None)) == ["wrong_pool"]


def test_every_reason_is_given_and_the_first_is_the_code(make: Make) -> None:
    worst = _debug(make, simulated=True, issued_ms=NOW - 1_000_000)
    strict = policy(
        measurements={"pcr0": frozenset({PCR["pcr0"]}), "pcr3": frozenset({"ab" * 48})},
        pools=frozenset({"other"}),
    )
    expected = [
        "simulated_evidence",
        "debug_measurements",
        "wrong_measurement",
        "wrong_pool",
        "stale_evidence",
    ]
    assert codes(strict, worst) == expected
    with pytest.raises(PolicyDenied) as caught:
        strict.require(worst, now_ms=NOW)
    assert caught.value.code == "simulated_evidence"
    assert [reason.code for reason in caught.value.decision.reasons] == expected
    assert isinstance(caught.value, VerificationError)
    assert all(code in str(caught.value.decision) for code in expected)


INVALID: dict[str, dict[str, Any]] = {
    "no measurement": {"measurements": {}},
    "a name that is none": {"measurements": {"pcr32": frozenset({"ab" * 48})}},
    "a name with a zero before": {"measurements": {"pcr00": frozenset({"ab" * 48})}},
    "a name in capitals": {"measurements": {"PCR0": frozenset({"ab" * 48})}},
    "no value": {"measurements": {"pcr0": frozenset()}},
    "too many values": {"measurements": {"pcr0": frozenset(f"{i:096x}" for i in range(1, 258))}},
    "a short value": {"measurements": {"pcr0": frozenset({"ab" * 47})}},
    "a value in capitals": {"measurements": {"pcr0": frozenset({"AB" * 48})}},
    "a value that is no hex": {"measurements": {"pcr0": frozenset({"xy" * 48})}},
    "a zero PCR0": {"measurements": {"pcr0": frozenset({ZERO})}},
    "a zero PCR2 among others": {"measurements": {"pcr2": frozenset({"ab" * 48, ZERO})}},
    "the kernel alone": {"measurements": {"pcr1": frozenset({"ab" * 48})}},
    "the application alone, on anybody's kernel": {"measurements": {"pcr2": frozenset({"ab" * 48})}},
    "the parent's role alone": {"measurements": {"pcr3": frozenset({"ab" * 48})}},
    "the parent's instance alone": {"measurements": {"pcr4": frozenset({"ab" * 48})}},
    "a register that a program fills itself": {"measurements": {"pcr16": frozenset({"ab" * 48})}},
    "the signature that unsigned images have": {"measurements": {"pcr8": frozenset({ZERO})}},
    "the same beside a real one": {"measurements": {"pcr8": frozenset({"ab" * 48, ZERO})}},
    "no age": {"max_age_ms": 0},
    "a negative age": {"max_age_ms": -1},
    "an age that is true": {"max_age_ms": True},
    "an age that is a float": {"max_age_ms": 1.5},
}


@pytest.mark.parametrize("change", INVALID.values(), ids=INVALID.keys())
def test_policies_that_mean_nothing_good_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        policy(**change)
    assert caught.value.code == "bad_policy"


def test_a_zero_measurement_needs_allow_debug_and_other_registers_may_be_zero(make: Make) -> None:
    assert codes(policy(measurements={"pcr0": frozenset({ZERO})}, allow_debug=True), _debug(make)) == []
    zero_role = policy(measurements={"pcr0": frozenset({PCR["pcr0"]}), "pcr3": frozenset({ZERO})})
    assert codes(zero_role, make(measurements=PCR | {"pcr3": ZERO})) == []


def test_kernel_with_application_or_a_signer_say_which_code_runs(make: Make) -> None:
    both = {name: frozenset({PCR[name]}) for name in ("pcr1", "pcr2")}
    assert codes(policy(measurements=both), make()) == []
    assert codes(policy(measurements={"pcr8": frozenset({PCR["pcr8"]})}), make()) == []


def test_a_policy_can_not_be_changed_later() -> None:
    source = {"pcr0": frozenset({PCR["pcr0"]})}
    made = Policy(source)
    source["pcr0"] = frozenset({"ab" * 48})
    assert made.measurements["pcr0"] == frozenset({PCR["pcr0"]})
    with pytest.raises(FrozenInstanceError):
        made.allow_debug = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.measurements["pcr0"] = frozenset()  # type: ignore[index]


def test_from_what_nitro_cli_prints() -> None:
    printed = {"HashAlgorithm": "Sha384 { ... }", "PCR0": PCR["pcr0"].upper(), "PCR1": PCR["pcr1"]}
    assert Policy.from_mapping({"measurements": printed}) == Policy(
        {"pcr0": frozenset({PCR["pcr0"]}), "pcr1": frozenset({PCR["pcr1"]})}
    )


def test_from_a_mapping_with_everything() -> None:
    made = Policy.from_mapping(
        {
            "measurements": {"pcr0": [PCR["pcr0"], "ab" * 48]},
            "allow_debug": True,
            "allow_simulated": True,
            "max_age_ms": 1000,
            "pools": ["demo"],
        }
    )
    assert made == Policy(
        {"pcr0": frozenset({PCR["pcr0"], "ab" * 48})},
        allow_debug=True,
        allow_simulated=True,
        max_age_ms=1000,
        pools=frozenset({"demo"}),
    )


BAD_MAPPINGS: dict[str, Any] = {
    "no mapping": [],
    "nothing": {},
    "an unknown key": {"measurements": {"pcr0": "ab" * 48}, "allowDebug": True},
    "measurements in a list": {"measurements": ["ab" * 48]},
    "a number": {"measurements": {"pcr0": 1}},
    "a number in a list": {"measurements": {"pcr0": [1]}},
    "a name that is a number": {"measurements": {0: "ab" * 48}},
    "a name twice": {"measurements": {"pcr0": "ab" * 48, "PCR0": "cd" * 48}},
    "a flag as text": {"measurements": {"pcr0": "ab" * 48}, "allow_debug": "yes"},
    "a flag as a number": {"measurements": {"pcr0": "ab" * 48}, "allow_simulated": 1},
    "an age as text": {"measurements": {"pcr0": "ab" * 48}, "max_age_ms": "5m"},
    "an age as null": {"measurements": {"pcr0": "ab" * 48}, "max_age_ms": None},
    "a pool as text": {"measurements": {"pcr0": "ab" * 48}, "pools": "demo"},
    "pools of numbers": {"measurements": {"pcr0": "ab" * 48}, "pools": [1]},
}


@pytest.mark.parametrize("value", BAD_MAPPINGS.values(), ids=BAD_MAPPINGS.keys())
def test_mappings_that_are_no_policy(value: Any) -> None:
    with pytest.raises(PolicyInvalid):
        Policy.from_mapping(value)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("ab" * 48),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["pcr0", "PCR1", "HashAlgorithm", "x"]), children, max_size=3)
    ),
    max_leaves=4,
)
_KEYS = st.sampled_from(["measurements", "allow_debug", "allow_simulated", "max_age_ms", "pools", "more"])


@given(st.dictionaries(_KEYS, _JUNK, max_size=4) | _JUNK)
def test_any_mapping_gives_a_policy_or_an_error_of_ours(value: Any) -> None:
    with contextlib.suppress(PolicyInvalid):
        Policy.from_mapping(value)
