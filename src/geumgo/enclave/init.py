"""The first program inside an enclave of the `process` backend, where no kernel boots an init of its own.

`python -m geumgo.enclave.init` tells the launcher that the enclave lives (the heartbeat), then starts the
image's program, in this same process: a sandbox allows no second `execve`.

1. Dial CID 3 port 9000 (200 ms), then CID 2, again until the deadline; send 0xB7, expect 0xB7. This is
   liveness, never trust.
2. Read `cmd` and `env` of ramdisk 1: one argument, one `NAME=value` a line (`nitro.md` §1.8); and `process`,
   where the image came from a container image (`docs/spec/ramdisk.md`).
3. Set the environment, go to the working folder and run the program: `-m MODULE` or a script of the image's
   own Python by :mod:`runpy`; anything else by `execve`, where the sandbox lets it.
"""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.enclave._errors import ConfigurationError, EnclaveError
from geumgo.vsock.provider import Provider, provider

__all__ = (
    "DIAL_TIMEOUT",
    "FALLBACK_TIMEOUT",
    "HANDED_OVER",
    "HEARTBEAT_DEADLINE",
    "MAX_FILE",
    "PAUSE",
    "Program",
    "apply_environment",
    "enter",
    "heartbeat",
    "main",
    "parse_arguments",
    "parse_environment",
    "parse_process",
    "python_program",
    "run",
)

DIAL_TIMEOUT = 0.2
"""Seconds for CID 3: where nobody is there a packet may just vanish."""
FALLBACK_TIMEOUT = 2.0
"""Seconds for CID 2, and for the answer to the heartbeat."""
HEARTBEAT_DEADLINE = 90.0
"""Seconds until the init gives up, as long as nitro-cli waits for a small enclave."""
PAUSE = 0.1
"""Seconds between rounds, so that a refusing parent isn't hammered."""
MAX_FILE = 64 << 10
"""Bytes of `cmd` or `env`; Linux allows some more for one program's arguments."""

HANDED_OVER = ("GEUMGO_VSOCK_FD", "GEUMGO_NSM_FD", "GEUMGO_ROOT", "GEUMGO_DEBUG")
"""What the launcher says and the image can't know; everything else in the environment is the image's."""

_FLAGS_ALONE = frozenset("bBdEhiIOPqsSuvx")
_PYTHON = re.compile(r"python3?(\.\d+)?", re.ASCII)
_PROCESS = {
    "WORKDIR": re.compile(r"/[^\0]*"),
    "UID": re.compile(r"[0-9]{1,10}"),
    "GID": re.compile(r"[0-9]{1,10}"),
    "GROUPS": re.compile(r"([0-9]{1,10}(,[0-9]{1,10})*)?"),
}
"""The lines of `process`, each exactly once."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program for the image's own Python: a module or a script, with its arguments."""

    module: str | None
    script: str | None
    arguments: tuple[str, ...]


async def heartbeat(
    way: Provider, *, deadline: float = HEARTBEAT_DEADLINE, port: int = vsock.HEARTBEAT_PORT
) -> int:
    """Return the CID of the parent that answered.

    Args:
        way: how to dial.
        deadline: seconds until giving up.
        port: where the parent listens.

    Raises:
        EnclaveError: `no_parent`, nobody answered in time.
    """
    until = time.monotonic() + deadline
    parents = ((vsock.CID_PARENT, DIAL_TIMEOUT), (vsock.VMADDR_CID_HOST, FALLBACK_TIMEOUT))
    while True:
        for cid, timeout in parents:
            left = until - time.monotonic()
            if left <= 0:
                raise EnclaveError("no parent answered the heartbeat in time", code="no_parent")
            if await _beat(way, cid, port, min(timeout, left)):
                return cid
        await asyncio.sleep(min(PAUSE, max(0.0, until - time.monotonic())))


async def _beat(way: Provider, cid: int, port: int, timeout: float) -> bool:
    try:
        sock = await way.connect(cid, port, timeout=timeout)
    except GeumgoError:
        return False
    try:
        async with asyncio.timeout(FALLBACK_TIMEOUT):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, bytes((vsock.HEARTBEAT_BYTE,)))
            return await loop.sock_recv(sock, 1) == bytes((vsock.HEARTBEAT_BYTE,))
    except (OSError, TimeoutError):
        return False
    finally:
        _close(sock)


def _close(sock: socket.socket) -> None:
    try:
        sock.close()
    except OSError:
        return


def parse_arguments(text: bytes) -> tuple[str, ...]:
    """Return the arguments that `cmd` holds, one a line.

    Raises:
        ConfigurationError: too large, none, or not UTF-8.
    """
    lines = _lines(text, "cmd")
    if not lines:
        raise ConfigurationError("the image's cmd is empty", fix="Build the image with a command.")
    return lines


def parse_environment(text: bytes) -> dict[str, str]:
    """Return the variables that `env` holds, one `NAME=value` a line; a later line wins.

    Raises:
        ConfigurationError: too large, not UTF-8, or a line without `=`.
    """
    variables = {}
    for line in _lines(text, "env"):
        name, equals, value = line.partition("=")
        if not equals or not name or "\0" in line:
            raise ConfigurationError("a line of the image's env is not NAME=value")
        variables[name] = value
    return variables


def parse_process(text: bytes) -> str:
    """Return the working folder that `process` names; its user is checked, and cannot be had in a sandbox.

    Raises:
        ConfigurationError: too large, not UTF-8, or other lines than docs/spec/ramdisk.md lists.
    """
    values = {}
    for line in _lines(text, "process"):
        name, _, value = line.partition("=")
        if name in values or name not in _PROCESS or not _PROCESS[name].fullmatch(value):
            raise ConfigurationError("the image's process file has a line that it can't have")
        values[name] = value
    if len(values) < len(_PROCESS):
        raise ConfigurationError("the image's process file lacks a line")
    return values["WORKDIR"]


def _lines(text: bytes, what: str) -> tuple[str, ...]:
    if len(text) > MAX_FILE:
        raise ConfigurationError(f"the image's {what} is over {MAX_FILE} bytes")
    try:
        return tuple(line for line in text.decode("utf-8").split("\n") if line)
    except UnicodeDecodeError:
        raise ConfigurationError(f"the image's {what} is not UTF-8") from None


def python_program(command: Sequence[str]) -> Program | None:
    """Return what `command` has Python run; None where it isn't a Python of this version with a program.

    Flags of the interpreter are accepted and without effect: this interpreter has started already.
    """
    name = _PYTHON.fullmatch(os.path.basename(command[0]))
    here = f".{sys.version_info.minor}"
    if name is None or name[1] not in (None, here):
        return None
    position = 1
    while position < len(command):
        argument = command[position]
        rest = tuple(command[position + 1 :])
        if argument == "-m":
            return Program(rest[0], None, rest[1:]) if rest else None
        if argument in ("-X", "-W"):
            position += 2
        elif argument.startswith("-") and argument != "-" and set(argument[1:]) <= _FLAGS_ALONE:
            position += 1
        elif argument.startswith("-"):
            return None
        else:
            return Program(None, argument, rest)
    return None


def apply_environment(
    variables: Mapping[str, str], environment: MutableMapping[str, str], root: Path, path: list[str]
) -> None:
    """Replace the environment by the image's, but for what the launcher handed over.

    Args:
        variables: the image's.
        environment: `os.environ`.
        root: the image's root as this process sees it; the image's own paths begin there.
        path: `sys.path`; folders of the image's PYTHONPATH are added in front where they are missing.
    """
    kept = {name: environment[name] for name in HANDED_OVER if name in environment}
    environment.clear()
    environment.update({**variables, **kept})
    folders = [_below(root, folder) for folder in variables.get("PYTHONPATH", "").split(":") if folder]
    path[0:0] = [folder for folder in folders if folder not in path]


def _below(root: Path, name: str) -> str:
    return str(root / name.lstrip("/")) if name.startswith("/") else name


def enter(folder: str, command: Sequence[str], root: Path, path: list[str]) -> None:
    """Go to the image's working folder, and let its Python import from where `python` itself would.

    Args:
        folder: absolute, as the image sees it.
        command: what will run.
        root: the image's root as this process sees it.
        path: `sys.path`; gets the folder of a script, or the working folder for `-m`.

    Raises:
        ConfigurationError: there is no such folder.
    """
    try:
        os.chdir(_below(root, folder))
    except OSError as error:
        raise ConfigurationError(f"the image's working folder can't be entered ({error.strerror})") from None
    program = python_program(command)
    if program is None or {"-P", "-I"} & set(command[: len(command) - len(program.arguments)]):
        return
    first = os.getcwd()
    if program.script is not None:
        first = os.path.dirname(os.path.abspath(_below(root, program.script)))
    path.insert(0, first)


def run(command: Sequence[str], root: Path) -> None:
    """Run the image's program; returns when it does, or never.

    Raises:
        ConfigurationError: it is no Python program, and can't be executed either.
    """
    program = python_program(command)
    if program is None:
        try:
            os.execve(_below(root, command[0]), list(command), dict(os.environ))
        except (OSError, ValueError):
            raise ConfigurationError(
                "this sandbox runs programs of the image's own Python only",
                fix="Use the namespaces sandbox or the microvm backend, or `python3 -m MODULE` as the command.",
                code="command_not_runnable",
            ) from None
    elif program.module is not None:
        sys.argv = [program.module, *program.arguments]
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    else:
        assert program.script is not None
        script = _below(root, program.script)
        sys.argv = [script, *program.arguments]
        runpy.run_path(script, run_name="__main__")


def main() -> None:
    """Beat, read, run."""
    root = Path(os.environ.get("GEUMGO_ROOT", "/"))
    try:
        command = parse_arguments(_read(os.environ.get("GEUMGO_CMD", "/cmd")))
        variables = parse_environment(_read(os.environ.get("GEUMGO_ENV", "/env")))
        process = os.environ.get("GEUMGO_PROCESS", "/process")
        folder = parse_process(_read(process)) if os.path.lexists(process) else None
        asyncio.run(heartbeat(provider()))
        apply_environment(variables, os.environ, root, sys.path)
        if folder is not None:
            enter(folder, command, root, sys.path)
        run(command, root)
    except GeumgoError as error:
        # These texts are about the image and the launcher; nothing of a request can be in them.
        sys.exit(error.diagnostics())


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"{name} can't be read ({error.strerror})") from None


if __name__ == "__main__":
    main()
