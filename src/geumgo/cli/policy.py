"""`geumgo policy`: compile a de-identification policy and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geumgo._base import GeumgoError
from geumgo.cli import _output
from geumgo.client.policy import compile_policy

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="De-identification policies: check, compile, digest.")


@app.command()
def check(
    policy: Annotated[Path, typer.Argument(help="Policy in YAML.")],
    output: Annotated[Path | None, typer.Option("--out", help="Write the compiled policy here.")] = None,
    json: _output.Json = False,
) -> None:
    """Compile a policy and say what it does. Its SHA-256 is what a measured configuration lists.

    Example: geumgo policy check examples/deid/policy.yaml
    """
    try:
        text = policy.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GeumgoError(f"{policy} can't be read ({type(error).__name__})", code="file") from None
    compiled = compile_policy(text, source=str(policy))
    if output:
        output.write_bytes(compiled.to_bytes())
    shown = {
        "sha256": compiled.digest.hex(),
        "purposes": sorted(compiled.purposes),
        "reversible": compiled.reversible,
        "deterministic": compiled.deterministic,
        "keeps": sorted(compiled.keeps),
        "encrypted_fields": sorted(compiled.encrypted_fields),
    }
    if json:
        _output.print_json(shown)
    else:
        _output.pairs({k: ", ".join(v) if isinstance(v, list) else v for k, v in shown.items()})
