"""From the launcher's fork to the program's first instruction.

The child goes through numbered steps and names the one that fails on a pipe, which exec closes:

1. a session of its own, and for root: another user, no capabilities;
2. (a) namespaces, and a second fork, since the first process of a PID namespace is a child;
3. it waits until the launcher is its parent and has put it into a cgroup; then it asks to die with it;
4. (a) the image becomes the root, or (b) Landlock;
5. descriptors: only those that the program gets stay open past exec;
6. limits, the system-call filter, exec.

The fork comes before the launcher reads the software NSM's key, so that not even a copy of it was here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from geumgo.backends.process import _landlock, _limits, _namespaces, _seccomp
from geumgo.backends.process import _linux as linux
from geumgo.backends.process._plan import Plan, Sandbox, command, environment
from geumgo.backends.process._syscalls import this_machine

__all__ = ("Child", "StepFailed", "start")

_MAX_REPORT = 4096
_FIRST_OWN_FD = 16


class StepFailed(Exception):  # stays inside this package: the launcher turns it into a BackendError
    """Raised when a step of the child's way to exec failed."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(f"{step}: {os.strerror(number)}")
        self.step = step
        self.number = number


@dataclass(frozen=True, slots=True)
class Child:
    """A started program.

    Attributes:
        pid: its process id.
        pidfd: readable when it has ended; closed by whoever reaps it.
    """

    pid: int
    pidfd: int


def start(plan: Plan, on_pid: Callable[[int], None] = lambda pid: None) -> Child:
    """Start the program that `plan` describes, or try its sandbox.

    This process must have one thread only, and becomes a subreaper.

    Args:
        plan: what to start.
        on_pid: called with the process id before the program runs.

    Raises:
        StepFailed: it got no further than the named step; nothing of it is left.
    """
    linux.set_subreaper()
    report, child_report = _pipe()
    child_go, go = _pipe()
    first = os.fork()
    if first == 0:
        os.close(report)
        os.close(go)
        _run(lambda tell: _first(plan, child_go, tell), child_report)
    os.close(child_report)
    os.close(child_go)
    pid = first
    try:
        if plan.sandbox is Sandbox.NAMESPACES:
            text = _read(report)
            os.waitpid(first, 0)
            pid = _second(text)
        with contextlib.suppress(OSError):  # it failed already, and says so on the other pipe
            on_pid(pid)
            os.write(go, b"g")
        text = _read(report)
        if text:
            raise _failure(text)
    except StepFailed:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    finally:
        os.close(report)
        os.close(go)
    return Child(pid, os.pidfd_open(pid))


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are out of the way of those that the program gets."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN_FD) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


def _read(report: int) -> str:
    """Return one line of the report, or what there is at its end."""
    data = b""
    while len(data) < _MAX_REPORT and not data.endswith(b"\n"):
        chunk = os.read(report, 1)
        if not chunk:
            break
        data += chunk
    return data.decode("ascii", "replace").strip()


def _second(text: str) -> int:
    word, _, number = text.partition(" ")
    if word == "pid" and number.isdecimal():
        return int(number)
    raise _failure(text)


def _failure(text: str) -> StepFailed:
    step, _, number = text.rpartition(" ")
    return StepFailed(step or "start", int(number) if number.isdecimal() else errno.ECHILD)


Tell = Callable[[str], None]


def _run(body: Callable[[Tell], None], report: int) -> None:
    """Run the child's part; it never returns into the launcher's code."""

    def tell(line: str) -> None:
        os.write(report, line.encode() + b"\n")

    try:
        body(tell)
        os._exit(0)
    except StepFailed as failed:
        tell(f"{failed.step} {failed.number}")
    except BaseException as error:
        tell(f"start ({type(error).__name__}) {getattr(error, 'errno', None) or errno.EINVAL}")
    finally:
        os._exit(127)


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepFailed(name, error.errno or errno.EINVAL) from None


def _first(plan: Plan, go: int, tell: Tell) -> None:
    os.setsid()
    os.umask(0o077)
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if plan.uid is not None:
        # Without a sandbox it need not succeed, but nobody asked for more than that.
        with contextlib.suppress(OSError) if plan.sandbox is Sandbox.NONE else _step("give up root"):
            _become(plan.uid)
    if plan.sandbox is not Sandbox.NAMESPACES:
        _confined(plan, go)
        return
    with _step("namespaces"):
        _namespaces.enter()
        second = os.fork()
    if second:
        tell(f"pid {second}")
        os._exit(0)
    _confined(plan, go)


def _become(uid: int) -> None:
    os.setgroups(())
    os.setresgid(uid, uid, uid)
    with contextlib.suppress(PermissionError):  # without CAP_SETPCAP; no_new_privs is what counts
        linux.drop_bounding_set()
    os.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    linux.set_dumpable(True)  # its /proc files belong to it again, which uid_map needs


def _confined(plan: Plan, go: int) -> None:
    _wait_for_parent(go)
    with _step("no_new_privs"):
        linux.no_new_privileges()
    if plan.sandbox is Sandbox.NAMESPACES:
        with _step("mounts"):
            _namespaces.settle(plan.folder)
    else:
        os.chdir(plan.folder)
        linux.drop_capabilities()
    program = None if plan.tree is None else _open_program(plan)
    if plan.sandbox is Sandbox.LANDLOCK:
        with _step("landlock"):
            folder = os.open(plan.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _landlock.confine(folder)
            os.close(folder)
    with _step("descriptors"):
        _place(plan)
    with _step("seccomp"):
        rules = _filter(plan)  # while there is memory
    with _step("limits"):
        _limits.set_limits(plan.usage, own_user_namespace=plan.sandbox is Sandbox.NAMESPACES)
    if rules is not None:
        with _step("seccomp"):
            linux.set_filter(rules)
    if program is not None:
        with _step("exec"):
            program()


def _wait_for_parent(go: int) -> None:
    """Die with the launcher from here on; at once if it is gone already."""
    if os.read(go, 1) != b"g":
        os._exit(127)
    linux.set_parent_death_signal(signal.SIGKILL)
    waiting = select.poll()
    waiting.register(go, 0)  # the launcher's end closes when it dies, or after our exec
    if waiting.poll(0):
        os._exit(127)


def _open_program(plan: Plan) -> linux.Exec:
    """Open the program at a number that its own descriptor limit rules out, closed by exec."""
    assert plan.tree is not None
    path, arguments = command(plan, plan.tree)
    number = _limits.descriptor_limit()
    with _step("program"):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        placed = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, number)
        os.close(opened)
        if placed != number:
            raise OSError(errno.EBUSY, "the descriptor above the limit is taken")
    return linux.Exec(number, arguments, environment(plan, plan.tree))


def _place(plan: Plan) -> None:
    """Put each descriptor at its number; whatever else is open closes at exec."""
    free = max((*plan.descriptors, 0)) + 1
    copies = {
        wanted: fcntl.fcntl(have, fcntl.F_DUPFD_CLOEXEC, free) for wanted, have in plan.descriptors.items()
    }
    for wanted, copy in copies.items():
        os.dup2(copy, wanted, inheritable=True)
    linux.close_on_exec_from(free)


def _filter(plan: Plan) -> bytes | None:
    if plan.sandbox is Sandbox.NONE:
        return None
    machine = this_machine()
    if machine is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if plan.tree is not None and not plan.tree.module:
        return _seccomp.filter_bytes(_seccomp.general(), machine)
    links = plan.sandbox is Sandbox.NAMESPACES
    rules = _seccomp.confined(pid=os.getpid(), exec_fd=_limits.descriptor_limit(), links=links)
    return _seccomp.filter_bytes(rules, machine)
