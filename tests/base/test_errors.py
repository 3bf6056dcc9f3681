"""The error root: what a person and a program get to see."""

from __future__ import annotations

import pytest

from geumgo._base import GeumgoError


class Specific(GeumgoError):
    code = "specific"
    retryable = True


def test_defaults_come_from_the_class() -> None:
    error = Specific("it broke")
    assert (error.code, error.retryable, error.what, str(error)) == ("specific", True, "it broke", "it broke")
    assert (GeumgoError("x").code, GeumgoError("x").retryable) == ("internal", False)


def test_an_instance_may_differ_without_changing_its_class() -> None:
    error = Specific("it broke", code="other", retryable=False)
    assert (error.code, error.retryable) == ("other", False)
    assert (Specific.code, Specific.retryable) == ("specific", True)


def test_the_root_is_an_exception_that_can_be_caught() -> None:
    with pytest.raises(GeumgoError, match="it broke"):
        raise Specific("it broke")


@pytest.mark.parametrize(
    ("why", "fix", "lines"),
    [
        pytest.param("", "", ["it broke [specific]"], id="what only"),
        pytest.param("bad luck", "", ["it broke [specific]", "bad luck"], id="with why"),
        pytest.param("", "try again", ["it broke [specific]", "try again"], id="with fix"),
        pytest.param("bad luck", "try again", ["it broke [specific]", "bad luck", "try again"], id="all"),
    ],
)
def test_diagnostics_have_a_line_for_each_part(why: str, fix: str, lines: list[str]) -> None:
    assert Specific("it broke", why=why, fix=fix).diagnostics().splitlines() == lines
