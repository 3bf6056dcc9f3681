"""How the command line talks: tables and progress for people, JSON for programs.

Results go to standard output; progress and errors go to standard error, so that `--json` pipes.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from geumgo._base import GeumgoError

__all__ = ("Json", "err", "next_steps", "out", "pairs", "print_json", "progress", "show_error", "table")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """Print `value` as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def show_error(error: GeumgoError) -> None:
    """Print what happened, what it means and what to do."""
    err.print(f"[bold red]error[/] {escape(error.what)} [dim]\\[{error.code}][/]")
    for line in (error.why, error.fix):
        if line:
            err.print(f"  {escape(line)}")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table that fits the terminal."""
    shown = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_header=any(columns),
        box=None,
    )
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(shown)


def next_steps(*steps: str) -> None:
    """Print what to do next, a line each, whole, so that it can be copied. A step is what follows `geumgo`."""
    program = (
        "geumgo" if shutil.which("geumgo") else sys.argv[0]
    )  # make runs it from a .venv that isn't active
    out.print("\nNext:")
    for step in steps:
        out.print(f"  {escape(program)} {escape(step)}", soft_wrap=True)


def pairs(values: Mapping[str, object], *, title: str = "") -> None:
    """Print names and values, one pair a line."""
    table(("", ""), [(name, value) for name, value in values.items()], title=title)


@contextmanager
def progress(label: str, total: float | None = None) -> Iterator[Progress]:
    """Show a progress bar on standard error, if that is a terminal; its first task is `label`."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    with bar:
        bar.add_task(label, total=total)
        yield bar
