"""Building from container images made by hand: the three forms, what is kept, and what a program gets."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo import cli
from geumgo.image import BuildError, BuiltImage, ImageError, build_from_oci, cpio, read_eif
from geumgo.image._oci import Limits, Spool, Tree, merge
from geumgo.image._oci._streams import ByteStream
from geumgo.image._oci._tar import TarReader

BLOB = "application/vnd.oci.image.layer.v1.tar"
Member = tuple[str, Any]
DIR, FILE, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


def tar(*members: tuple[Any, ...], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer of (name, content | None for a folder, {TarInfo attributes})."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content, *options in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = (DIR, 0o755) if content is None else (FILE, 0o644)
            for key, value in (options[0] if options else {}).items():
                setattr(info, key, value)
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = SYMLINK) -> tuple[Any, ...]:
    return name, b"", {"type": kind, "linkname": target, "mode": 0o777}


def program(name: str = "bin/app") -> tuple[Any, ...]:
    return name, b"#!/bin/sh\n", {"mode": 0o755}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """An image, to be written in any form."""

    def __init__(
        self,
        *layers: bytes,
        pack: Callable[[bytes], bytes] = lambda data: gzip.compress(data, mtime=0),
        architecture: str = "amd64",
        name: str = "registry.example/app:1",
        **config: Any,
    ) -> None:
        self.blobs: dict[str, bytes] = {}
        self.layers = layers
        self.name = name
        config = {"Entrypoint": ["/bin/app"], **config}
        self.platform = {"os": "linux", "architecture": architecture}
        diff_ids = [digest(layer) for layer in layers]
        whole = {**self.platform, "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        self.config = json.dumps(whole).encode()
        manifest = {
            "schemaVersion": 2,
            "config": self.put(self.config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.put(pack(layer), BLOB) for layer in layers],
        }
        self.manifest = self.put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        self.descriptor = {
            **self.manifest,
            "platform": self.platform,
            "annotations": {"org.opencontainers.image.ref.name": name},
        }

    def put(self, data: bytes, kind: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def files(self, *others: Image) -> dict[str, bytes]:
        found = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        for image in (self, *others):
            found |= {"blobs/" + name.replace(":", "/"): data for name, data in image.blobs.items()}
        manifests = [image.descriptor for image in (self, *others)]
        found["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
        return found

    def docker(self) -> dict[str, bytes]:
        config = digest(self.config).partition(":")[2] + ".json"
        names = [f"{number}/layer.tar" for number in range(len(self.layers))]
        listed = [{"Config": config, "RepoTags": [self.name], "Layers": names}]
        found = dict(zip(names, self.layers, strict=True))
        return {**found, config: self.config, "manifest.json": json.dumps(listed).encode()}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(tar(*files.items()))
    return path


def build(source: Path, output: Path, **options: Any) -> BuiltImage:
    return build_from_oci(source, output=output, **{"platform": "linux/amd64", **options})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., BuiltImage]:
    """Build from an image made of layers."""

    def call(*layers: bytes, options: dict[str, Any] | None = None, **image: Any) -> BuiltImage:
        source = archive(tmp_path / "image.tar", Image(*layers, **image).files())
        return build(source, tmp_path / "x.eif", **(options or {}))

    return call


def contents(built: BuiltImage) -> dict[str, Any]:
    """Every path below the root: content of a file, ("->", target), or None for a folder."""
    ramdisk = read_eif(built.path).ramdisk(1)
    found: dict[str, Any] = {}
    first: dict[Any, bytes] = {}
    for entry in cpio.read(ramdisk):
        data = bytes(ramdisk.read_at(entry.offset, entry.size))
        if entry.link is not None:
            data = first.setdefault(entry.link, data)
        value: Any = data
        if entry.kind is cpio.Kind.DIRECTORY:
            value = None
        elif entry.kind is cpio.Kind.SYMLINK:
            value = ("->", data.decode())
        found[entry.name] = value
    return found


def texts(built: BuiltImage) -> tuple[str, str, str]:
    found = contents(built)
    return found["cmd"].decode(), found["env"].decode(), found["process"].decode()


def zstandard(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.compress(data))


BASE = tar(("bin", None), program(), ("etc", None), ("etc/a", b"1"), link("lib", "bin"))
TOP = tar(("etc/.wh.a", b""), ("etc/b", b"2" * 3000))


def test_every_form_gives_the_same_image(tmp_path: Path) -> None:
    image = Image(BASE, TOP)
    sources = [
        folder(tmp_path / "layout", image.files()),
        archive(tmp_path / "layout.tar", image.files()),
        archive(tmp_path / "saved.tar", image.docker()),
        folder(tmp_path / "saved", image.docker()),
    ]
    (tmp_path / "saved.tgz").write_bytes(gzip.compress((tmp_path / "saved.tar").read_bytes()))
    sources.append(tmp_path / "saved.tgz")
    built = [build(source, tmp_path / f"{number}.eif") for number, source in enumerate(sources)]
    assert len({hashlib.sha256(one.path.read_bytes()).hexdigest() for one in built}) == 1
    found = contents(built[0])
    assert found["rootfs/etc/b"] == b"2" * 3000
    assert "rootfs/etc/a" not in found
    assert found["rootfs/lib"] == ("->", "bin")
    assert {name for name in os.listdir(tmp_path) if name.startswith("tmp")} == set()
    metadata = json.loads(bytes(read_eif(built[0].path).metadata or b"{}"))
    assert (metadata["ImageName"], metadata["ImageVersion"]) == (image.name, digest(image.config))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard])
def test_compression(make: Callable[..., BuiltImage], pack: Callable[[bytes], bytes]) -> None:
    large = random.Random(1).randbytes(100_000) + bytes(3_000_000)
    found = contents(make(BASE, tar(("large", large)), pack=pack))
    assert found["rootfs/large"] == large


@pytest.mark.parametrize("pack", [gzip.compress, zstandard])
def test_several_members_and_damage(make: Callable[..., BuiltImage], pack: Callable[[bytes], bytes]) -> None:
    def halves(data: bytes) -> bytes:
        return pack(data[:700]) + pack(data[700:])

    assert contents(make(BASE, pack=halves))["rootfs/etc/a"] == b"1"
    for damage in (lambda d: pack(d)[:-9], lambda d: pack(d) + b"garbage", lambda d: pack(d)[:10]):
        with pytest.raises(BuildError):
            make(BASE, pack=damage)


def test_zstd_without_its_library(make: Callable[..., BuiltImage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(BuildError) as told:
        make(BASE, pack=zstandard)
    assert told.value.code == "zstd_unavailable"
    assert "geumgo[oci]" in told.value.fix


def test_modes_owners_and_links_are_kept(make: Callable[..., BuiltImage]) -> None:
    layer = tar(
        ("srv", None, {"mode": 0o1777, "uid": 5, "gid": 6}),
        ("srv/su", b"x", {"mode": 0o4755, "uid": 70_000, "gid": 3_000_000_000}),
        link("srv/z", "srv/su", LINK),
        link("other", "/srv/su", LINK),
        link("out", "../../../etc/passwd"),
        ("n" * 200 + "/" + "이름" * 30, b"long"),
    )
    built = make(BASE, layer)
    entries = cpio.names(cpio.read(read_eif(built.path).ramdisk(1)))
    su, folder_ = entries["rootfs/srv/su"], entries["rootfs/srv"]
    assert (su.mode, su.uid, su.gid) == (0o4755, 70_000, 3_000_000_000)
    assert (folder_.mode, folder_.uid, folder_.gid) == (0o1777, 5, 6)
    assert su.link is not None
    assert su.link == entries["rootfs/srv/z"].link == entries["rootfs/other"].link
    assert [entries[f"rootfs/{name}"].size for name in ("other", "srv/su", "srv/z")] == [1, 0, 0]
    assert contents(built)["rootfs/out"] == ("->", "../../../etc/passwd")
    assert contents(built)["rootfs/" + "n" * 200 + "/" + "이름" * 30] == b"long"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_form_of_header(make: Callable[..., BuiltImage], form: int) -> None:
    long = "d" * 90 + "/" + "f" * (90 if form == tarfile.USTAR_FORMAT else 200)
    target = "t" * (90 if form == tarfile.USTAR_FORMAT else 300)
    found = contents(make(BASE, tar((long, b"x"), link("l", target), form=form)))
    assert found[f"rootfs/{long}"] == b"x"
    assert found["rootfs/l"] == ("->", target)


def test_what_a_ramdisk_cannot_hold_is_listed(make: Callable[..., BuiltImage]) -> None:
    capable = {"pax_headers": {"SCHILY.xattr.security.capability": "x", "SCHILY.xattr.user.a": "b"}}
    layer = tar(
        ("bin/ping", b"p", capable),
        ("dev/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("dev/sda", b"", {"type": tarfile.BLKTYPE, "devmajor": 8}),
        ("run/pipe", b"", {"type": tarfile.FIFOTYPE}),
        ("gone", b"", capable),
    )
    built = make(BASE, layer, tar((".wh.gone", b"")))
    assert built.left_out == (
        "bin/ping: file capabilities",
        "bin/ping: attribute user.a",
        "dev/null: character device",
        "dev/sda: block device",
        "run/pipe: fifo",
    )
    assert any("left out: bin/ping: file capabilities, and 4 more" in note for note in built.notes)
    assert {"rootfs/dev/null", "rootfs/dev/sda", "rootfs/run/pipe"}.isdisjoint(contents(built))


def test_whiteouts(make: Callable[..., BuiltImage]) -> None:
    lower = tar(("a/x", b"1"), ("a/y/z", b"2"), ("b/x", b"3"), ("c", b"4"), ("d/x", b"5"))
    upper = tar(
        ("a/new", b"6"),
        ("a/.wh..wh..opq", b""),  # after a sibling of its own layer, which stays
        (".wh.b", b""),
        ("c/.wh.nothing", b""),
        (".wh.absent", b""),
        (".wh..wh.plnk/1.2", b"aufs"),
        ("d/y", b"7"),
        (".wh.d", b""),
    )
    found = contents(make(BASE, lower, upper))
    names = {name.removeprefix("rootfs/") for name in found if name.startswith(("rootfs/a", "rootfs/d/"))}
    assert names == {"a", "a/new", "d/y"}
    assert {"rootfs/b", "rootfs/b/x", "rootfs/d/x"}.isdisjoint(found)
    assert found["rootfs/c"] == b"4"
    assert not any(".wh." in name for name in found)


def test_links_of_lower_layers_are_followed_inside_only(make: Callable[..., BuiltImage]) -> None:
    lower = tar(("usr/lib", None), link("lib64", "usr/lib"), link("up", "../../.."), link("abs", "/usr"))
    upper = tar(("lib64/x", b"1"), ("up/tmp/escape", b"2"), ("abs/y", b"3"))
    found = contents(make(BASE, lower, upper))
    assert found["rootfs/usr/lib/x"] == b"1"
    assert found["rootfs/tmp/escape"] == b"2"
    assert found["rootfs/usr/y"] == b"3"
    assert found["rootfs/lib64"] == ("->", "usr/lib")


def sparse_old(name: str, pieces: list[tuple[int, bytes]], size: int) -> bytes:
    """GNU's type S with more pieces than the header holds."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    data = b"".join(part for _, part in pieces)
    fields = b"".join(b"%011o\0%011o\0" % (offset, len(part)) for offset, part in pieces)
    header[124:136] = b"%011o\0" % len(data)
    header[156:157] = b"S"
    header[386:482] = fields[:96].ljust(96, b"\0")
    header[482] = len(fields) > 96
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = b""
    rest = fields[96:]
    while rest:
        more += (rest[:504].ljust(504, b"\0") + bytes([len(rest) > 504])).ljust(512, b"\0")
        rest = rest[504:]
    return bytes(header) + more + data + bytes(-len(data) % 512) + bytes(1024)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_sparse_files(make: Callable[..., BuiltImage], count: int) -> None:
    pieces = [(index * 2000 + 100, bytes([65 + index]) * 700) for index in range(count)]
    size = count * 2000 + 5000
    expected = bytearray(size)
    for offset, part in pieces:
        expected[offset : offset + len(part)] = part
    data = b"".join(part for _, part in pieces)
    numbers = [value for offset, part in pieces for value in (offset, len(part))]
    table = "".join(f"{value}\n" for value in (count, *numbers)).encode()
    table += bytes(-len(table) % 512)
    forms = [("sparse", data, {"GNU.sparse.size": str(size), "GNU.sparse.map": ",".join(map(str, numbers))})]
    version = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse"}
    forms.append(("x", table + data, {**version, "GNU.sparse.realsize": str(size)}))
    layers = [tar((name, stored, {"pax_headers": headers})) for name, stored, headers in forms]
    for layer in (*(layers if count else layers[1:]), sparse_old("sparse", pieces, size)):
        assert contents(make(BASE, layer))["rootfs/sparse"] == bytes(expected)


def test_entrypoint_and_cmd(make: Callable[..., BuiltImage]) -> None:
    cmd, env, process = texts(make(BASE, Entrypoint=["app", "-v"], Cmd=["a b"], Env=["B=2", "A=1", "B=3"]))
    assert cmd == "/bin/app\n-v\na b\n"
    assert env == f"A=1\nB=3\nHOME=/\nPATH={'/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'}\n"
    assert process == "WORKDIR=/\nUID=0\nGID=0\nGROUPS=\n"
    assert texts(make(BASE, Entrypoint=None, Cmd=["/lib/app"]))[0] == "/lib/app\n"
    options = {"cmd": ["other"], "env": {"A": "x"}}
    cmd, env, _ = texts(make(BASE, Entrypoint=["./app"], Cmd=["gone"], WorkingDir="/bin", options=options))
    assert cmd == "/bin/app\nother\n"
    assert "A=x\n" in env


def test_a_working_folder_is_made(make: Callable[..., BuiltImage]) -> None:
    built = make(BASE, WorkingDir="/srv/../app/deep/")
    assert "WORKDIR=/app/deep\n" in texts(built)[2]
    assert contents(built)["rootfs/app/deep"] is None


PASSWD = b"root:x:0:0::/root:/bin/sh\n# c\nweb:x:101:102::/srv/web:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:102:web\nlogs:x:7:root,web\nmore:x:5:web\n"


@pytest.mark.parametrize(
    ("user", "expected", "home"),
    [
        ("", "UID=0\nGID=0\nGROUPS=\n", "/root"),
        ("web", "UID=101\nGID=102\nGROUPS=5,7\n", "/srv/web"),
        ("101", "UID=101\nGID=102\nGROUPS=5,7\n", "/srv/web"),
        ("web:logs", "UID=101\nGID=7\nGROUPS=\n", "/srv/web"),
        ("1234", "UID=1234\nGID=0\nGROUPS=\n", "/"),
        ("1234:4321", "UID=1234\nGID=4321\nGROUPS=\n", "/"),
    ],
)
def test_users(make: Callable[..., BuiltImage], user: str, expected: str, home: str) -> None:
    database = tar(("etc/passwd", PASSWD), ("etc/group", GROUP))
    _, env, process = texts(make(BASE, database, User=user))
    if user == "":
        expected = expected.replace("GROUPS=\n", "GROUPS=7\n")  # as /etc/group lists root
    assert process.endswith(expected)
    assert f"HOME={home}\n" in env


@pytest.mark.parametrize(
    "config",
    [
        {"User": "nobody"},
        {"User": "0:nogroup"},
        {"User": "4294967295"},
        {"User": "0\nUID=0"},
        {"User": 7},
        {"WorkingDir": "relative"},
        {"WorkingDir": "/bin/app"},
        {"WorkingDir": "/a\nUID=0"},
        {"Entrypoint": None},
        {"Entrypoint": []},
        {"Entrypoint": ["/bin/absent"]},
        {"Entrypoint": ["absent"]},
        {"Entrypoint": ["/etc/a"]},
        {"Entrypoint": ["/etc"]},
        {"Entrypoint": "/bin/app"},
        {"Entrypoint": ["/bin/app", 3]},
        {"Entrypoint": ["/bin/app", "a\nb"]},
        {"Entrypoint": ["/bin/app", "\ud800"]},
        {"Env": ["NOTHING"]},
        {"Env": ["=x"]},
        {"Env": {"A": "b"}},
    ],
)
def test_configurations_that_cannot_start(make: Callable[..., BuiltImage], config: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        make(BASE, **config)


def test_platforms_and_names(tmp_path: Path) -> None:
    one, two = Image(BASE), Image(BASE, TOP, architecture="arm64")
    other = Image(BASE, TOP, name="registry.example/other:2")
    both = archive(tmp_path / "both.tar", one.files(two))
    assert contents(build(both, tmp_path / "1.eif"))["rootfs/etc/a"] == b"1"
    arm = build(both, tmp_path / "2.eif", platform="linux/aarch64")
    assert read_eif(arm.path).header.architecture.machine == "aarch64"
    assert "rootfs/etc/b" in contents(arm)
    for wanted in ("linux/amd64/v3", "linux/riscv64", "windows/amd64", "linux", "linux//"):
        with pytest.raises(ImageError):
            build(both, tmp_path / "3.eif", platform=wanted)
    several = archive(tmp_path / "several.tar", one.files(other))
    with pytest.raises(BuildError) as told:
        build(several, tmp_path / "3.eif")
    assert told.value.code == "ambiguous_image"
    assert "rootfs/etc/b" in contents(build(several, tmp_path / "4.eif", reference="other:2"))
    with pytest.raises(BuildError) as told:
        build(several, tmp_path / "5.eif", reference="third")
    assert told.value.code == "no_such_image"


def test_nested_indexes_and_attestations(tmp_path: Path) -> None:
    image = Image(BASE)
    kind = "application/vnd.oci.image.index.v1+json"
    note = {**Image(TOP).descriptor, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    nested = image.put(json.dumps({"manifests": [note, image.descriptor]}).encode(), kind)
    files = image.files() | {"index.json": json.dumps({"manifests": [nested]}).encode()}
    assert build(folder(tmp_path / "i", files), tmp_path / "x.eif").size


def test_a_linked_layer_of_an_old_archive(tmp_path: Path) -> None:
    files = Image(BASE).docker()
    moved = [(name, data) for name, data in files.items() if name != "0/layer.tar"]
    layer = ("shared/layer.tar", files["0/layer.tar"])
    (tmp_path / "o.tar").write_bytes(tar(layer, link("0/layer.tar", "../shared/layer.tar"), *moved))
    assert build(tmp_path / "o.tar", tmp_path / "x.eif").size


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = archive(tmp_path / "i.tar", Image(BASE, tar(("dev/p", b"", {"type": tarfile.FIFOTYPE}))).files())
    words = ["build", "--oci", str(source), "--platform", "linux/amd64", "--name", "n", "--env", "A=1"]
    monkeypatch.setattr(sys, "argv", ["geumgo", "image", *words, "--out", str(tmp_path / "x.eif"), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    shown = json.loads(capsys.readouterr().out)
    assert shown["LeftOut"] == ["dev/p: fifo"]
    assert shown["Bootable"] is False
    assert json.loads(bytes(read_eif(tmp_path / "x.eif").metadata or b""))["ImageName"] == "n"


# Merging against a reference that follows image-spec's text: first a layer's whiteouts, then its files.

_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_WHITEOUTS = st.builds(
    lambda parents, name: "/".join([*parents, name]),
    st.lists(_NAMES, max_size=2),
    st.sampled_from([".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq"]),
)
_ENTRIES = st.one_of(
    st.tuples(_PATHS, st.binary(max_size=3)),
    st.tuples(_PATHS, st.none()),
    st.tuples(_WHITEOUTS, st.just(b"")),
)
_LAYERS = st.lists(st.lists(_ENTRIES, max_size=7), min_size=1, max_size=4)


class _Refused(Exception):
    pass


def _reference(layers: list[list[Member]]) -> dict[str, bytes | None]:
    state: dict[str, bytes | None] = {}
    for layer in layers:
        lower = dict(state)
        for name, _ in layer:
            parent, _, base = name.rpartition("/")
            if base == ".wh..wh..opq":
                hidden = [path for path in lower if path.startswith(f"{parent}/" if parent else "")]
            elif base.startswith(".wh."):
                gone = f"{parent}/{base[4:]}".lstrip("/")
                hidden = [path for path in lower if path == gone or path.startswith(gone + "/")]
            else:
                continue
            for path in hidden:
                del lower[path]
        state = lower
        for name, content in layer:
            if ".wh." in name:
                continue
            parents = name.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                if state.setdefault("/".join(parents[:depth]), None) is not None:
                    raise _Refused
            if content is not None or state.get(name, b"") is not None:
                state = {path: data for path, data in state.items() if not path.startswith(name + "/")}
            state[name] = content
    return state


def _ordered(layers: list[list[Member]]) -> list[list[Member]]:
    """Whiteouts first, as image-spec asks of writers."""
    return [sorted(layer, key=lambda entry: ".wh." not in entry[0]) for layer in layers]


def _merged(layers: list[list[Member]], folder: Path) -> dict[str, bytes | None]:
    spool = Spool(folder, limit=1 << 20)
    try:
        return _laid_over(layers, spool)
    finally:
        spool.close()


def _laid_over(layers: list[list[Member]], spool: Spool) -> dict[str, bytes | None]:
    tree = Tree(Limits())
    for number, layer in enumerate(layers):
        stream = ByteStream(iter([tar(*layer)]), limit=1 << 30, what="layer")
        merge(tree, TarReader(stream, what="layer", limit=1000), spool, number)
    found = {
        name: None
        if node.kind is cpio.Kind.DIRECTORY
        else bytes(node.source().read_at(0, node.source().size))
        for name, node in tree.nodes().items()
    }
    assert tree._count == len(found)
    return found


@given(layers=_LAYERS)
@settings(max_examples=300, deadline=None)
def test_merging_is_what_the_specification_says(
    layers: list[list[Member]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder_ = tmp_path_factory.getbasetemp()
    layers = _ordered(layers)
    try:
        expected = _reference(layers)
    except _Refused:
        with pytest.raises(BuildError):
            _merged(layers, folder_)
        return
    assert _merged(layers, folder_) == expected


@given(layers=_LAYERS, seed=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_whiteouts_count_wherever_they_stand_in_their_layer(
    layers: list[list[Member]], seed: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder_ = tmp_path_factory.getbasetemp()
    # Only whiteouts move, so that which of two entries of one name is the later stays.
    moved = []
    for layer in layers:
        order = [entry for entry in layer if ".wh." not in entry[0]]
        for entry in layer:
            if ".wh." in entry[0]:
                order.insert(seed.randrange(len(order) + 1), entry)
        moved.append(order)
    try:
        found = _merged(moved, folder_)
    except BuildError:
        return  # what comes before its whiteout may not fit what is still there
    assert found == _merged(_ordered(layers), folder_)
