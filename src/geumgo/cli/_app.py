"""The command groups in one application."""

from __future__ import annotations

from typing import Annotated

import typer

import geumgo
from geumgo.cli import attestation, call, demo, image, keys, policy, pool, stack

__all__ = ("app",)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Enclaves for every pod: AWS Nitro Enclaves and Intel SGX on Kubernetes, and in software on any laptop.",
    epilog="Start with: geumgo demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"geumgo {geumgo.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("ps")(stack.ps)
app.command("logs")(stack.logs)
app.command("call")(call.call)
app.add_typer(image.app, name="image")
app.add_typer(attestation.app, name="attestation")
app.add_typer(policy.app, name="policy")
app.add_typer(pool.app, name="pool")
app.add_typer(keys.app, name="caller")


def _server(name: str, text: str) -> None:
    # These replace the process before this application is built (see `_main`); here they have their help line.
    app.command(name, help=text, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
        lambda: None
    )


_server(
    "manager", "Launch one enclave, supervise it, and serve its API to the pod. See `geumgo manager --help`."
)
_server("gateway", "Serve many clients from a pool of enclaves. See `geumgo gateway --help`.")
_server(
    "kms-emulator",
    "AWS KMS's API with attested decryption, on this machine. See `geumgo kms-emulator --help`.",
)
