"""`geumgo demo`: the main job on this machine, from an empty folder to de-identified records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geumgo.cli import _interrupt
from geumgo.cli._demo import Demo

__all__ = ("demo",)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results, the keys and the logs.")] = Path(
        "build/demo"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    sandbox: Annotated[str, typer.Option(help="auto, namespaces or landlock.")] = "auto",
) -> None:
    """De-identify 10,000 synthetic records in two attested enclaves, and prove what the parent sees.

    Example: geumgo demo --keep
    """
    _interrupt.run(Demo(output, keep=keep, sandbox=sandbox).run())
