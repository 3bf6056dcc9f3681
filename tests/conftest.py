"""What holds for all tests: CI never passes by skipping."""

from __future__ import annotations

import os

import pytest

ALLOWED = ("no reference fixtures", "the published values are not here")
"""Third-party data that lies beside the checkout, not in it."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With GEUMGO_NO_SKIP, a skipped test fails the run, and what is missing is said loudly."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("GEUMGO_NO_SKIP"):
        return
    reasons: dict[str, int] = {}
    for report in reporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED):
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        reporter.write_line(f"MISSING on this machine, {count} tests could not run: {reason}", red=True)
    if reasons:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
