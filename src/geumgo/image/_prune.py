"""What of the base the enclave's program can't use: left out, so that the image is small and shows less."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping

from geumgo.image._elf import parse_elf
from geumgo.image.cpio import Kind, Node

__all__ = ("prune", "unloadable", "wanted")

# Matched against names inside the root file system, from the start.
_UNWANTED = re.compile(
    r"""
    (?:.*/)?__pycache__(?:/|$)                                # the image's own Python compiles
  | .*\.(?:pyi|pyx|pxd|c|h|a|exe)$
  | usr/share/(?!doc/[^/]+/copyright$)(?!doc$|doc/[^/]+$).+   # licences stay
  | usr/share/doc/[^/]+/(?!copyright$).+
  | usr/lib/[^/]+/gconv(?:/|$) | lib/[^/]+/gconv(?:/|$)       # iconv; Python has codecs of its own
  | (?:usr/)?lib/[^/]+/(?:audit/|libmemusage|libpcprofile|libthread_db|libnss_(?:compat|hesiod)|libSegFault)
  | (?:usr/)?lib/[^/]+/perl
  | etc/(?!ssl(?:/|$)).+ | usr/lib/ssl/misc
  | usr/(?:include|sbin|games|src)(?:/|$) | sbin/ | bin/
  | var/.+
  | usr/lib/python3(?:/|$)
  | usr/lib/python3\.\d+/(?:
        test | idlelib | tkinter | turtledemo | lib2to3 | ensurepip | pydoc_data | distutils | venv
      | unittest | curses | config-[^/]* | site-packages | dist-packages | dist-info
      | LICENSE\.txt | EXTERNALLY-MANAGED | sitecustomize\.py
      | (?:turtle | pydoc | doctest | pdb | this | antigravity | webbrowser)\.py
      | lib-dynload/(?:_test|_ctypes_test|_tkinter|xx|nis|ossaudiodev|audioop)
    )
  | opt/geumgo/lib/(?:.*/)?tests?/
  | opt/geumgo/lib/cffi(?:/|$)                                # only its backend module is used
  | opt/geumgo/lib/[^/]+\.dist-info/(?!METADATA$|licenses/|LICENSE).+
    """,
    re.VERBOSE,
)
_LOADABLE = re.compile(r".*\.so(?:\.[0-9.]+)?$")


def wanted(name: str) -> bool:
    """Return whether a file of the base, named inside the root file system, belongs into the image."""
    return _UNWANTED.match(name) is None


def prune(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Return the nodes without what is unwanted, what can't be loaded, and folders left empty."""
    kept = {name: node for name, node in nodes.items() if wanted(name)}
    while gone := unloadable(kept):
        kept = {name: node for name, node in kept.items() if name not in gone}
    kept = {name: node for name, node in kept.items() if not _dangling(name, node, kept)}
    occupied = {
        name[:at] for name, node in kept.items() if node.kind is not Kind.DIRECTORY for at in _slashes(name)
    }
    return {name: node for name, node in kept.items() if node.kind is not Kind.DIRECTORY or name in occupied}


def _dangling(name: str, node: Node, nodes: Mapping[str, Node]) -> bool:
    if node.kind is not Kind.SYMLINK:
        return False
    target = os.fsdecode(bytes(node.source().read_at(0, node.source().size)))
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(name), target)).lstrip("/") not in nodes


def _slashes(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == "/"]


def unloadable(nodes: Mapping[str, Node]) -> set[str]:
    """Return the libraries and extension modules that want a library that the image has not.

    Extension modules of the standard library whose library is in no locked package (bz2, lzma, sqlite3)
    fail at import either way; absent, they fail with the message that Python has for that.
    """
    present = {name.rpartition("/")[2] for name in nodes}
    gone = set()
    for name, node in nodes.items():
        if node.kind is not Kind.FILE or _LOADABLE.match(name) is None:
            continue
        elf = parse_elf(node.source())
        if elf is not None and any(library not in present for library in elf.needed):
            gone.add(name)
    return gone
