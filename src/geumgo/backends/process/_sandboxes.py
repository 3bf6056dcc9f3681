"""Which sandbox this machine allows: found by setting one up, not by reading version numbers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from geumgo.backends._api import SandboxUnavailable
from geumgo.backends.process import _linux as linux
from geumgo.backends.process._child import Child, StepFailed, start
from geumgo.backends.process._limits import Usage, choose_cpus
from geumgo.backends.process._plan import Plan, Sandbox

__all__ = (
    "UNPRIVILEGED",
    "Probe",
    "candidates",
    "keep_power_over",
    "probe",
    "run_as",
    "start_confined",
    "unavailable",
)

UNPRIVILEGED = 65534
"""The user that a launcher which is root gives the program; it owns nothing."""
_PROBE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Probe:
    """What one sandbox said.

    Attributes:
        sandbox: which.
        refused: why not; None if it works.
    """

    sandbox: Sandbox
    refused: str | None


def run_as() -> int | None:
    """Return the user to become, or None for a launcher that is an ordinary user.

    Root of a user namespace that has no such user is one, too: outside it is whoever made the namespace.
    """
    return UNPRIVILEGED if os.geteuid() == 0 and _mapped(UNPRIVILEGED) else None


def _mapped(number: int) -> bool:
    """Whether this user namespace has a user and a group of this number."""
    for name in ("uid_map", "gid_map"):
        try:
            with open(f"/proc/self/{name}") as file:
                ranges = [[int(word) for word in line.split()] for line in file]
        except OSError:
            continue  # then the kernel will say
        if not any(first <= number < first + count for first, _, count in ranges):
            return False
    return True


def keep_power_over(uid: int | None) -> None:
    """Make sure that this process may end the program that it will run as `uid`.

    A root without CAP_KILL may signal another user's process only if its own real user is the same; and the
    signal at a parent's death is sent with the parent's rights.
    """
    if uid is None or linux.has_capability(linux.CAP_KILL):
        return
    with contextlib.suppress(OSError):  # giving up root will fail in the same way, and be reported
        os.setresuid(uid, -1, -1)


def candidates(wanted: str) -> tuple[Sandbox, ...]:
    """Return what to try, best first, for `auto`, `namespaces` or `landlock`.

    Raises:
        SandboxUnavailable: another word.
    """
    if wanted == "auto":
        return (Sandbox.NAMESPACES, Sandbox.LANDLOCK)
    try:
        return (Sandbox(wanted),) if wanted != Sandbox.NONE.value else _unknown(wanted)
    except ValueError:
        return _unknown(wanted)


def _unknown(wanted: str) -> tuple[Sandbox, ...]:
    raise SandboxUnavailable(
        f"there is no sandbox {wanted!r}", fix="Use auto, namespaces or landlock.", code="unknown_sandbox"
    )


def start_confined(
    sandboxes: tuple[Sandbox, ...], plan: Callable[[Sandbox], Plan], on_pid: Callable[[int], None]
) -> tuple[Child, Sandbox, str]:
    """Start the program in the first sandbox that works.

    Returns:
        The program, its sandbox, and why the ones before were refused (empty if none were).

    Raises:
        SandboxUnavailable: none works.
    """
    refused: list[Probe] = []
    for sandbox in sandboxes:
        try:
            child = start(plan(sandbox), on_pid)
        except StepFailed as failed:
            refused.append(Probe(sandbox, str(failed)))
            continue
        return child, sandbox, "; ".join(_line(probe) for probe in refused)
    raise unavailable(refused)


def unavailable(refused: list[Probe]) -> SandboxUnavailable:
    """Return the error that says what was tried and what to enable."""
    steps = {probe.sandbox: probe.refused or "" for probe in refused}
    if any(text.startswith("give up root") for text in steps.values()):
        fix = (
            "Run as an ordinary user (runAsUser), or allow the container CAP_SETUID and CAP_SETGID, "
            "so that the program inside need not be root."
        )
    else:
        fix = (
            "Enable one of: Landlock (Linux 5.13 or newer with `landlock` in the lsm= boot option, and the "
            "container's seccomp profile allowing landlock_* calls), or user namespaces (sysctl "
            "user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0). "
            "Or accept an enclave that nothing confines and no key policy admits: --unsandboxed."
        )
    return SandboxUnavailable(
        "this machine allows no sandbox for the process backend",
        why="Refused: " + "; ".join(_line(probe) for probe in refused) + ".",
        fix=fix,
    )


def _line(probe: Probe) -> str:
    return f"{probe.sandbox.value} at {probe.refused}"


def probe() -> tuple[Probe, ...]:
    """Try each sandbox on an empty folder, in this process's children. One thread only."""
    uid = run_as()
    found = []
    with tempfile.TemporaryDirectory(prefix="geumgo-probe-") as folder, open(os.devnull, "r+b") as null:
        os.chmod(folder, 0o755)
        number = null.fileno()
        usage = Usage(_PROBE_MEMORY, choose_cpus(1, 0))
        for sandbox in candidates("auto"):
            plan = Plan(sandbox, None, folder, uid, usage, dict.fromkeys(range(5), number), False)
            try:
                child = start(plan)
            except StepFailed as failed:
                found.append(Probe(sandbox, str(failed)))
                continue
            os.close(child.pidfd)
            _, status = os.waitpid(child.pid, 0)
            found.append(Probe(sandbox, None if status == 0 else f"ended with status {status}"))
    return tuple(found)
