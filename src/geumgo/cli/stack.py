"""`geumgo up`, `ps`, `logs`, `down`: the local stack."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from geumgo._base import private_folder
from geumgo.cli import _interrupt, _output
from geumgo.cli._birth import bring_up
from geumgo.client.policy import compile_policy
from geumgo.testing.stack import Stack, StackSettings, default_state

__all__ = ("State", "down", "logs", "ps", "runtime_folder", "up")

State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of the stack.", show_default="~/.local/state/geumgo/default"),
]


def runtime_folder(state: Path) -> Path:
    """Return a short folder of this user for the sockets of the stack under `state`.

    Raises:
        GeumgoError: it can't be made, or somebody else made it.
    """
    # Stacks must not meet, and the path of a socket must be short.
    whole = str(state.resolve())
    name = f"{state.name[:16]}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}"
    home = os.environ.get("XDG_RUNTIME_DIR")
    if home and os.access(home, os.W_OK):
        return Path(home) / "geumgo" / name
    return private_folder() / name


def up(
    state: State = None,
    enclaves: Annotated[int, typer.Option(min=1, max=16, help="Enclaves, each with its manager.")] = 2,
    gateways: Annotated[int, typer.Option(min=1, max=8, help="Gateways on one port.")] = 2,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="Policy that the caller `crm` may bring for fields encrypted under its data key."),
    ] = None,
    sandbox: Annotated[str, typer.Option(help="auto, namespaces or landlock.")] = "auto",
    unsandboxed: Annotated[
        bool, typer.Option(help="No sandbox: PCRs are zero and the key stays locked.")
    ] = False,
    debug: Annotated[bool, typer.Option(help="Console on, PCRs zero, so that the key stays locked.")] = False,
    json: _output.Json = False,
) -> None:
    """Start a local stack and leave it running: key service, enclaves, gateways.

    Example: geumgo up && geumgo call deidentify --policy policy.yaml --in customers.csv --out safe.csv
    """
    digests = tuple(compile_policy(path.read_text(), source=str(path)).digest.hex() for path in policy or ())
    folder = state or default_state()
    settings = StackSettings(
        folder,
        runtime_folder(folder),
        enclaves=enclaves,
        gateways=gateways,
        sandbox=sandbox,
        unsandboxed=unsandboxed,
        debug=debug,
    )
    stack = Stack(settings, policies=digests)
    built = _interrupt.run(bring_up(stack))
    shown = {
        "http": stack.address,
        "grpc": f"127.0.0.1:{stack.port('grpc')}",
        "pcr0": built.measurements.pcr0,
        "state": str(folder),
    }
    if json:
        _output.print_json(shown)
        return
    keyless = ("PCRs are zero, so the enclaves have no key",) if settings.keyless else ()
    _output.pairs({**shown, "notes": "; ".join((*built.notes, *keyless))}, title="The stack is up")
    named = "" if state is None else f" --state {shlex.quote(str(folder))}"
    stack_named = named.replace("--state", "--stack", 1)
    _output.next_steps(
        f"call deidentify{stack_named} --policy P --in F --out G", f"ps{named}", f"down{named}"
    )


def ps(state: State = None, json: _output.Json = False) -> None:
    """List the parts of the stack and what their enclaves say.

    Example: geumgo ps --json
    """
    stack = Stack.load(state or default_state())
    rows = asyncio.run(_rows(stack))
    if json:
        _output.print_json(rows)
        return
    columns = ("name", "role", "pid", "state", "sandbox", "restarts", "reason")
    _output.table(columns, [[row.get(column) for column in columns] for row in rows])


async def _rows(stack: Stack) -> list[dict[str, Any]]:
    rows = []
    for process in stack.processes:
        row: dict[str, Any] = {"name": process.name, "role": process.role, "pid": process.pid}
        row["state"] = "running" if process.alive else "dead"
        if process.role == "manager" and process.alive:
            status = await stack.enclave_status(process.name)
            row |= {key: status.get(key) for key in ("sandbox", "restarts", "reason", "measurements")}
            row["state"] = status.get("enclave_state") or status.get("state") or "unknown"
        rows.append(row)
    return rows


def logs(
    name: Annotated[str, typer.Argument(help="A part's name, as `geumgo ps` lists it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    state: State = None,
) -> None:
    """Show a part's log.

    Example: geumgo logs enclave-1 -f
    """
    process = Stack.load(state or default_state()).process(name)
    command = ["tail", "-n", str(lines), *(["-f"] if follow else []), process.log]
    subprocess.run(command, check=False)


def down(
    state: State = None,
) -> None:
    """Stop the stack. Keys and images stay in its folder.

    Example: geumgo down
    """
    stack = Stack.load(state or default_state())
    count = len(stack.processes)
    with _output.progress("stopping"):
        stack.stop()
    _output.out.print(f"stopped {count} processes")
