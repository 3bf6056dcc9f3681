"""Every command has a help text with an example; every command that prints data has --json."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from geumgo.cli._app import app

SERVERS = {"manager", "gateway", "kms-emulator"}
SILENT = {"demo", "down", "logs", "extract"}
"""Commands that show progress or copy bytes, and print no data of their own."""


def commands(command, path: tuple[str, ...] = ()):
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from commands(below, (*path, name))
    elif path[0] not in SERVERS:
        yield pytest.param(path, command, id=" ".join(path))


@pytest.mark.parametrize(("path", "command"), list(commands(get_command(app))))
def test_help_has_an_example(path, command):
    assert command.help, "no help text"
    assert "Example" in command.help
    assert "geumgo" in command.help.partition("Example")[2]


@pytest.mark.parametrize(("path", "command"), list(commands(get_command(app))))
def test_data_comes_as_json_too(path, command):
    if path[-1] not in SILENT:
        assert any("--json" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_servers_have_their_own_help(server):
    done = subprocess.run(
        [sys.executable, "-m", "geumgo.cli", server, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert f"geumgo {server}" in done.stdout


def test_no_traceback_for_wrong_usage():
    done = subprocess.run(
        [sys.executable, "-m", "geumgo.cli", "call", "x", "--in"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_version():
    done = subprocess.run(
        [sys.executable, "-m", "geumgo.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.startswith("geumgo 0.")
