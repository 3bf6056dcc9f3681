"""What the child process becomes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from geumgo.backends.process._limits import Usage
from geumgo.backends.process._tree import INIT_FOLDER, Tree
from geumgo.vsock.provider import VSOCK_FD_VARIABLE

__all__ = ("BROKER_FD", "INIT_MODULE", "NSM_FD", "Plan", "Sandbox", "command", "environment")

BROKER_FD, NSM_FD = 3, 4
INIT_MODULE = "geumgo.enclave.init"


class Sandbox(enum.Enum):
    """How the program is confined; the value is the name shown to people."""

    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    NONE = "none"

    @property
    def host_paths(self) -> bool:
        """Whether the program sees the image as a folder among the host's."""
        return self is not Sandbox.NAMESPACES


@dataclass(frozen=True, slots=True)
class Plan:
    """One start of a program.

    Attributes:
        sandbox: how.
        tree: what; None tries the sandbox on `folder` and ends before exec.
        folder: the image's root file system on this machine.
        uid: the user and group to become first; None: the launcher's own (it is no root).
        usage: limits.
        descriptors: the launcher's descriptor for each of the program's: 0, 1, 2, broker, NSM.
        debug: whether the program is told that its console is read.
    """

    sandbox: Sandbox
    tree: Tree | None
    folder: str
    uid: int | None
    usage: Usage
    descriptors: Mapping[int, int]
    debug: bool


def command(plan: Plan, tree: Tree) -> tuple[str, list[str]]:
    """Return the file to execute, as a path once the sandbox stands, and its arguments.

    The dynamic loader is always called by its path, in both sandboxes: an image has no loader cache, and
    the host's must not be read.
    """
    outer = str(tree.root) if plan.sandbox.host_paths else ""
    python = outer + tree.python
    arguments = [python, "-B", "-P", "-m", INIT_MODULE]
    if tree.loader is None:
        return python, arguments
    loader = f"{outer}/{tree.loader}"
    libraries = ":".join(f"{outer}/{folder}" for folder in tree.libraries)
    return loader, [loader, "--inhibit-cache", "--library-path", libraries, *arguments]


def environment(plan: Plan, tree: Tree) -> dict[str, str]:
    """Return the whole environment of the init; it sets the image's own for the program afterwards."""
    outer = str(tree.root) if plan.sandbox.host_paths else ""
    variables = {
        "GEUMGO_ROOT": outer or "/",
        "GEUMGO_CMD": f"{outer}/{INIT_FOLDER}/cmd",
        "GEUMGO_ENV": f"{outer}/{INIT_FOLDER}/env",
        "GEUMGO_PROCESS": f"{outer}/{INIT_FOLDER}/process",
        VSOCK_FD_VARIABLE: str(BROKER_FD),
        "GEUMGO_NSM_FD": str(NSM_FD),
        # Each further arena reserves 64 MiB of address space, which the limit counts.
        "MALLOC_ARENA_MAX": "2",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    if plan.debug:
        variables["GEUMGO_DEBUG"] = "1"
    for name in ("PYTHONHOME", "PYTHONPATH"):
        if name in tree.env:
            places = tree.env[name].split(":")
            variables[name] = ":".join(outer + place if place.startswith("/") else place for place in places)
    if outer and "PYTHONHOME" not in variables:
        # Python would look for its library around its own file too, but only this way never on the host.
        variables["PYTHONHOME"] = f"{outer}{tree.python.rpartition('/')[0].rpartition('/')[0]}"
    return variables
