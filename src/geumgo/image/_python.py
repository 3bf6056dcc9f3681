"""A Python and its libraries as an image's base: built once, kept as one archive, byte code included."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geumgo.image import _bytecode, _unpack
from geumgo.image._bytecode import compile_tree
from geumgo.image._cache import Cache
from geumgo.image._progress import WHOLE, Progress
from geumgo.image._source import BytesSource, FileSource, Window
from geumgo.image.cpio import DEFAULT_MTIME, Archive, Kind, Node, read

__all__ = ("Base", "compile_application", "finish_base", "recipe")


@dataclass(frozen=True, slots=True)
class Base:
    """What the application's files are put on.

    Attributes:
        nodes: files by name inside the root file system.
        key: names the content: equal keys, equal nodes.
        interpreter: absolute path of Python inside the image.
        home: PYTHONHOME inside the image.
    """

    nodes: Mapping[str, Node]
    key: str
    interpreter: str
    home: str


def recipe(*modules: object) -> str:
    """Return a digest of how a base is made, so that a changed rule never meets a base made by the old one."""
    sources = "".join(inspect.getsource(module) for module in modules)  # type: ignore[arg-type]
    return hashlib.sha256((sources + inspect.getsource(_bytecode)).encode()).hexdigest()


def load(archive: Path) -> dict[str, Node]:
    """Return the nodes of an archive in the cache; contents stay in the file until they are written."""
    source = FileSource(archive)
    nodes = {}
    for entry in read(source):
        data = Window(source, entry.offset, entry.size)
        if entry.kind is Kind.SYMLINK:
            nodes[entry.name] = Node(entry.kind, entry.mode, bytes(data.read_at(0, entry.size)))
        else:
            nodes[entry.name] = Node(entry.kind, entry.mode, b"" if entry.kind is Kind.DIRECTORY else data)
    return nodes


def finish_base(
    nodes: Mapping[str, Node], *, key: str, interpreter: str, home: str, store: Cache, progress: Progress
) -> Base:
    """Compile a base's Python files and keep it all in the cache under `key`.

    Raises:
        BuildError: the base's Python can't be run.
    """
    complete = dict(nodes)
    with store.scratch() as scratch:
        progress("unpacking Python and its libraries", 40, WHOLE)
        _unpack.unpack_archives([_in_memory(complete)], scratch / "root")
        progress("compiling Python's library", 50, WHOLE)
        names = [name for name, node in nodes.items() if name.endswith(".py") and node.kind is Kind.FILE]
        (scratch / "out").mkdir()
        complete.update(compile_tree(scratch / "root", names, scratch / "out", cmd=interpreter, home=home))
        archive = store.add_built(key, Archive(complete, mtime=DEFAULT_MTIME).chunks())
    return Base(load(archive), key, interpreter, home)


def compile_application(own: Mapping[str, Node], base: Base, store: Cache) -> dict[str, Node]:
    """Return the byte code of an application's Python files, from the cache where they were compiled before.

    Raises:
        BuildError: the base's Python can't be run.
    """
    sources = {name: node for name, node in sorted(own.items()) if name.endswith(".py")}
    contents = {name: _content(node) for name, node in sources.items()}
    digest = hashlib.sha256(base.key.encode())
    for name, content in contents.items():
        digest.update(f"\n{len(name)} {name} {len(content)} ".encode() + content)
    key = f"application-{digest.hexdigest()}"
    archive = store.built(key)
    if archive is None:
        with store.scratch() as scratch:
            tree = {**base.nodes, **{name: Node.file(content) for name, content in contents.items()}}
            _unpack.unpack_archives([_in_memory(tree)], scratch / "root")
            (scratch / "out").mkdir()
            made = compile_tree(
                scratch / "root", contents, scratch / "out", cmd=base.interpreter, home=base.home
            )
            archive = store.add_built(key, Archive(made, mtime=DEFAULT_MTIME).chunks())
    return load(archive)


def _content(node: Node) -> bytes:
    source = node.source()
    return bytes(source.read_at(0, source.size))


def _in_memory(nodes: Mapping[str, Node]) -> BytesSource:
    return BytesSource(Archive(nodes, mtime=DEFAULT_MTIME).to_bytes())
