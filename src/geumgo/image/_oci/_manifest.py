"""From a store to one image: its configuration and its layers, bottom first.

Sources: OCI image-spec 1.1 (`image-layout.md`, `image-index.md`, `manifest.md`, `config.md`), and Docker's
image specification 1.2 for `manifest.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from geumgo.image._errors import BuildError
from geumgo.image._oci._limits import MAX_JSON, Limits
from geumgo.image._oci._store import Store, parse_json, read_json
from geumgo.image._oci._streams import check_digest, checked
from geumgo.image._source import Data, Source, chunks

__all__ = ("Chosen", "Layer", "Platform", "choose")

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYER = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?"
)
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REFERENCE = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MAX_NESTING = 4
_MAX_DESCRIPTORS = 10_000
"""Manifests looked at: an index of every architecture and version of a project has a few hundred."""
_DEFAULT_VARIANT = {"arm64": "v8", "amd64": "v1"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image's programs run on.

    Attributes:
        os: `linux`.
        architecture: as Go calls it, such as `amd64`.
        variant: such as `v8`; empty for the architecture's usual one.
    """

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return what `linux/amd64` or `linux/arm64/v8` means; `x86_64` and `aarch64` are understood.

        Raises:
            BuildError: it has another form.
        """
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise BuildError(f"{text[:80]!r} is no platform", fix="Write it as linux/amd64 or linux/arm64.")
        names = {"x86_64": "amd64", "aarch64": "arm64"}
        return cls(parts[0], names.get(parts[1], parts[1]), parts[2] if len(parts) == 3 else "")

    @classmethod
    def of(cls, value: object) -> Platform | None:
        """Return what a JSON object says; None where it says nothing."""
        if not isinstance(value, dict) or not value.get("architecture"):
            return None
        found = [value.get(name) or "" for name in ("os", "architecture", "variant")]
        return cls(*(part if isinstance(part, str) and _WORD.fullmatch(part) else "" for part in found))

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` is what was asked for."""
        usual = _DEFAULT_VARIANT.get(self.architecture, "")
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and (self.variant or usual) == (other.variant or usual)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's bytes as stored, and what they must be.

    Attributes:
        what: what errors call it.
        source: the bytes, compressed or not.
        digest: theirs; None in archives that name files otherwise.
        diff_id: digest of the unpacked bytes.
    """

    what: str
    source: Source
    digest: str | None
    diff_id: str

    def parts(self) -> Iterator[Data]:
        """Yield the bytes as stored; a wrong digest is told at the end."""
        return (
            chunks(self.source)
            if self.digest is None
            else checked(chunks(self.source), self.digest, self.what)
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The image to build from.

    Attributes:
        config: the configuration's JSON object.
        config_digest: SHA-256 of its bytes, Docker's image id.
        platform: what it says it runs on.
        layers: bottom first.
        reference: the name that the store gives it; empty where it gives none.
    """

    config: dict[str, Any]
    config_digest: str
    platform: Platform
    layers: tuple[Layer, ...]
    reference: str


def choose(store: Store, platform: Platform, reference: str | None, limits: Limits) -> Chosen:
    """Return the one image for `platform` (and called `reference`).

    Raises:
        BuildError: none or several fit, or a blob is missing, changed, too large or malformed.
    """
    index = read_json(store, "index.json")
    if index is not None:
        return _from_index(store, index, platform, reference, limits)
    listed = read_json(store, "manifest.json")
    if listed is None:
        raise BuildError(
            "there is neither index.json nor manifest.json",
            fix="Give an OCI image layout (folder or tar) or an archive that `docker save` wrote.",
            code="not_an_image",
        )
    return _from_docker(store, listed, platform, reference, limits)


def _from_index(
    store: Store, index: object, platform: Platform, reference: str | None, limits: Limits
) -> Chosen:
    found: dict[str, Chosen] = {}
    others: set[str] = set()
    for manifest, name in _manifests(store, index, "", 0, [0]):
        if reference is not None and not _called(name, reference):
            others.add(name)
            continue
        digest = check_digest(manifest.get("digest"))
        stated = Platform.of(manifest.get("platform"))
        if digest in found:
            continue
        if stated is not None and not platform.accepts(stated):
            others.add(str(stated))
            continue
        image = _from_manifest(store, _blob(store, manifest), name, platform, limits)
        if isinstance(image, Chosen):
            found[digest] = image
        else:
            others.add(str(image))
    return _only(list(found.values()), platform, reference, others)


def _only(found: list[Chosen], platform: Platform, reference: str | None, others: set[str]) -> Chosen:
    wanted = str(platform) if reference is None else f"{platform} called {reference!r}"
    if not found:
        there = ", ".join(ascii(text[:200]) for text in sorted(filter(None, others))[:20]) or "none"
        raise BuildError(f"there is no image for {wanted}", why=f"There is: {there}.", code="no_such_image")
    if len(found) > 1:
        called = sorted({image.reference or image.config_digest for image in found})
        names = ", ".join(ascii(text[:200]) for text in called[:20])
        raise BuildError(
            f"{len(found)} images are for {wanted}: {names}",
            fix="Choose by --reference.",
            code="ambiguous_image",
        )
    return found[0]


def _manifests(
    store: Store, index: object, name: str, depth: int, seen: list[int]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the descriptors of all manifests of images, those in nested indexes too, with their names."""
    if depth > _MAX_NESTING:
        raise BuildError("indexes lie in each other too deeply", code="bad_oci_image")
    listed = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(listed, list):
        raise BuildError("an index has no list of manifests", code="bad_oci_image")
    for descriptor in listed:
        seen[0] += 1
        if seen[0] > _MAX_DESCRIPTORS:
            raise BuildError(f"there are over {_MAX_DESCRIPTORS} manifests", code="too_large")
        if not isinstance(descriptor, dict):
            raise BuildError("an index has something else than descriptors", code="bad_oci_image")
        notes = descriptor.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        names = (notes.get(key) for key in _REFERENCE)
        called = next((text for text in names if isinstance(text, str)), name)
        kind = descriptor.get("mediaType")
        if kind in _INDEXES:
            nested = parse_json(_blob(store, descriptor), "an index")
            yield from _manifests(store, nested, called, depth + 1, seen)
        elif kind in _MANIFESTS and "vnd.docker.reference.type" not in notes:
            yield descriptor, called


def _called(name: str, reference: str) -> bool:
    return name == reference or name.rpartition("/")[2] == reference


def _from_manifest(
    store: Store, data: bytes, name: str, platform: Platform, limits: Limits
) -> Chosen | Platform:
    manifest = parse_json(data, "a manifest")
    if not isinstance(manifest, dict):
        raise BuildError("a manifest is no object", code="bad_oci_image")
    config_blob = _blob(store, manifest.get("config"))
    config = parse_json(config_blob, "a configuration")
    stated = Platform.of(config)
    if stated is None:
        raise BuildError("the configuration names no architecture", code="bad_oci_image")
    if not platform.accepts(stated):
        return stated
    descriptors = manifest.get("layers")
    diff_ids = _diff_ids(config, descriptors, limits)
    assert isinstance(descriptors, list)
    layers = []
    for number, (descriptor, diff_id) in enumerate(zip(descriptors, diff_ids, strict=True), 1):
        kind = descriptor.get("mediaType") if isinstance(descriptor, dict) else None
        if not isinstance(kind, str) or not _LAYER.fullmatch(kind):
            raise BuildError(
                f"layer {number} is of the unknown type {str(kind)[:100]!r}", code="bad_oci_image"
            )
        what = f"layer {number}"
        layers.append(Layer(what, _open_blob(store, descriptor, what), descriptor["digest"], diff_id))
    assert isinstance(config, dict)
    return Chosen(config, _sha256(config_blob), stated, tuple(layers), name)


def _from_docker(
    store: Store, listed: object, platform: Platform, reference: str | None, limits: Limits
) -> Chosen:
    if not isinstance(listed, list) or len(listed) > _MAX_DESCRIPTORS:
        raise BuildError("manifest.json is no list of images", code="bad_oci_image")
    found: list[Chosen] = []
    others: set[str] = set()
    for item in listed:
        values = item if isinstance(item, dict) else {}
        named = values.get("RepoTags")
        tags = [tag for tag in named if isinstance(tag, str)] if isinstance(named, list) else []
        if reference is not None and not any(_called(tag, reference) for tag in tags):
            others.update(tags)
            continue
        image = _docker_image(store, values, tags, platform, limits)
        if not isinstance(image, Chosen):
            others.add(str(image))
        elif image.config_digest not in {other.config_digest for other in found}:
            found.append(image)
    return _only(found, platform, reference, others)


def _docker_image(
    store: Store, values: dict[str, Any], tags: list[str], platform: Platform, limits: Limits
) -> Chosen | Platform:
    name = values.get("Config")
    source = store.open(name) if isinstance(name, str) and name else None
    if source is None or source.size > MAX_JSON:
        raise BuildError(
            "manifest.json names a configuration that is missing or too large", code="missing_blob"
        )
    assert isinstance(name, str)
    data = bytes(source.read_at(0, source.size))
    stem = name.rpartition("/")[2].removesuffix(".json")
    if re.fullmatch(r"[0-9a-f]{64}", stem) and _sha256(data) != f"sha256:{stem}":
        raise BuildError("the configuration does not have the digest in its name", code="digest_mismatch")
    config = parse_json(data, "a configuration")
    stated = Platform.of(config)
    if stated is None:
        raise BuildError("the configuration names no architecture", code="bad_oci_image")
    if not platform.accepts(stated):
        return stated
    names = values.get("Layers")
    layers = []
    for number, (path, diff_id) in enumerate(
        zip(names or [], _diff_ids(config, names, limits), strict=True), 1
    ):
        layer = store.open(path) if isinstance(path, str) and path else None
        if layer is None:
            raise BuildError(f"layer {number} is missing", code="missing_blob")
        layers.append(Layer(f"layer {number}", layer, None, diff_id))
    assert isinstance(config, dict)
    return Chosen(config, _sha256(data), stated, tuple(layers), tags[0] if tags else "")


def _diff_ids(config: object, layers: object, limits: Limits) -> list[str]:
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list) or not isinstance(layers, list) or len(listed) != len(layers):
        raise BuildError("manifest and configuration differ in their layers", code="bad_oci_image")
    if len(layers) > limits.layers:
        raise BuildError(
            f"the image has {len(layers)} layers; {limits.layers} is the limit", code="too_large"
        )
    return [check_digest(text) for text in listed]


def _open_blob(store: Store, descriptor: object, what: str) -> Source:
    values = descriptor if isinstance(descriptor, dict) else {}
    digest = check_digest(values.get("digest"))
    source = store.open("blobs/" + digest.replace(":", "/"))
    if source is None:
        raise BuildError(
            f"{what} ({digest[:19]}…) is not in the image",
            why="Layouts may leave out what a registry has.",
            fix="Copy the image with all of its blobs.",
            code="missing_blob",
        )
    if source.size != values.get("size"):
        raise BuildError(f"{what} does not have the size that its descriptor says", code="digest_mismatch")
    return source


def _blob(store: Store, descriptor: object) -> bytes:
    """Return a small blob, checked."""
    source = _open_blob(store, descriptor, "a manifest or configuration")
    if source.size > MAX_JSON:
        raise BuildError(f"a manifest or configuration has over {MAX_JSON} bytes", code="too_large")
    assert isinstance(descriptor, dict)
    parts = checked(chunks(source), descriptor["digest"], "a manifest or configuration")
    return b"".join(bytes(part) for part in parts)


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
