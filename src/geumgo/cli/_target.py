"""Which enclaves a command calls, and whom it trusts: the local stack, or gateways named one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geumgo import attestation, keys
from geumgo._base import GeumgoError
from geumgo.client import AsyncClient, ClientSettings
from geumgo.testing.stack import Stack, default_state

__all__ = ("Caller", "CallerKeyFile", "Gateway", "Pcr0", "Root", "StackFolder", "connect")

StackFolder = Annotated[
    Path | None,
    typer.Option(
        "--stack", help="Call the local stack in this folder.", show_default="the one of `geumgo up`"
    ),
]
Gateway = Annotated[
    list[str] | None, typer.Option(help="Call these gateways instead (http://host:port or unix:/path).")
]
Root = Annotated[
    Path | None, typer.Option(help="PEM of a software root to trust, instead of AWS's. Only with --gateway.")
]
Pcr0 = Annotated[list[str] | None, typer.Option(help="PCR0 to accept. Needed with --gateway.")]
Caller = Annotated[str, typer.Option(help="Name of the caller in the measured configuration.")]
CallerKeyFile = Annotated[Path | None, typer.Option("--key", help="The caller's private key (PEM).")]


def connect(
    *,
    caller: str,
    key: Path | None,
    stack: Path | None,
    gateways: list[str] | None,
    root: Path | None,
    pcr0: list[str] | None,
    settings: ClientSettings | None = None,
) -> AsyncClient:
    """Return a client for what the options name.

    Raises:
        GeumgoError: an option is missing or a file can't be read.
    """
    if gateways:
        if not pcr0:
            raise GeumgoError(
                "--gateway needs --pcr0",
                why="A client verifies which code it talks to before it sends anything.",
                fix="Take PCR0 from `geumgo image describe` or from the build.",
                code="usage",
            )
        roots = attestation.TrustRoots.aws_nitro()
        if root:
            roots = attestation.TrustRoots.from_pem(_read(root), simulated=True)
        caller_key = keys.CallerKey.from_pem(_read(key), caller) if key else None
        policy = attestation.Policy(
            measurements={"pcr0": frozenset(value.lower() for value in pcr0)},
            allow_simulated=root is not None,
        )
        return AsyncClient(gateways, roots=roots, policy=policy, caller=caller_key, settings=settings)
    local = Stack.load(stack or default_state())
    record = local.pool.record()
    return AsyncClient(
        local.address,
        # The stack's own software root, out of the folder that the user named or started himself.
        roots=attestation.TrustRoots.from_pem(_read(local.nsm_state / "root.pem"), simulated=True),
        policy=attestation.Policy(measurements={"pcr0": frozenset({record.pcr0})}, allow_simulated=True),
        caller=keys.CallerKey.from_pem(_read(key), caller) if key else local.pool.caller(caller),
        settings=settings,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GeumgoError(f"{path} can't be read: {error.strerror}", code="file") from None
