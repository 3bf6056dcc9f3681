"""The launcher process of one enclave: `python -m geumgo.backends.process`, an order on standard input.

It unpacks the image, starts the program in its sandbox, and only then reads the software NSM's key; it
ends with the program, and the program ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from geumgo._base import GeumgoError, forbid_core_dumps
from geumgo.backends._api import LaunchFailed
from geumgo.backends.process import _tree
from geumgo.backends.process._child import Child, StepFailed, start
from geumgo.backends.process._host import Host, failure, serve_in_thread
from geumgo.backends.process._limits import Cgroup, Usage, choose_cpus
from geumgo.backends.process._order import MAX_LINE, Event, Measured, Order, Started, decode_order, encode
from geumgo.backends.process._paths import LOCK_FILE, VSOCK_SOCKET
from geumgo.backends.process._plan import BROKER_FD, NSM_FD, Plan, Sandbox
from geumgo.backends.process._sandboxes import (
    Probe,
    candidates,
    keep_power_over,
    probe,
    run_as,
    start_confined,
    unavailable,
)
from geumgo.image import Eif, measure, read_eif, unpack


def tell(event: Event) -> None:
    """Send an event to the manager, if it is still there."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), encode(event))


def read_order() -> Order:
    """Read the first line of standard input, and no byte after it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            break
        line += byte
    return decode_order(line)


def _version(image: int) -> tuple[int, int, int]:
    """Return what changes when somebody writes into the open file."""
    status = os.fstat(image)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Launch:
    """One enclave's way from the order to its end."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.runtime = Path(order.runtime_dir)
        self.usage = Usage(order.memory_mib << 20, choose_cpus(order.cpus, order.cid))
        self.uid = run_as()
        self.cgroup = Cgroup(())
        self._version = (0, 0, 0)
        self.broker, self._program_broker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.nsm, self._program_nsm = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(self) -> Event:
        """Launch and serve; return the last event."""
        lock = self._lock()
        try:
            image = self._open_image()
            eif = read_eif(Path(f"/proc/self/fd/{image}"))
            self._version = _version(image)
            keep_power_over(self.uid)
            tree = self._unpack(eif)
            child = self._start(tree)
            host = Host(
                child=child,
                broker=self.broker,
                uds=self.runtime / VSOCK_SOCKET,
                prepare=lambda: self._measure(eif, image),
                tell=tell,
                explain=self._explain,
            )
            return asyncio.run(host.run())
        finally:
            self.cgroup.remove()
            _tree.clear(self.runtime)
            os.close(lock)

    def _lock(self) -> int:
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.runtime / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise LaunchFailed(
                f"another enclave runs in {self.runtime}",
                fix="Give each enclave a folder of its own.",
                code="in_use",
            ) from None
        _tree.clear(self.runtime)  # what a launcher left that was killed
        return lock

    def _open_image(self) -> int:
        try:
            return os.open(self.order.eif, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LaunchFailed(
                f"the image {self.order.eif} can't be read ({error.strerror})", code="image_unreadable"
            ) from None

    def _unpack(self, eif: Eif) -> _tree.Tree:
        folder = _tree.choose_folder(self.runtime, self.uid, eif.source.size)
        (self.runtime / _tree.IMAGE_LINK).symlink_to(folder)
        into = folder / "image"
        unpacked = unpack(eif, into)
        tree = _tree.describe(unpacked.root, unpacked.cmd, unpacked.env, machine=os.uname().machine)
        _tree.place_init_files(tree, into)
        if self.uid is not None:
            _tree.make_readable(into)
        return tree

    def _start(self, tree: _tree.Tree) -> Child:
        self.cgroup = Cgroup.create(self.order.name, self.usage)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        console = self.order.console_fd if self.order.debug and self.order.console_fd > 2 else null
        descriptors = {
            0: null,
            1: console,
            2: console,
            BROKER_FD: self._program_broker.fileno(),
            NSM_FD: self._program_nsm.fileno(),
        }

        def plan(sandbox: Sandbox) -> Plan:
            return Plan(sandbox, tree, str(tree.root), self.uid, self.usage, descriptors, self.order.debug)

        try:
            child, sandbox, refused = self._start_by(tree, plan)
        finally:
            for number in {null, console}:
                os.close(number)
            self._program_broker.close()
            self._program_nsm.close()
        tell(Started(child.pid, sandbox.value, self.cgroup.made, refused))
        return child

    def _start_by(self, tree: _tree.Tree, plan: Callable[[Sandbox], Plan]) -> tuple[Child, Sandbox, str]:
        if self.order.unsandboxed:
            try:
                return start(plan(Sandbox.NONE), self.cgroup.add), Sandbox.NONE, ""
            except StepFailed as failed:
                raise unavailable([Probe(Sandbox.NONE, str(failed))]) from None
        sandboxes = candidates(self.order.sandbox)
        if not tree.module:
            sandboxes = tuple(sandbox for sandbox in sandboxes if sandbox is Sandbox.NAMESPACES)
        if not sandboxes:
            raise LaunchFailed(
                "the landlock sandbox runs images whose command is their own Python only",
                fix="Use the namespaces sandbox or the microvm backend for this image.",
                code="image_needs_namespaces",
            )
        return start_confined(sandboxes, plan, self.cgroup.add)

    def _measure(self, eif: Eif, image: int) -> None:
        """Hash the whole image, then serve the NSM: no answer comes before the image is known."""
        # Not at the top: half of a launch's time would go by before the program starts.
        from geumgo.testing.nsm import NsmAuthority, SoftwareNsm, serve_nsm
        from geumgo.testing.nsm.software import DEFAULT_REGION

        measured = measure(eif)
        if _version(image) != self._version:
            raise LaunchFailed(
                "the image was changed while it was launched", fix="Launch it again.", code="image_changed"
            )
        pcrs = {} if self.order.debug or self.order.unsandboxed else dict(measured.pcrs())
        if self.order.role_arn:
            pcrs[3] = hashlib.sha384(bytes(48) + self.order.role_arn.encode()).digest()
        nsm = SoftwareNsm(
            NsmAuthority.open(Path(self.order.nsm_state)),
            pcrs,
            instance_id=self.order.instance_id or None,
            region=self.order.region or DEFAULT_REGION,
        )
        serve_in_thread(lambda: serve_nsm(nsm, self.nsm))
        tell(Measured(nsm.module_id, measured.to_json()))

    def _explain(self) -> str:
        return " (out of memory)" if self.cgroup.ran_out_of_memory() else ""


def main() -> int:
    """Run one launch, or with `--probe` say what this machine allows. What went wrong is an event."""
    if sys.argv[1:] == ["--probe"]:
        sys.stdout.buffer.write(
            msgspec.json.encode({found.sandbox.value: found.refused for found in probe()}) + b"\n"
        )
        return 0
    forbid_core_dumps()  # it holds the software NSM's key
    os.umask(0o077)
    try:
        last = Launch(read_order()).run()
    except GeumgoError as error:
        last = failure(error)
    except OSError as error:
        last = failure(LaunchFailed(f"the launch failed ({error.strerror}: {error.filename})"))
    except Exception as error:  # a defect of ours: the manager is told, and standard error has the place
        tell(failure(error))
        raise
    tell(last)
    return 0


if __name__ == "__main__":
    sys.exit(main())
