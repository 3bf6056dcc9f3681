"""No process that sees requests or keys dumps core, whatever the limits are that it was started with."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

ASK = """
import resource
{limit}
{user}
from geumgo._base import forbid_core_dumps
forbid_core_dumps()
print(*resource.getrlimit(resource.RLIMIT_CORE))
"""
NOBODY = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"


def limits_after(limit: str, user: str = "") -> str:
    script = ASK.format(limit=limit, user=user and f"import geumgo._base; {user}")
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def set_to(soft: int, hard: int) -> str:
    return f"resource.setrlimit(resource.RLIMIT_CORE, ({soft}, {hard}))"


def test_it_lowers_the_limit_for_good() -> None:
    # 1, not 0: a core pattern that is a pipe ignores 0 but not 1 (core(5)).
    assert limits_after("") == ("0 0" if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else "1 1")
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == resource.RLIM_INFINITY:
        assert limits_after(set_to(4096, 1 << 20)) == "1 1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_whose_limit_is_zero_is_no_failure() -> None:
    assert limits_after(set_to(0, 0), NOBODY) == "0 0"
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
        assert limits_after(set_to(1, 1), NOBODY) == "1 1"
