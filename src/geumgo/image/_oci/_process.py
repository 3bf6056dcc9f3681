"""What a container runtime would start: program, environment, folder and user, found before anything runs.

Sources: OCI image-spec `config.md`; OCI runtime-spec `config.md`; names of users and programs are looked up in
the image's own files, once, here, so that the init needs neither and AWS's init gets an absolute path.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geumgo.image import cpio
from geumgo.image._errors import BuildError
from geumgo.image._oci._tree import Tree
from geumgo.image._source import Window

__all__ = ("PROCESS_FILE", "Process", "process_of")

PROCESS_FILE = "process"
"""In ramdisk 1, beside `cmd` and `env`: see docs/spec/ramdisk.md. AWS's init does not look for it."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What Docker sets where an image has none."""
_MAX_DATABASE = 1 << 20
"""Bytes of passwd and group: thousands of users."""
_MAX_ID = 0xFFFF_FFFE
"""-1 means "leave as it is" to the kernel."""


@dataclass(frozen=True, slots=True)
class Process:
    """What to start.

    Attributes:
        cmd: program by its absolute path, and arguments.
        env: environment.
        folder: absolute path that it starts in.
        uid: user.
        gid: group.
        groups: further groups, sorted.
    """

    cmd: tuple[str, ...]
    env: dict[str, str]
    folder: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    def file(self) -> cpio.Node:
        """Return the file that tells the init (docs/spec/ramdisk.md)."""
        groups = ",".join(map(str, self.groups))
        text = f"WORKDIR={self.folder}\nUID={self.uid}\nGID={self.gid}\nGROUPS={groups}\n"
        return cpio.Node.file(text.encode("utf-8", "surrogateescape"))


def process_of(
    config: Mapping[str, Any], tree: Tree, *, cmd: Sequence[str] | None, env: Mapping[str, str]
) -> Process:
    """Return what the image starts.

    Args:
        config: the image's configuration (the whole JSON object).
        tree: its files; the working folder is made where it is missing.
        cmd: arguments in place of the image's CMD, as `docker run` takes them.
        env: variables that win over the image's.

    Raises:
        BuildError: no program, one that isn't there, an unknown user, or malformed values.
    """
    found = config.get("config")
    values = found if isinstance(found, dict) else {}
    words = _texts(values.get("Entrypoint"), "Entrypoint")
    words += _texts(values.get("Cmd"), "Cmd") if cmd is None else list(cmd)
    if not words or not words[0]:
        raise BuildError("the image names no program", fix="Give one by --cmd.", code="no_command")
    variables: dict[str, str] = {}
    for line in _texts(values.get("Env"), "Env"):
        name, equals, value = line.partition("=")
        if not name or not equals:
            raise BuildError("a variable of the image is not NAME=value", code="bad_oci_image")
        variables[name] = value
    variables |= env
    variables.setdefault("PATH", DEFAULT_PATH)
    folder = _folder(values.get("WorkingDir"), tree)
    uid, gid, groups, home = _user(_text(values.get("User"), "User"), tree)
    variables.setdefault("HOME", home)
    program = _program(words[0], folder, variables["PATH"], tree)
    return Process((program, *words[1:]), variables, folder, uid, gid, groups)


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    # JSON may hold half of a character; a line break would be another line of the file that the init reads.
    if not isinstance(value, str) or any(char in value for char in "\n\0") or not _whole(value):
        raise BuildError(f"{what} of the image is no text on one line", code="bad_oci_image")
    return value


def _whole(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(value: object, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise BuildError(f"{what} of the image is no list of texts", code="bad_oci_image")
    return [_text(part, what) for part in value]


def _folder(value: object, tree: Tree) -> str:
    folder = _text(value, "WorkingDir") or "/"
    if not folder.startswith("/"):
        raise BuildError("the image's WorkingDir is not absolute", code="bad_oci_image")
    folder = "/" + posixpath.normpath(folder).lstrip("/")
    tree.make_folder(folder)
    return folder


def _program(name: str, folder: str, path: str, tree: Tree) -> str:
    """Return a program's absolute path, as execvp would find it."""
    if "/" in name:
        places = [posixpath.normpath(posixpath.join(folder, name))]
    else:
        places = [posixpath.join(folder, part, name) for part in path.split(":")]
    for place in places:
        inode = tree.find(place)
        if inode is not None and inode.kind is cpio.Kind.FILE and inode.mode & 0o111:
            return name if name.startswith("/") else place
    raise BuildError(
        f"the image has no program {name[:200]!r}",
        why=f"Looked for {', '.join(places)[:300]}.",
        fix="Give one by --cmd, or correct ENTRYPOINT, CMD, WORKDIR or PATH of the image.",
        code="no_command",
    )


def _user(text: str, tree: Tree) -> tuple[int, int, tuple[int, ...], str]:
    """Return uid, gid, further groups and home of `user`, `uid`, `user:group` … as Docker reads it."""
    user, _, group = text.partition(":")
    users = [line for line in _database(tree, "/etc/passwd") if len(line) >= 7]
    known = [line for line in users if line[0] == (user or "root")]
    number = _number(user) if user else 0
    if not known and number is not None:
        known = [line for line in users if _number(line[2]) == number]
    if known:
        uid, gid = _number(known[0][2]), _number(known[0][3])
    elif number is not None:
        uid, gid = number, 0
    else:
        raise BuildError(
            f"the image has no user {user[:100]!r}", why="/etc/passwd of the image does not name it."
        )
    groups: set[int] = set()
    listed = [line for line in _database(tree, "/etc/group") if len(line) >= 4]
    if group:
        found = [line[2] for line in listed if line[0] == group]
        gid = _number(found[0] if found else group)
        if gid is None:
            raise BuildError(
                f"the image has no group {group[:100]!r}", why="/etc/group of the image does not name it."
            )
    elif known:
        members = (_number(line[2]) for line in listed if known[0][0] in line[3].split(","))
        groups = {member for member in members if member is not None and member != gid}
    if uid is None or gid is None:
        raise BuildError("/etc/passwd of the image has an entry without numbers", code="bad_oci_image")
    return uid, gid, tuple(sorted(groups)), known[0][5] if known and known[0][5] else "/"


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= _MAX_ID else None


def _database(tree: Tree, name: str) -> list[list[str]]:
    inode = tree.find(name)
    if inode is None or inode.kind is not cpio.Kind.FILE or not isinstance(inode.data, Window):
        return []
    if inode.data.size > _MAX_DATABASE:
        raise BuildError(f"{name} of the image has over {_MAX_DATABASE} bytes", code="too_large")
    text = bytes(inode.data.read_at(0, inode.data.size)).decode("utf-8", "surrogateescape")
    return [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]
