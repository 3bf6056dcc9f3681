"""`geumgo image`: the commands as a person types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geumgo import cli
from geumgo.image import measure, read_eif, replace_byte

COMMANDS = ("build", "describe", "verify", "extract", "pcr", "diff")


@dataclass
class Done:
    stdout: str
    stderr: str


Geumgo = Callable[..., Done]


@pytest.fixture
def geumgo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Geumgo:
    """Run the command line as `geumgo image WORDS` and check its exit status."""

    def call(*words: str | Path, status: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["geumgo", "image", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == status, shown.err
        return Done(shown.out, shown.err)

    return call


def answer(geumgo: Geumgo, *words: str | Path) -> Any:
    return json.loads(geumgo(*words, "--json").stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(geumgo: Geumgo, command: str) -> None:
    assert f"Example: geumgo image {command}" in " ".join(geumgo(command, "--help").stdout.split())


def test_build_describe_verify(geumgo: Geumgo, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").write_text("x")
    options = ("--root", tmp_path / "root", "--cmd", "/app", "--cmd", "-v", "--env", "A=b=c")
    built = answer(geumgo, "build", "--out", tmp_path / "x.eif", *options)
    measured = measure(read_eif(tmp_path / "x.eif"))
    assert built["Measurements"] == measured.to_json()
    assert built["Bootable"] is False
    described = answer(geumgo, "describe", tmp_path / "x.eif")
    assert described["Measurements"] == measured.to_json()
    assert answer(geumgo, "verify", tmp_path / "x.eif") == described
    for done in (
        geumgo("build", "--out", tmp_path / "y.eif", *options),
        geumgo("describe", tmp_path / "x.eif"),
    ):
        assert measured.pcr0 in done.stdout  # in one piece, to be copied
        assert "not bootable" in done.stdout
    assert (tmp_path / "x.eif").read_bytes() == (tmp_path / "y.eif").read_bytes()


def test_pcr(geumgo: Geumgo, small: Path) -> None:
    role = "arn:aws:iam::123456789012:role/Webserver"
    found = answer(geumgo, "pcr", small, "--role", role, "--instance", "i-1234567890abcdef0")
    assert found["PCR0"] == measure(read_eif(small)).pcr0
    assert found["PCR3"].startswith("78fce75d")
    assert found["PCR4"].startswith("08f996b5")


def test_diff(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    assert "same bytes" in geumgo("diff", small, small).stdout
    replace_byte(small, tmp_path / "c.eif", "etc/banner.txt")
    done = geumgo("diff", small, tmp_path / "c.eif", status=1)
    assert done.stdout.startswith("ramdisk 1, rootfs/etc/banner.txt: content differs from byte 0 on")
    found = json.loads(geumgo("diff", small, tmp_path / "c.eif", "--json", status=1).stdout)
    assert (found["same"], len(found["differences"])) == (False, 1)


def test_extract(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    files = answer(geumgo, "extract", small, "--out", tmp_path / "parts", "--unpack")["files"]
    assert [Path(file).name for file in files][-2:] == ["ramdisk1.cpio", "rootfs"]
    assert (tmp_path / "parts/app/rootfs/etc/banner.txt").is_file()


def test_errors_are_words_and_exit_codes(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    assert "image_unreadable" in geumgo("describe", tmp_path / "absent", status=1).stderr
    assert "not_signed" in geumgo("verify", small, "--signed", status=1).stderr
    small.write_bytes(small.read_bytes()[:-1] + b"x")
    assert "bad_eif_crc" in geumgo("verify", small, status=1).stderr
    out = ("--out", tmp_path / "x.eif")
    (tmp_path / "m.json").write_text("{}")
    geumgo("build", *out, "--configuration", tmp_path / "m.json", status=1)
    geumgo("build", *out, "--configuration", tmp_path / "absent", status=1)
    geumgo("build", *out, status=2)
    geumgo("build", *out, "--root", tmp_path, "--configuration", tmp_path / "m.json", status=2)
    geumgo("build", *out, "--root", tmp_path, "--cmd", "/x", "--env", "A", status=2)
    geumgo("build", *out, "--root", tmp_path, "--cmd", "/x", "--arch", "mips", status=1)
    geumgo("pcr", status=2)
    assert not (tmp_path / "x.eif").exists()
