"""Building from a container image that lies on the disk, without a daemon and without root."""

from __future__ import annotations

import dataclasses
import os
import platform as this
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geumgo.image._layout import Architecture
from geumgo.image._oci import Limits, Platform, Spool, Tree, choose, merge, open_store, process_of
from geumgo.image._oci._manifest import Layer
from geumgo.image._oci._process import PROCESS_FILE
from geumgo.image._oci._streams import ByteStream, checked, unpacked
from geumgo.image._oci._tar import TarReader
from geumgo.image._progress import WHOLE, Progress, silent
from geumgo.image.build import Boot, BuiltImage, build_from_nodes

__all__ = ("build_from_oci",)


def build_from_oci(
    source: Path,
    *,
    output: Path,
    platform: str | None = None,
    reference: str | None = None,
    cmd: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    kernel: Path | None = None,
    init: Path | None = None,
    cmdline: str | None = None,
    modules: Sequence[Path] = (),
    name: str = "",
    version: str = "",
    metadata: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Progress = silent,
) -> BuiltImage:
    """Build an image from an OCI image layout or a `docker save` archive.

    Layers are checked against their digests and laid over each other in memory, contents in one temporary
    file beside `output`; nothing is extracted, nothing is fetched. Modes, owners and hard links are kept, time
    stamps become one constant; what a ramdisk can't hold is in the answer's `left_out`. ENTRYPOINT and CMD are
    joined as OCI says, the program's path made absolute, WORKDIR and USER noted for Geumgo's init
    (docs/spec/ramdisk.md). The same container image gives the same bytes, whether folder or archive.

    Args:
        source: the folder or archive.
        output: where the EIF goes.
        platform: such as `linux/amd64`; Linux on this machine's architecture where None.
        reference: name of one of several images; the last part suffices.
        cmd: arguments in place of the image's CMD.
        env: variables that win over the image's.
        kernel: bzImage or Image; an image without one can't boot.
        init: first program; an image without one can't boot.
        cmdline: kernel's command line; nitro-cli's where None.
        modules: kernel modules for the bootstrap ramdisk.
        name: for the metadata; the image's own where empty.
        version: for the metadata; the digest of the image's configuration where empty.
        metadata: CustomMetadata.
        environment: may have SOURCE_DATE_EPOCH; the process's own where None.
        limits: what the image may ask of this machine.
        progress: told how far it is.

    Raises:
        BuildError: no such image, or it is damaged, hostile, too large, or has no program to start.
        ImageError: a file can't be read or written.
    """
    wanted = Platform.parse(platform if platform is not None else f"linux/{this.machine()}")
    architecture = Architecture.of_machine(wanted.architecture)
    spool = Spool(output.absolute().parent, limit=2 * limits.total_bytes)
    try:
        chosen = choose(open_store(source, spool, limits), wanted, reference, limits)
        tree = _merged(chosen.layers, spool, limits, progress)
        process = process_of(chosen.config, tree, cmd=cmd, env=env or {})
        built = build_from_nodes(
            tree.nodes(),
            cmd=process.cmd,
            env=process.env,
            output=output,
            boot=Boot(architecture, kernel, init, cmdline, tuple(modules)),
            name=name or chosen.reference.partition("@")[0] or "oci-image",
            version=version or chosen.config_digest,
            metadata=metadata,
            environment=os.environ if environment is None else environment,
            beside={PROCESS_FILE: process.file()},
            progress=progress,
        )
    finally:
        spool.close()
    return dataclasses.replace(built, left_out=tree.left_out())


def _merged(layers: Sequence[Layer], spool: Spool, limits: Limits, progress: Progress) -> Tree:
    tree = Tree(limits)
    headers, left = limits.headers, limits.total_bytes
    for number, layer in enumerate(layers):
        progress(f"reading {layer.what}", number * WHOLE // (len(layers) + 1), WHOLE)
        plain = checked(
            unpacked(layer.source, layer.parts(), layer.what), layer.diff_id, f"{layer.what}, unpacked,"
        )
        stream = ByteStream(plain, limit=min(left, limits.layer_bytes), what=layer.what)
        reader = TarReader(stream, what=layer.what, limit=headers)
        merge(tree, reader, spool, number)
        stream.drain()  # the digests are checked at the very end
        left -= stream.position
        headers = reader.left
    return tree
