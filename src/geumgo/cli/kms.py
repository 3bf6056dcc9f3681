"""`geumgo kms-emulator`: AWS KMS's API with attested decryption, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ("kms_emulator",)


def kms_emulator(
    state: Annotated[Path, typer.Option("--state", metavar="DIR", help="Keys, credentials and CA.")],
    port: Annotated[int, typer.Option("--port", help="TCP port; 0 for any that is free.")] = 8443,
    nitro_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--nitro-root", metavar="FILE", help="Root of a software NSM to accept; may be repeated."
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="Further name for the server certificate; may be repeated."),
    ] = None,
) -> None:
    """Serve a KMS emulator over HTTPS until told to stop."""
    # Imported here, so that the command line stays quick for every other command.
    from geumgo.testing.kms.__main__ import main

    arguments = ["--port", str(port), "--state", str(state)]
    for file in nitro_root or ():
        arguments += ["--nitro-root", str(file)]
    for name in host or ():
        arguments += ["--host", name]
    raise typer.Exit(main(arguments))
