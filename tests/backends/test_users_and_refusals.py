"""As an ordinary user, as root, and where a container's profile refuses namespaces or everything."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from geumgo.backends.process import probe
from geumgo.backends.process._plan import Sandbox
from geumgo.backends.process._sandboxes import Probe, SandboxUnavailable, candidates, unavailable

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

# Without this the program would end by itself when its vsock is gone.
LINGER = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nresult = 1"
ATTACK = "import attacks\nresult = attacks.run(target)"


def test_an_ordinary_user_has_both_sandboxes(
    sandbox: str, drive: Any, host: dict[str, Any], allowed_numbers: list[int]
) -> None:
    host["pids"] = host["pids"][:1]
    target = {**host, "allowed": allowed_numbers}
    driven = drive(user=True, sandbox=sandbox, code=ATTACK, arguments={"target": target})
    assert driven.told["sandbox"] == sandbox
    status = Path(f"/proc/{driven.told['pid']}/status").read_text()
    assert "\nUid:\t0\t" not in status
    assert "\nCapEff:\t0000000000000000\n" in status
    outcome = driven.told["result"]
    assert len(outcome) > 1500
    assert {name: got for name, got in outcome.items() if got.startswith("BREACH")} == {}


@pytest.mark.parametrize("user", [True, False], ids=["ordinary user", "this user"])
def test_where_namespaces_are_refused_landlock_is_chosen(drive: Any, works: Any, user: bool) -> None:
    if works["landlock"] is not None:
        pytest.skip(f"no Landlock here: {works['landlock']}")
    driven = drive(refuse="namespaces", user=user)
    assert driven.told["sandbox"] == "landlock"
    assert driven.told["refused"] == "namespaces at namespaces: Operation not permitted"


def test_where_both_are_refused_it_says_what_to_enable(drive: Any) -> None:
    told = drive(refuse="namespaces,landlock").told
    assert told["failed"] == "sandbox_unavailable"
    for word in ("namespaces at namespaces", "landlock at landlock", "--unsandboxed", "sysctl", "lsm="):
        assert word in told["text"]


def test_what_was_asked_for_is_not_replaced(drive: Any) -> None:
    assert drive(refuse="namespaces", sandbox="namespaces").told["failed"] == "sandbox_unavailable"


def test_namespaces_are_better_and_come_first(drive: Any, works: Any) -> None:
    if works["namespaces"] is not None:
        pytest.skip(f"no namespaces here: {works['namespaces']}")
    assert drive().told["sandbox"] == "namespaces"
    assert drive(refuse="landlock").told["sandbox"] == "namespaces"


def test_probe_names_what_it_found(works: dict[str, str | None]) -> None:
    assert list(works) == ["namespaces", "landlock"]
    assert probe() == works


def test_root_that_cannot_be_given_up_is_refused_with_the_reason() -> None:
    error = unavailable([Probe(Sandbox.NAMESPACES, "give up root: Operation not permitted")])
    assert isinstance(error, SandboxUnavailable)
    assert "runAsUser" in error.fix


def test_an_unknown_sandbox_is_an_error() -> None:
    for word in ("none", "chroot", ""):
        with pytest.raises(SandboxUnavailable) as caught:
            candidates(word)
        assert caught.value.code == "unknown_sandbox"


@pytest.mark.parametrize("refuse", ["", "namespaces"])
def test_a_killed_manager_takes_everything_with_it(drive: Any, refuse: str) -> None:
    driven = drive(refuse=refuse, code=LINGER, arguments={})
    pids = (driven.told["launcher"], driven.told["pid"])
    watched = [os.pidfd_open(pid) for pid in pids]
    driven.process.kill()
    _ended(watched)
    assert not Path(driven.told["image"]).exists()


@pytest.mark.parametrize("refuse", ["", "namespaces"])
def test_a_killed_launcher_takes_the_program_with_it(drive: Any, refuse: str) -> None:
    driven = drive(refuse=refuse, code=LINGER, arguments={})
    watched = [os.pidfd_open(driven.told["pid"])]
    os.kill(driven.told["launcher"], signal.SIGKILL)
    _ended(watched)
    driven.process.communicate(timeout=30)
    assert not Path(driven.told["image"]).exists()  # the manager's side cleared up


def _ended(watched: list[int]) -> None:
    for pidfd in watched:
        ready, _, _ = select.select([pidfd], [], [], 20)
        assert ready, "still alive"
        os.close(pidfd)


@pytest.fixture
def bounded() -> Any:
    """Run a command as root with some capabilities only, as containers do."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("needs root and setpriv")
    return lambda names: (setpriv, f"--bounding-set=-all{names}")


def test_a_root_that_may_not_signal_others_still_ends_its_enclave(drive: Any, bounded: Any) -> None:
    driven = drive(refuse="namespaces", under=bounded(",+setuid,+setgid"), code=LINGER, arguments={})
    assert driven.told["sandbox"] == "landlock"
    watched = [os.pidfd_open(driven.told["pid"])]
    os.kill(driven.told["launcher"], signal.SIGKILL)
    _ended(watched)
    driven = drive(refuse="namespaces", under=bounded(",+setuid,+setgid"), code=LINGER, arguments={})
    watched = [os.pidfd_open(driven.told["pid"])]
    driven.process.communicate(timeout=30)  # terminate(0)
    _ended(watched)


def test_a_root_that_cannot_be_given_up(drive: Any, bounded: Any) -> None:
    told = drive(refuse="namespaces", under=bounded("")).told
    assert told["failed"] == "sandbox_unavailable"
    assert "runAsUser" in told["text"]


@pytest.fixture
def lonely() -> tuple[str, ...]:
    """Run a command as root of a user namespace that has no other user, as small container tools do."""
    command = ("unshare", "--user", "--map-root-user")
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and user namespaces")
    return command


def test_root_of_a_namespace_without_other_users(
    drive: Any, works: Any, lonely: Any, host: dict[str, Any], allowed_numbers: list[int]
) -> None:
    if works["landlock"] is not None:
        pytest.skip(f"no Landlock here: {works['landlock']}")
    host["pids"] = host["pids"][:1]
    target = {**host, "allowed": allowed_numbers}
    driven = drive(refuse="namespaces", under=lonely, code=ATTACK, arguments={"target": target})
    assert driven.told["sandbox"] == "landlock"
    status = Path(f"/proc/{driven.told['pid']}/status").read_text()
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"\n{name}:\t0000000000000000\n" in status
    outcome = driven.told["result"]
    assert len(outcome) > 1500
    assert {name: got for name, got in outcome.items() if got.startswith("BREACH")} == {}


def test_root_of_a_namespace_without_other_users_may_nest_another(
    drive: Any, works: Any, lonely: Any
) -> None:
    if works["namespaces"] is not None:
        pytest.skip(f"no namespaces here: {works['namespaces']}")
    assert drive(under=lonely).told["sandbox"] == "namespaces"
