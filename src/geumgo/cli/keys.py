"""`geumgo caller`: the keys with which callers sign."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Annotated

import typer

from geumgo import keys
from geumgo._base import GeumgoError
from geumgo.cli import _output

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="Keys of callers: make one, show its public half.")


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="The caller's name, as the measured configuration will list it.")
    ],
    output: Annotated[Path, typer.Option("--out", help="Where the private key goes (PEM, mode 0600).")],
    json: _output.Json = False,
) -> None:
    """Make a caller's key and print the public key for the measured configuration.

    Example: geumgo caller new records --out records.pem
    """
    key = keys.CallerKey.generate(name)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise GeumgoError(f"{output} can't be made: {error.strerror}", code="file") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.to_pem())
    _show(key, json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The caller's name.")],
    key: Annotated[Path, typer.Argument(help="The private key (PEM).")],
    json: _output.Json = False,
) -> None:
    """Print the public key of a caller's key file.

    Example: geumgo caller show records records.pem
    """
    try:
        pem = key.read_bytes()
    except OSError as error:
        raise GeumgoError(f"{key} can't be read: {error.strerror}", code="file") from None
    _show(keys.CallerKey.from_pem(pem, name), json=json)


def _show(key: keys.CallerKey, *, json: bool) -> None:
    shown = {"name": key.name, "public_key": base64.b64encode(key.public_bytes).decode()}
    if json:
        _output.print_json(shown)
    else:
        _output.pairs(shown)
