"""The project's own enclave image: a locked base, Geumgo's in-enclave rooms, a measured configuration."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import geumgo
from geumgo.image import lock as locks
from geumgo.image._cache import Cache, default_cache
from geumgo.image._errors import LockError, Unavailable
from geumgo.image._host import host_base
from geumgo.image._layout import Architecture
from geumgo.image._locked import LIBRARY, locked_base
from geumgo.image._progress import WHOLE, Progress, silent
from geumgo.image._python import compile_application
from geumgo.image._rooms import room_nodes
from geumgo.image.build import Boot, BuiltImage, build_from_nodes
from geumgo.image.cpio import Node

__all__ = ("BANNER", "CONFIGURATION", "build_enclave_image")

CONFIGURATION = "etc/geumgo/measured.json"
"""The measured configuration, inside the root file system."""
BANNER = "opt/geumgo/BANNER.txt"
"""A text that nothing reads: who changes one letter of it has another image."""
BANNER_TEXT = """\
Geumgo: this file is part of an enclave image.

Its letters are measured like everything else here. Change one, and PCR0 and PCR2 are others;
a key that was released to this image stays closed to the changed one.
"""
"""The banner's content."""
MODULE = "geumgo.enclave"
"""What `cmd` runs unless the caller names something else."""


def build_enclave_image(
    *,
    output: Path,
    configuration: bytes,
    app_files: Mapping[str, Path | bytes] | None = None,
    module: str = MODULE,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    kernel: Path | None = None,
    init: Path | None = None,
    cmdline: str | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
    environment: Mapping[str, str] | None = None,
    host_files: bool | None = None,
    name: str = "geumgo-enclave",
) -> BuiltImage:
    """Build Geumgo's enclave image.

    The same lock, configuration, files and version of Geumgo give the same bytes on every machine. Where a
    locked file can't be had, this machine's interpreter and libraries stand in for the base and the result
    says so.

    Args:
        output: where the EIF goes.
        configuration: the measured configuration's bytes.
        app_files: more files, by their name inside the root file system; Python modules belong below
            `opt/geumgo/lib` and are compiled.
        module: the module that `cmd` runs with `-m`.
        arguments: its arguments.
        env: more variables for it.
        kernel: bzImage or Image; an image without one can't boot.
        init: first program; an image without one can't boot.
        cmdline: kernel's command line; nitro-cli's where None.
        cache: folder for downloads and the built base; `default_cache` where None.
        progress: told how far it is.
        environment: variables to honour (SOURCE_DATE_EPOCH, XDG_CACHE_HOME, GEUMGO_DEBIAN_MIRROR); the
            process's own where None.
        host_files: True takes this machine's files, False refuses them, None takes them where it must.
        name: for the metadata.

    Raises:
        BuildError: it can't be built; `Unavailable` where a locked file can't be had and `host_files` is
            False.
        ImageError: a file can't be read or written.
    """
    environment = os.environ if environment is None else environment
    architecture = Architecture.of_machine(platform.machine())
    store = Cache(cache or default_cache(environment))
    this_machine: str | None = None
    if host_files:
        this_machine = "it was built from this machine's files, as asked"
        base = host_base(store, progress)
    else:
        try:
            base = locked_base(locks.read_lock(architecture), store, environment, progress)
        except (Unavailable, LockError) as error:
            if host_files is False:
                raise
            this_machine = " ".join([error.what, *error.why.splitlines()[-1:]])
            progress(f"the locked base can't be had ({this_machine}); taking this machine's files", 10, WHOLE)
            base = host_base(store, progress)
    own = room_nodes()
    own[CONFIGURATION] = Node.file(configuration)
    own[BANNER] = Node.file(BANNER_TEXT.encode())
    for inside, content in (app_files or {}).items():
        own[inside.lstrip("/")] = Node.file(content)
    progress("compiling the application", 70, WHOLE)
    own.update(compile_application(own, base, store))
    variables = {
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHOME": base.home,
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": f"/{LIBRARY}",
        "PYTHONSAFEPATH": "1",
        **(env or {}),
    }
    return build_from_nodes(
        {**base.nodes, **own},
        cmd=[base.interpreter, "-B", "-m", module, *arguments],
        env=variables,
        output=output,
        boot=Boot(kernel=kernel, init=init, cmdline=cmdline, architecture=architecture),
        name=name,
        version=geumgo.__version__,
        environment=environment,
        this_machine=this_machine,
        progress=lambda step, done, total: progress(step, 80 + 20 * done // total, WHOLE),
    )
