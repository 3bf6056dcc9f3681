"""An image is released for the configuration that it holds, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geumgo.image import CpioError, ImageError, cpio, read_eif, write_eif
from geumgo.image.configured import check_configuration, configuration_of
from geumgo.image.cpio import Node

MINE = b'{"version": 1}\n'
PLACE = "rootfs/etc/geumgo/measured.json"


@pytest.fixture
def image(tmp_path: Path, make_parts: Callable[..., list[Any]]) -> Callable[..., Any]:
    def make(*ramdisks: dict[str, Node]) -> Any:
        parts = make_parts({})
        bodies = [cpio.Archive(nodes, mtime=0).to_bytes() for nodes in ramdisks]
        kind = parts[-1].kind
        path = tmp_path / "x.eif"
        write_eif(path, [*parts[:-1], *(type(parts[-1])(kind, body) for body in bodies)])
        return read_eif(path)

    return make


def test_the_file_is_found_and_compared(image: Callable[..., Any]) -> None:
    eif = image({PLACE: Node.file(MINE), "cmd": Node.file(b"x\n")})
    assert configuration_of(eif) == MINE
    check_configuration(eif, MINE)
    with pytest.raises(ImageError) as caught:
        check_configuration(eif, MINE.replace(b"1", b"2"))
    assert caught.value.code == "other_configuration"


def test_none(image: Callable[..., Any]) -> None:
    with pytest.raises(ImageError) as caught:
        configuration_of(image({"rootfs/etc/other": Node.file(b"")}))
    assert caught.value.code == "no_configuration"


def test_too_large(image: Callable[..., Any]) -> None:
    with pytest.raises(ImageError) as caught:
        configuration_of(image({PLACE: Node.file(bytes((1 << 20) + 1))}))
    assert caught.value.code == "too_large"


EVIL = {"evil/measured.json": Node.file(b"evil"), "evil/geumgo/measured.json": Node.file(b"evil")}


@pytest.mark.parametrize(
    "ramdisks",
    [
        pytest.param(
            [{PLACE: Node.file(MINE)}, {PLACE: Node.file(b"evil")}], id="a later ramdisk has it again"
        ),
        pytest.param([{PLACE: Node.file(MINE)}, {PLACE: Node.symlink("/evil")}], id="a later one has a link"),
        pytest.param([{PLACE: Node.symlink("../../../evil/measured.json"), **EVIL}], id="a link"),
        pytest.param([{"rootfs/etc/geumgo": Node.symlink("../../evil"), **EVIL}], id="below a link"),
        pytest.param(
            [{PLACE: Node.file(MINE)}, {"rootfs/etc": Node.symlink("../evil"), **EVIL}],
            id="below a later link",
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(image: Callable[..., Any], ramdisks: list[Any]) -> None:
    with pytest.raises((ImageError, CpioError)) as caught:
        check_configuration(image(*ramdisks), MINE)
    assert caught.value.code == "other_configuration"
