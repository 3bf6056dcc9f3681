"""Layers laid over each other, in memory: names and attributes here, contents in the temporary file.

Rules: OCI image-spec, `layer.md`. Nothing is extracted: a symbolic link is followed within this tree only,
whose root has no way out, as containerd does it below a container's root.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from geumgo.image import cpio
from geumgo.image._errors import BuildError, CpioError
from geumgo.image._oci._limits import MAX_LINKS, MAX_TARGET, MAX_WALK, Limits
from geumgo.image._oci._spool import Spool
from geumgo.image._oci._tar import TarEntry, TarKind, TarReader
from geumgo.image._source import Window

__all__ = ("Inode", "Tree", "merge")

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
AUFS = ".wh..wh."
"""Names that AUFS kept for itself; no file of the image."""
CAPABILITY = "security.capability"

_KINDS = {
    TarKind.FILE: cpio.Kind.FILE,
    TarKind.SYMLINK: cpio.Kind.SYMLINK,
    TarKind.CHARACTER: cpio.Kind.CHARACTER,
    TarKind.BLOCK: cpio.Kind.BLOCK,
    TarKind.DIRECTORY: cpio.Kind.DIRECTORY,
    TarKind.FIFO: cpio.Kind.FIFO,
}
_HELD = (cpio.Kind.FILE, cpio.Kind.SYMLINK, cpio.Kind.DIRECTORY)


@dataclass(slots=True, eq=False)
class Inode:
    """What a name, or several hard-linked ones, stand for."""

    kind: cpio.Kind
    mode: int
    uid: int
    gid: int
    data: Window | bytes
    attributes: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Item:
    """A name's place in the tree.

    Attributes:
        inode: what is there.
        layer: the one that put it there; whiteouts hide lower layers only.
        children: a folder's, by name.
        emptied: the layer that last hid everything below, so that it is looked through once.
    """

    inode: Inode
    layer: int
    children: dict[str, _Item]
    emptied: int = -1


class Tree:
    """A root file system as names and inodes.

    Args:
        limits: what it may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._root = _Item(_folder(), 0, {})
        self._count = 0
        self._names = 0
        self._layer = 0

    def begin(self, layer: int) -> None:
        """Say that what follows is of this layer; numbers rise."""
        self._layer = layer

    def add(self, entry: TarEntry, reader: TarReader, spool: Spool) -> None:
        """Lay one entry of the current layer over what is there.

        Raises:
            BuildError: a name that leads elsewhere, a link to nothing, or more than the limits allow.
        """
        components = _components(entry.name)
        if not components:
            if entry.kind is not TarKind.DIRECTORY:
                raise BuildError("a layer's root is not a folder", code="bad_layer")
            return
        base = components[-1]
        if any(component.startswith(AUFS) for component in components) and base != OPAQUE:
            return
        if any(component.startswith(WHITEOUT) for component in components[:-1]):
            raise _refused(entry.name, "lies in a whiteout")
        if base.startswith(WHITEOUT):
            self._white_out(components, entry.name)
            return
        if entry.kind is TarKind.LINK:
            inode = self._linked(entry)
        else:
            inode = self._made(entry, reader, spool)
        parent = self._walk(components[:-1], entry.name, make=True)
        assert parent is not None
        there = parent.children.get(base)
        if there is not None and there.inode.kind is inode.kind is cpio.Kind.DIRECTORY:
            there.inode, there.layer = inode, self._layer
            return
        self._replace(parent, base, inode)

    def find(self, name: str) -> Inode | None:
        """Return what a program with this root finds under an absolute name, links followed; None if nothing."""
        found = self._walk(name.split("/"), name, make=False)
        return None if found is None else found.inode

    def make_folder(self, name: str) -> None:
        """Make a folder where there is nothing yet.

        Raises:
            BuildError: something else is in the way.
        """
        self._walk(name.split("/"), name, make=True)

    def nodes(self) -> dict[str, cpio.Node]:
        """Return the tree for a ramdisk; what one can't hold isn't in it, see `left_out`.

        Raises:
            BuildError: the whole paths have more bytes than the limit.
        """
        found: dict[str, cpio.Node] = {}
        counts: dict[int, int] = {}
        listed = self._listed()
        for _, inode in listed:
            counts[id(inode)] = counts.get(id(inode), 0) + 1
        links: dict[int, int] = {}
        for name, inode in listed:
            if inode.kind not in _HELD:
                continue
            several = inode.kind is cpio.Kind.FILE and counts[id(inode)] > 1
            link = links.setdefault(id(inode), len(links)) if several else None
            found[name] = cpio.Node(inode.kind, inode.mode, inode.data, inode.uid, inode.gid, link)
        return found

    def left_out(self) -> tuple[str, ...]:
        """Return what a ramdisk can't hold, a line each: devices, pipes, extended attributes."""
        lines = []
        for path, inode in self._listed():
            name = repr(path)[1:-1]  # no escape sequence for somebody's terminal
            if inode.kind not in _HELD:
                lines.append(f"{name}: {inode.kind.name.lower()}{'' if _pipe(inode) else ' device'}")
            for attribute in inode.attributes:
                what = (
                    "file capabilities" if attribute == CAPABILITY else f"attribute {repr(attribute)[1:-1]}"
                )
                lines.append(f"{name}: {what}")
        return tuple(lines)

    def _listed(self) -> list[tuple[str, Inode]]:
        found = []
        size = 0
        pending = [("", self._root)]
        while pending:
            prefix, item = pending.pop()
            for name, child in item.children.items():
                path = prefix + name
                size += len(os.fsencode(path))
                if size > self._limits.paths:
                    raise BuildError(
                        f"the image's paths have more than {self._limits.paths} bytes", code="too_large"
                    )
                found.append((path, child.inode))
                if child.children:
                    pending.append((f"{path}/", child))
        found.sort(key=lambda pair: os.fsencode(pair[0]).split(b"/"))
        return found

    def _made(self, entry: TarEntry, reader: TarReader, spool: Spool) -> Inode:
        kind = _KINDS[entry.kind]
        data: Window | bytes = b""
        mode = entry.mode
        if kind is cpio.Kind.FILE:
            if entry.size > cpio.MAX_FILE:
                raise _refused(entry.name, "has 4 GiB or more, which a ramdisk can't hold")
            data = spool.add(reader.data())
        elif kind is cpio.Kind.SYMLINK:
            data, mode = os.fsencode(entry.link), 0o777
            if not 0 < len(data) <= MAX_TARGET:
                raise _refused(entry.name, f"is a link with a target of {len(data)} bytes")
            self._keep(len(data))
        elif kind is cpio.Kind.CHARACTER and entry.device == (0, 0):
            raise _refused(entry.name, "is a whiteout of overlayfs, which has no meaning in an image")
        self._keep(sum(len(os.fsencode(name)) for name in entry.attributes))
        return Inode(kind, mode, entry.uid, entry.gid, data, entry.attributes)

    def _linked(self, entry: TarEntry) -> Inode:
        target = _components(entry.link)
        parent = self._walk(target[:-1], entry.link, make=False) if target else None
        found = None if parent is None else parent.children.get(target[-1])
        if found is None:
            raise _refused(entry.name, "is a hard link to something that is not there")
        if found.inode.kind is cpio.Kind.DIRECTORY:
            raise _refused(entry.name, "is a hard link to a folder")
        return found.inode

    def _walk(self, names: Iterable[str], whole: str, *, make: bool) -> _Item | None:
        """Return the place that names lead to from the root, links followed.

        Args:
            names: components; empty ones and `.` stay, `..` climbs, but never above the root.
            whole: for errors.
            make: make folders that are missing; otherwise None stands for what is missing or no folder.
        """
        way = [self._root]
        pending = deque(names)
        links = steps = 0
        while pending:
            name = pending.popleft()
            steps += 1
            if steps > MAX_WALK or len(way) > cpio.MAX_DEPTH:
                raise _refused(whole, "leads through too many names")
            if way[-1].inode.kind is not cpio.Kind.DIRECTORY:
                if make:
                    raise _refused(whole, "lies in something that is not a folder")
                return None
            if name in ("", "."):
                continue
            if name == "..":
                del way[1 if len(way) == 1 else len(way) - 1 :]
                continue
            child = way[-1].children.get(name)
            if child is None:
                if not make:
                    return None
                child = self._replace(way[-1], name, _folder())
            if child.inode.kind is cpio.Kind.SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    raise _refused(whole, "leads through too many links")
                assert isinstance(child.inode.data, bytes)
                target = os.fsdecode(child.inode.data)
                if target.startswith("/"):
                    del way[1:]
                pending.extendleft(reversed(target.split("/")))
                continue
            way.append(child)
        if make and way[-1].inode.kind is not cpio.Kind.DIRECTORY:
            raise _refused(whole, "lies in something that is not a folder")
        return way[-1]

    def _replace(self, parent: _Item, name: str, inode: Inode) -> _Item:
        there = parent.children.pop(name, None)
        if there is not None:
            self._count -= _size(there)
        self._count += 1
        if self._count > self._limits.entries:
            raise BuildError(f"the image has more than {self._limits.entries} files", code="too_large")
        self._keep(len(os.fsencode(name)))
        # What is new has nothing of a lower layer below it.
        made = parent.children[name] = _Item(inode, self._layer, {}, self._layer)
        return made

    def _keep(self, size: int) -> None:
        self._names += size
        if self._names > self._limits.names:
            raise BuildError(f"the image's names have more than {self._limits.names} bytes", code="too_large")

    def _white_out(self, components: list[str], name: str) -> None:
        """Hide what lower layers have: everything in a folder, or one name."""
        parent = self._walk(components[:-1], name, make=False)
        if parent is None or parent.inode.kind is not cpio.Kind.DIRECTORY:
            return
        if components[-1] == OPAQUE:
            self._empty(parent)
            return
        hidden = components[-1].removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise _refused(name, "is a whiteout of no name")
        there = parent.children.get(hidden)
        if there is None:
            return
        self._empty(there)
        if there.layer == self._layer:
            return
        if there.children:  # of this layer, which did not say what their folder is like
            there.inode, there.layer = _folder(), self._layer
        else:
            del parent.children[hidden]
            self._count -= 1

    def _empty(self, item: _Item) -> None:
        """Remove what lower layers put below; folders of theirs stay where this layer put something inside."""
        if item.emptied == self._layer:
            return
        item.emptied = self._layer
        for name, child in list(item.children.items()):
            self._empty(child)
            if child.layer == self._layer:
                continue
            if child.children:
                child.inode, child.layer = _folder(), self._layer
            else:
                del item.children[name]
                self._count -= 1


def merge(tree: Tree, reader: TarReader, spool: Spool, layer: int) -> None:
    """Lay a whole layer over the tree.

    Raises:
        BuildError: it is malformed, hostile or too large.
    """
    tree.begin(layer)
    for entry in reader:
        tree.add(entry, reader, spool)


def _components(name: str) -> list[str]:
    """Return a name's parts; absolute ones begin at the root of the image, as Docker takes them."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts:
        try:
            cpio.check_name("/".join(parts))
        except CpioError as error:
            raise BuildError(f"a layer can't be read: {error.what}", code="bad_layer") from None
    return parts


def _folder() -> Inode:
    return Inode(cpio.Kind.DIRECTORY, 0o755, 0, 0, b"", ())


def _pipe(inode: Inode) -> bool:
    return inode.kind is cpio.Kind.FIFO


def _size(item: _Item) -> int:
    return 1 + sum(_size(child) for child in item.children.values())


def _refused(name: str, how: str) -> BuildError:
    return BuildError(f"{name[:200]!r} of a layer {how}", code="bad_layer")
