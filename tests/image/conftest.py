from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geumgo.image import Part, SectionType, cpio, write_eif


@pytest.fixture(scope="session")
def known_values() -> dict[str, Any]:
    shared = Path(os.environ.get("GEUMGO_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    path = shared / "fixtures" / "nitro_known_values.json"
    if not path.is_file():
        pytest.skip(f"the published values are not here ({path})")
    return dict(json.loads(path.read_text()))


def parts(application: dict[str, cpio.Node] | None = None, *, kernel: bytes = b"KERNEL") -> list[Part]:
    """A small, complete image."""
    nodes = {
        "cmd": cpio.Node.file(b"/bin/app\n-v\n"),
        "env": cpio.Node.file(b"A=1\nPATH=/bin\n"),
        "rootfs/bin/app": cpio.Node.file(b"#!/bin/sh\necho hello\n", executable=True),
        "rootfs/etc/banner.txt": cpio.Node.file(b"Hello from inside\n"),
        "rootfs/lib": cpio.Node.symlink("bin"),
        **(application or {}),
    }
    bootstrap = {"dev": cpio.Node.directory(), "init": cpio.Node.file(b"#!/bin/sh\n", executable=True)}
    return [
        Part(SectionType.KERNEL, kernel),
        Part(SectionType.CMDLINE, b"console=ttyS0"),
        Part(SectionType.METADATA, b'{"ImageName":"t","ImageVersion":"1"}'),
        Part(SectionType.RAMDISK, cpio.Archive(bootstrap, mtime=7)),
        Part(SectionType.RAMDISK, cpio.Archive(nodes, mtime=7)),
    ]


@pytest.fixture
def make_parts() -> Callable[..., list[Part]]:
    return parts


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small image in a file."""
    path = tmp_path / "small.eif"
    write_eif(path, parts())
    return path


@pytest.fixture(scope="session")
def small_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "small.eif"
    write_eif(path, parts())
    return path.read_bytes()
