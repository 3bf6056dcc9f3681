"""The pages about images say what the code does, and their example runs."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from geumgo.cli.image import app
from geumgo.image import _preflight, read_eif, verify

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (DOCS / "images.md", DOCS / "ko" / "images.md")


def blocks(page: Path, language: str | None = None) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if language in (None, name)]


@pytest.mark.system
def test_the_worked_example_runs(tmp_path: Path, small: Path) -> None:
    """Sign offline with OpenSSL, as the page shows it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (example,) = blocks(PAGES[0], "sh")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "geumgo"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m geumgo.cli "$@"\n')
    command.chmod(0o755)
    small.rename(tmp_path / "app.eif")
    done = subprocess.run(
        ["sh", "-e", "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    signed = tmp_path / "signed.eif"
    made_ms = int(signed.stat().st_mtime * 1000)
    found = verify(signed, now_ms=made_ms)
    assert found.signature_ok
    assert done.stdout.count(str(found.measurements.pcr8)) == 3  # request, attached, verified
    assert read_eif(tmp_path / "app.eif").signature is None


def test_both_pages_have_the_same_commands() -> None:
    english, korean = map(blocks, PAGES)
    assert english == korean


@pytest.mark.parametrize("page", PAGES, ids=("en", "ko"))
def test_commands_and_options_exist(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^geumgo image (\S+) (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"build", "describe", "preflight", "sign", "verify", "diff", "pcr"} <= {name for name, _ in lines}
    for name, rest in lines:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest.replace("--cmd --verbose", "--cmd"))) <= options


@pytest.mark.parametrize("page", PAGES, ids=("en", "ko"))
def test_every_finding_is_on_the_page(page: Path) -> None:
    tree = ast.parse(inspect.getsource(_preflight))
    codes = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Finding"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"memory", "not_bootable"} <= codes
    text = page.read_text(encoding="utf-8")
    for code in codes | {"bad_signature", "certificate_expired"}:
        assert f"`{code}`" in text
    for anchor in re.findall(r"\]\(#(\w+)\)", text):
        assert f'<a name="{anchor}"></a>' in text
