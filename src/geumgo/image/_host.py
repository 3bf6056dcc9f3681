"""This machine's interpreter and libraries as a base, where the locked one can't be had.

Files keep their paths, so that search paths built into them stay true. What they and the wheels need is asked
of the machine's own dynamic loader (`--list`), which runs no code of the files it looks at.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from geumgo.image._cache import Cache
from geumgo.image._elf import parse_elf
from geumgo.image._errors import BuildError
from geumgo.image._loader import LIBRARY_FOLDERS
from geumgo.image._locked import LIBRARY
from geumgo.image._progress import WHOLE, Progress
from geumgo.image._prune import unloadable, wanted
from geumgo.image._python import Base, finish_base, load, recipe
from geumgo.image._run import run
from geumgo.image._source import FileSource
from geumgo.image.cpio import Node

__all__ = ("WHEELS", "host_base")

WHEELS = ("cryptography", "cbor2", "msgspec", "_cffi_backend")
"""Modules besides the standard library's that run inside the enclave."""
LOADER_TIMEOUT = 30.0
"""Seconds for the loader to list one file's libraries; it takes milliseconds."""
_LISTED = re.compile(r"^\s+(\S+)\s+=>\s+(/.*?)\s+\(0x[0-9a-f]+\)$", re.MULTILINE)


def host_base(store: Cache, progress: Progress) -> Base:
    """Return this machine's base, from the cache where none of its files changed since.

    Raises:
        BuildError: this Python is statically linked, lacks a library, or has no file of a module.
    """
    progress("looking for this machine's Python and its libraries", 20, WHOLE)
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    home = (
        f"{sys.base_prefix}:{sys.base_exec_prefix}"
        if sys.base_prefix != sys.base_exec_prefix
        else sys.base_prefix
    )
    files = dict(_python_files(interpreter))
    files.update(_wheel_files())
    loader = _loader(interpreter)
    libraries = _libraries(loader, [interpreter, *(path for name, path in files.items() if _shared(name))])
    for path in [loader, *libraries]:
        files[str(path).lstrip("/")] = path
    digest = hashlib.sha256(f"{recipe(sys.modules[__name__])} {sys.version}".encode())
    for name, path in sorted(files.items()):
        facts = path.stat()
        digest.update(f"\n{name} {path} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}".encode())
    key = f"host-{digest.hexdigest()}"
    archive = store.built(key)
    if archive is not None:
        return Base(load(archive), key, str(interpreter), home)
    nodes = {name: Node.file(path, executable=os.access(path, os.X_OK)) for name, path in files.items()}
    for name in unloadable(nodes):
        del nodes[name]
    folders = sorted({str(path.parent) for path in libraries})
    for path in libraries:
        # An interpreter of a user's own keeps its library beside it; loaders that look only in the usual
        # folders find it, too.
        if not str(path).startswith(("/lib", "/usr/lib", "/usr/local/lib/")):
            nodes[f"usr/local/lib/{path.name}"] = Node.symlink(str(path))
    nodes[LIBRARY_FOLDERS] = Node.file("".join(f"{folder}\n" for folder in folders).encode())
    return finish_base(
        nodes, key=key, interpreter=str(interpreter), home=home, store=store, progress=progress
    )


def _python_files(interpreter: Path) -> Iterator[tuple[str, Path]]:
    yield str(interpreter).lstrip("/"), interpreter
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib"))}:
        base = folder.resolve() if not folder.name.startswith("python") else folder
        for path in _walk(base):
            # The same rules as for the locked base, which has this folder at usr/lib.
            if wanted(f"usr/lib/{version}/{path.relative_to(base)}"):
                yield str(path).lstrip("/"), path


def _wheel_files() -> Iterator[tuple[str, Path]]:
    for module in WHEELS:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise BuildError(f"this Python has no module {module}", fix="Install Geumgo's dependencies.")
        origin = Path(spec.origin)
        if spec.submodule_search_locations is None:
            yield f"{LIBRARY}/{origin.name}", origin
            continue
        package = origin.parent
        # auditwheel keeps a wheel's own libraries beside its package.
        for folder in (package, package.with_name(f"{package.name}.libs")):
            for path in _walk(folder):
                name = f"{LIBRARY}/{path.relative_to(package.parent)}"
                if wanted(name):
                    yield name, path


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", "dist-packages"})
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file():
                yield path


def _shared(name: str) -> bool:
    return name.endswith(".so") or ".so." in name


def _loader(interpreter: Path) -> Path:
    elf = parse_elf(FileSource(interpreter))
    if elf is None or elf.interpreter is None:
        raise BuildError(
            f"{interpreter} is not a dynamically linked program",
            why="An image needs the interpreter and its libraries as separate files.",
        )
    return Path(elf.interpreter)


def _libraries(loader: Path, files: Iterable[Path]) -> list[Path]:
    """Return every library that the files need, by the path that the loader found it at."""
    found: dict[str, Path] = {}
    for path in files:
        elf = parse_elf(FileSource(path))
        if elf is None or all(name in found or name == loader.name for name in elf.needed):
            continue
        try:
            listed = run(
                [str(loader), "--list", str(path)], environment={"LC_ALL": "C"}, timeout=LOADER_TIMEOUT
            )
        except BuildError:
            continue  # it can't be loaded here, so it is left out of the image
        for name, where in _LISTED.findall(listed.decode(errors="replace")):
            found.setdefault(name, Path(where))
    extra = Path("/") / "lib" / "libgcc_s.so.1"
    if "libgcc_s.so.1" not in found and extra.is_file():
        found["libgcc_s.so.1"] = extra  # glibc loads it by name when a thread is cancelled
    return sorted(set(found.values()))
