"""Byte code, compiled by the image's own Python, so that it is the same whatever Python runs the build.

Unchecked-hash files (PEP 552) carry no time stamp and are never compared with their source; `-B` and a fixed
environment keep the compiler's own imports, and with them its reference counts, the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from geumgo.image._errors import BuildError
from geumgo.image._loader import loader_command
from geumgo.image._run import run
from geumgo.image.cpio import Node

__all__ = ("compile_tree",)

COMPILE_TIMEOUT = 300.0
"""Seconds; six hundred files take about five on one core."""

# Runs inside the image's Python: names on standard input, one JSON list; byte code goes below `out`.
_PROGRAM = """
import importlib.util, json, marshal, os, sys
root, out = sys.argv[1:]
made, wrong = [], []
for name in json.load(sys.stdin):
    with open(os.path.join(root, name), "rb") as file:
        source = file.read()
    try:
        code = compile(source, "/" + name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as error:
        wrong.append(f"{name}: {error}")
        continue
    folder, _, base = name.rpartition("/")
    tag = f"{base[:-3]}.{sys.implementation.cache_tag}.pyc"
    target = "/".join(part for part in (folder, "__pycache__", tag) if part)
    os.makedirs(os.path.dirname(os.path.join(out, target)), exist_ok=True)
    with open(os.path.join(out, target), "wb") as file:
        file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little"))
        file.write(importlib.util.source_hash(source))
        file.write(marshal.dumps(code))
    made.append(target)
json.dump([made, wrong], sys.stdout)
"""


def compile_tree(root: Path, names: Iterable[str], out: Path, *, cmd: str, home: str) -> Mapping[str, Node]:
    """Compile Python files of an unpacked root file system.

    Args:
        root: the unpacked root file system, with the files.
        names: the files, relative to `root`.
        out: an empty folder for the byte code.
        cmd: the interpreter, as an absolute path inside the image.
        home: PYTHONHOME inside the image.

    Returns:
        Byte code files by their name inside the root file system.

    Raises:
        BuildError: the image's Python can't be run, or a file is not valid Python.
    """
    environment = {
        "PYTHONHOME": f"{root.absolute()}/{home.lstrip('/')}".rstrip("/"),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "LC_ALL": "C",  # no locale file of this machine is read
        "TZ": "UTC",
    }
    ordered = sorted(names)
    # -S: no site module, so no .pth file and no sitecustomize of anybody.
    command = [*loader_command(root, cmd), "-B", "-S", "-X", "utf8", "-c", _PROGRAM, str(root), str(out)]
    answer = run(
        command,
        cwd=root,
        environment=environment,
        only=True,
        given=json.dumps(ordered).encode(),
        timeout=COMPILE_TIMEOUT,
    )
    try:
        made, wrong = json.loads(answer)
    except ValueError:
        raise BuildError("the image's Python did not compile its library") from None
    if wrong:
        raise BuildError("a file of the image is not valid Python", why="\n".join(wrong[:10]))
    return {name: Node.file((out / name).read_bytes()) for name in made}
