"""The locked base: packages and wheels fetched, unpacked in memory, pruned, laid out.

Nothing here depends on the machine: owners, time stamps and modes of the archives are normalised later, the
umask and the user never come into it.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geumgo.image import _debian, _prune, _wheels
from geumgo.image._cache import Cache
from geumgo.image._errors import BuildError, Unavailable
from geumgo.image._layout import Architecture
from geumgo.image._loader import LIBRARY_FOLDERS
from geumgo.image._progress import WHOLE, Progress
from geumgo.image._prune import prune
from geumgo.image._python import Base, finish_base, load, recipe
from geumgo.image._run import run
from geumgo.image.cpio import Kind, Node, check_name
from geumgo.image.lock import Lock

__all__ = ("LIBRARY", "locked_base", "locked_tree", "package_nodes", "wheel_nodes")

LIBRARY = "opt/geumgo/lib"
"""Where wheels and Geumgo itself lie, inside the root file system."""
MAX_UNPACKED = 512 << 20
"""Bytes of one package or wheel; the largest, cryptography, has 15 MB."""


_TRIPLETS = {Architecture.X86_64: "x86_64-linux-gnu", Architecture.AARCH64: "aarch64-linux-gnu"}


def locked_base(lock: Lock, store: Cache, environment: Mapping[str, str], progress: Progress) -> Base:
    """Return the lock's base, from the cache or downloaded and built.

    Raises:
        Unavailable: a locked file can't be had.
        BuildError: one is malformed, or can't be run.
    """
    interpreter, home = f"/usr/bin/python{lock.python}", "/usr"
    key = f"locked-{hashlib.sha256(f'{lock!r} {recipe(_prune, sys.modules[__name__])}'.encode()).hexdigest()}"
    archive = store.built(key)
    if archive is not None:
        return Base(load(archive), key, interpreter, home)
    progress("fetching the locked packages and wheels", 0, WHOLE)
    with ThreadPoolExecutor(max_workers=1) as other:  # apt and pip wait for different servers
        fetched = other.submit(_wheels.fetch_wheels, lock, lock.wheels, store)
        packages = _debian.fetch_packages(lock, lock.packages, store, environment)
        progress("fetching the locked wheels", 20, WHOLE)
        wheels = fetched.result()
    progress("unpacking them", 30, WHOLE)
    nodes = locked_tree(
        [packages[package.name] for package in lock.packages],
        [wheels[wheel.name] for wheel in lock.wheels],
        triplet=_TRIPLETS[lock.architecture],
    )
    return finish_base(nodes, key=key, interpreter=interpreter, home=home, store=store, progress=progress)


def locked_tree(packages: Iterable[Path], wheels: Iterable[Path], *, triplet: str) -> dict[str, Node]:
    """Return the base's files by name inside the root file system, without byte code.

    Args:
        packages: Debian packages.
        wheels: wheels.
        triplet: the multiarch folder, such as `x86_64-linux-gnu`.

    Raises:
        BuildError: an archive is malformed.
    """
    nodes: dict[str, Node] = {}
    for path in packages:
        nodes.update(package_nodes(path))
    for path in wheels:
        nodes.update({f"{LIBRARY}/{name}": node for name, node in wheel_nodes(path).items()})
    kept = prune(nodes)
    folders = (f"/lib/{triplet}", f"/usr/lib/{triplet}")
    kept[LIBRARY_FOLDERS] = Node.file("".join(f"{folder}\n" for folder in folders).encode())
    return kept


def package_nodes(path: Path) -> dict[str, Node]:
    """Return the files of a Debian package.

    Raises:
        Unavailable: there is no dpkg-deb.
        BuildError: the package is malformed, or has what an image can't hold.
    """
    data = run(["dpkg-deb", "--fsys-tarfile", str(path)], error=Unavailable)
    nodes: dict[str, Node] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                name = posixpath.normpath(member.name).lstrip("/")
                if name == ".":
                    continue
                check_name(name)
                if member.isdir():
                    nodes[name] = Node.directory()
                elif member.issym():
                    nodes[name] = Node.symlink(member.linkname)
                elif member.islnk():
                    nodes[name] = nodes[posixpath.normpath(member.linkname)]
                elif member.isfile():
                    file = archive.extractfile(member)
                    content = b"" if file is None else file.read()
                    nodes[name] = Node.file(content, executable=bool(member.mode & 0o111))
                else:
                    raise BuildError(f"{path.name} has {name}, which is no file, folder or link")
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise BuildError(f"{path.name} is not a Debian package ({type(error).__name__})") from None
    return nodes


def wheel_nodes(path: Path) -> dict[str, Node]:
    """Return the files of a wheel, by name relative to the folder of libraries.

    Raises:
        BuildError: the wheel is malformed, or unpacks to too much.
    """
    nodes: dict[str, Node] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED:
                raise BuildError(f"{path.name} unpacks to more than {MAX_UNPACKED} bytes", code="too_large")
            for info in archive.infolist():
                if info.is_dir() or ".data/" in info.filename:
                    continue
                check_name(info.filename)
                library = info.filename.endswith(".so") or ".so." in info.filename
                nodes[info.filename] = Node.file(archive.read(info), executable=library)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise BuildError(f"{path.name} is not a wheel ({type(error).__name__})") from None
    return {name: node for name, node in nodes.items() if node.kind is Kind.FILE}
