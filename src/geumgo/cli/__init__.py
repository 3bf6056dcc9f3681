"""The `geumgo` command: one file a command group, no logic of its own."""

from geumgo.cli._main import main

__all__ = ("main",)
