"""Container images that want to get out, fill the memory, or be read in two ways."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geumgo.image import BuildError, ImageError, build_from_oci
from geumgo.image._oci import Limits, Spool, Tree, merge
from geumgo.image._oci._limits import MAX_EXTENSION
from geumgo.image._oci._streams import ByteStream
from geumgo.image._oci._tar import TarReader

Image = dict[str, bytes]


def header(name: bytes, kind: bytes = b"0", size: int = 0, link: bytes = b"", **fields: bytes) -> bytes:
    """One ustar header, with any field replaced."""
    places = {"mode": 100, "uid": 108, "gid": 116, "length": 124, "magic": 257, "prefix": 345, "major": 329}
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000755\0", b"0000000\0", b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(kind: bytes = b"x", **records: str) -> bytes:
    data = b""
    for key, value in records.items():
        rest = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        data += str(length).encode() + rest
    return header(b"pax", kind, len(data)) + padded(data)


def file(name: bytes, data: bytes = b"x", **fields: bytes) -> bytes:
    return header(name, size=len(data), **fields) + padded(data)


PROGRAM = file(b"app")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(*layers: bytes, raw: list[bytes] | None = None) -> Image:
    """An OCI layout of unpacked layers; `raw` is what is stored in their place."""
    files: Image = {}

    def put(data: bytes, kind: str) -> dict[str, Any]:
        files["blobs/" + digest(data).replace(":", "/")] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Entrypoint": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    manifest = {
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(stored, "layer.v1.tar") for stored in (raw or layers)],
    }
    index = {"manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    return files | {"index.json": json.dumps(index).encode()}


def store(folder: Path, files: Image) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


Refused = Callable[..., BuildError]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Build, and return the error; nothing may be left behind."""

    def call(*layers: bytes, files: Image | None = None, limits: Limits | None = None) -> BuildError:
        source = store(tmp_path / "source", files or image(*layers))
        before = set(tmp_path.iterdir())
        with pytest.raises(BuildError) as told:
            build_from_oci(
                source, output=tmp_path / "x.eif", platform="linux/amd64", limits=limits or Limits()
            )
        assert set(tmp_path.iterdir()) == before
        return told.value

    return call


@pytest.mark.parametrize(
    "entry",
    [
        file(b"../x"),
        file(b"a/../../x"),
        file(b"a/.."),
        header(b"a", b"1", link=b"../../../etc/passwd"),
        header(b"a", b"1", link=b"absent"),
        header(b"a", b"1", link=b""),
        header(b"d", b"5") + header(b"a", b"1", link=b"d"),
        header(b"etc", b"2", link=b"/") + header(b"a", b"1", link=b"etc/passwd"),
        header(b"l", b"2", link=b"l") + file(b"l/x"),
        header(b"l", b"2", link=b"app") + file(b"l/x"),
        header(b"l", b"2"),
        file(b"app/x"),
        pax(path="/".join(["d"] * 130)) + file(b"x"),
        pax(path="n" * 256) + file(b"x"),
        pax(path="../x") + file(b"x"),
        pax(linkpath="../x") + header(b"x", b"1"),
        file(b".wh."),
        file(b".wh.."),
        file(b".wh..."),
        file(b".wh.a/b"),
        header(b"", b"0"),
        header(b"./", b"0"),
        header(b"w", b"3"),
        header(b"x", b"Z"),
        header(b"x", b"D"),
        header(b"x", b"M"),
    ],
)
def test_names_and_links_that_lead_elsewhere(refused: Refused, entry: bytes) -> None:
    assert refused(PROGRAM + entry).code == "bad_layer"


@pytest.mark.parametrize(
    "layer",
    [
        PROGRAM[:-1],
        PROGRAM[:700],
        PROGRAM + b"x",
        PROGRAM + b"x" * 512,
        PROGRAM + bytes(511),
        PROGRAM + header(b"a", size=513) + bytes(512),
        PROGRAM + file(b"a", length=b"0000000000 9"),
        PROGRAM + file(b"a", length=b"-0000000001\0"),
        PROGRAM + file(b"a", length=b"\xff" * 12),
        PROGRAM + file(b"a", length=b"\x80" + b"\x7f" * 11),
        PROGRAM + file(b"a", uid=b"\x80" + b"\x01" * 7),
        PROGRAM + pax(uid="4294967296") + file(b"a"),
        PROGRAM + pax(size="-1") + file(b"a"),
        PROGRAM + pax(size="1e3") + file(b"a"),
        PROGRAM + pax(size="9" * 5000) + file(b"a"),
        PROGRAM + pax(path="a\0b") + file(b"a"),
        PROGRAM + pax(path="a"),
        PROGRAM + pax(path="a") + pax(path="b") + file(b"c"),
        PROGRAM + header(b"long", b"L", 3) + padded(b"abc"),
        PROGRAM + pax(b"g", path="etc/passwd") + file(b"a"),
        PROGRAM + pax(b"g", SCHILY__xattr__a="b") + file(b"a"),
        PROGRAM + header(b"p", b"x", 5) + padded(b"9 a=b") + file(b"a"),
        PROGRAM + header(b"p", b"x", 5) + padded(b"abcde") + file(b"a"),
        PROGRAM + header(b"p", b"x", 6) + padded(b"6 a b\n") + file(b"a"),
        PROGRAM + header(b"p", b"x", 6) + padded(b"0 a=b\n") + file(b"a"),
        PROGRAM + header(b"p", b"x", 6) + padded(b"3 a=b\n") + file(b"a"),
        PROGRAM + header(b"p", b"x", 6) + padded(b"6 =ab\n") + file(b"a"),
        PROGRAM + pax(GNU__sparse__map="0,1", GNU__sparse__size="0") + file(b"a"),
        PROGRAM + pax(GNU__sparse__map="5,1,0,1", GNU__sparse__size="9") + file(b"a", b"xy"),
        PROGRAM + pax(GNU__sparse__map="0,2", GNU__sparse__size="9") + file(b"a"),
        PROGRAM + pax(GNU__sparse__map="0", GNU__sparse__size="9") + file(b"a"),
        PROGRAM + pax(GNU__sparse__map="0,x", GNU__sparse__size="9") + file(b"a"),
        PROGRAM + pax(GNU__sparse__numbytes="1", GNU__sparse__size="9") + file(b"a"),
        PROGRAM + pax(GNU__sparse__major="2", GNU__sparse__realsize="9") + file(b"a"),
        PROGRAM + pax(GNU__sparse__major="1", GNU__sparse__realsize="9") + file(b"a", b"9" * 600),
        PROGRAM + pax(GNU__sparse__major="1", GNU__sparse__realsize="9") + file(b"a", b"3\n0\n"),
    ],
)
def test_archives_that_are_not_well_formed(refused: Refused, layer: bytes) -> None:
    assert refused(layer).code == "bad_layer"


def test_a_wrong_checksum_is_no_end(refused: Refused) -> None:
    broken = bytearray(file(b"later"))
    broken[0] ^= 1
    assert refused(PROGRAM + bytes(broken)).code == "bad_layer"


@pytest.mark.parametrize(
    ("limits", "layers"),
    [
        (Limits(layers=2), (PROGRAM, b"", b"")),
        (Limits(headers=2), (PROGRAM, file(b"a") + file(b"b"))),
        (Limits(entries=2), (PROGRAM + file(b"a/b"),)),
        (Limits(names=20), (PROGRAM + file(b"a" * 20),)),
        (Limits(names=20), (PROGRAM + header(b"l", b"2", link=b"t" * 20),)),
        (Limits(names=15), (PROGRAM + pax(SCHILY__xattr__long_name_of_it="v") + file(b"a"),)),
        (Limits(paths=20), (PROGRAM + file(b"a/a/a/a/a/a/a/a"),)),
        (Limits(layer_bytes=1023), (PROGRAM,)),
        (Limits(total_bytes=2047), (PROGRAM, file(b"b"))),
        (Limits(), (PROGRAM + header(b"p", b"x", MAX_EXTENSION + 1),)),
        (Limits(), (PROGRAM + header(b"p", b"L", 1 << 32),)),
        (
            Limits(total_bytes=1 << 20),
            (PROGRAM + pax(GNU__sparse__map="0,1", GNU__sparse__size=str(1 << 31)) + file(b"a"),),
        ),
        (
            Limits(),
            (PROGRAM + pax(GNU__sparse__map="0," * 140_000 + "0", GNU__sparse__size="9") + file(b"a"),),
        ),
    ],
)
def test_limits(refused: Refused, limits: Limits, layers: tuple[bytes, ...]) -> None:
    assert refused(*layers, limits=limits).code == "too_large"


def test_deep_trees_made_by_links(refused: Refused) -> None:
    """Each link leads to the deepest folder so far, so that short names build an endless path."""
    deep = "/".join(["d"] * 40)
    layer = PROGRAM + file(f"{deep}/x".encode())
    place = deep
    for number in range(5):
        layer += header(f"l{number}".encode(), b"2", link=place.encode()) + file(
            f"l{number}/{deep}/x".encode()
        )
        place = f"l{number}/{deep}"
    assert refused(layer).code == "bad_layer"


def test_files_of_4_gib_are_refused_before_they_are_read(refused: Refused) -> None:
    layer = PROGRAM + pax(GNU__sparse__map="0,1", GNU__sparse__size=str(1 << 32)) + file(b"a")
    assert refused(layer).code == "bad_layer"


def change(files: Image, part: str, edit: Callable[[bytes], bytes]) -> Image:
    return {name: edit(data) if part in name else data for name, data in files.items()}


def test_changed_blobs(refused: Refused) -> None:
    whole = image(PROGRAM)
    for name, data in whole.items():
        if not name.startswith("blobs"):
            continue
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        assert refused(files=whole | {name: flipped}).code in {"digest_mismatch", "bad_layer"}
        assert refused(files=whole | {name: data + b"\0"}).code == "digest_mismatch"


def test_a_missing_blob(tmp_path: Path) -> None:
    files = image(PROGRAM)
    del files["blobs/" + digest(PROGRAM).replace(":", "/")]
    with pytest.raises(BuildError) as told:
        build_from_oci(store(tmp_path / "s", files), output=tmp_path / "x.eif", platform="linux/amd64")
    assert told.value.code == "missing_blob"


def test_unpacked_bytes_are_checked_too(refused: Refused) -> None:
    other = PROGRAM + file(b"more")
    assert refused(files=image(PROGRAM, raw=[gzip.compress(other)])).code == "digest_mismatch"


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"{}",
        b"nonsense",
        b"[" * 100_000,
        b'{"manifests": {}}',
        b'{"manifests": [1]}',
        b'{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json"}]}',
        b'{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../x"}]}',
        b'{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": 7}]}',
        b'{"manifests": [{"mediaType": ["x"], "annotations": 3}]}',
        b" " * (4 << 20) + b"[]",
        b'{"manifests": [' + b",".join([b"{}"] * 10_001) + b"]}",
    ],
)
def test_indexes(refused: Refused, index: bytes) -> None:
    refused(files=image(PROGRAM) | {"index.json": index})


@pytest.mark.parametrize(
    "manifest",
    [
        [{}],
        {},
        [{"Config": "../../etc/passwd", "Layers": []}],
        [{"Config": "/etc/passwd", "Layers": []}],
        [{"Config": "c.json", "Layers": None}],
        [{"Config": "c.json", "Layers": [], "RepoTags": 7}],
        [{"Config": "c.json", "Layers": ["../x"]}],
        [{"Config": "c.json", "Layers": [7]}],
        [{"Config": "c.json", "Layers": ["absent"]}],
        [{"Config": "\ud800", "Layers": []}],
        [{"Config": "a" * 64 + ".json", "Layers": []}],
    ],
)
def test_manifests_of_docker(refused: Refused, manifest: Any) -> None:
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}
    text = json.dumps(config).encode()
    refused(files={"manifest.json": json.dumps(manifest).encode(), "c.json": text, "a" * 64 + ".json": text})


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise").write_bytes(b"\x07" * 5000)
    (tmp_path / "nothing").write_bytes(b"")
    for name in ("empty", "noise", "nothing", "absent"):
        with pytest.raises(ImageError):
            build_from_oci(tmp_path / name, output=tmp_path / "x.eif", platform="linux/amd64")
    with pytest.raises(ImageError):
        build_from_oci(
            store(tmp_path / "s", image(PROGRAM)), output=tmp_path / "no/x.eif", platform="linux/amd64"
        )


BOMB = """
import resource, sys
from pathlib import Path
from geumgo.image import BuildError, build_from_oci
from geumgo.image._oci import Limits
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    build_from_oci(folder, output=folder / "x.eif", platform="linux/amd64", limits=Limits(layer_bytes=1 << 28))
except BuildError as error:
    print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("bomb", ["data", "extension"])
def test_a_bomb_is_stopped_in_little_memory(tmp_path: Path, bomb: str) -> None:
    engine = zlib.compressobj(9, wbits=31)
    start = header(b"big", b"0" if bomb == "data" else b"x", size=1 << 30)
    packed = engine.compress(PROGRAM + start)
    for _ in range(300):
        packed += engine.compress(bytes(1 << 20))
    packed += engine.flush()
    source = store(tmp_path, image(PROGRAM, raw=[packed]))
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(source)], capture_output=True, text=True, check=True
    )
    code, kilobytes = done.stdout.split()
    assert code == "too_large"
    assert int(kilobytes) < 64 << 10


PIECES = st.lists(
    st.sampled_from(
        [
            PROGRAM,
            file(b"a/b"),
            header(b"a", b"5"),
            header(b"l", b"2", link=b"a/../.."),
            header(b"l", b"1", link=b"app"),
            file(b"l/.wh..wh..opq"),
            file(b".wh.a"),
            pax(path="p" * 120, GNU__sparse__map="0,1", GNU__sparse__size="4"),
            header(b"long", b"L", 3) + padded(b"abc"),
            header(b"s", b"S", 0),
            bytes(512),
        ]
    ),
    max_size=8,
)


@given(
    pieces=PIECES,
    flips=st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), max_size=4),
    data=st.data(),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_layer_raises_anything_else(
    pieces: list[bytes],
    flips: list[tuple[int, int]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    layer = bytearray(b"".join(pieces))
    for place, value in flips:
        if layer:
            layer[place % len(layer)] = value
            start = place % len(layer) // 512 * 512
            if len(layer) >= start + 512 and data.draw(st.booleans()):  # a header that is wrong, but sums up
                layer[start + 148 : start + 156] = b" " * 8
                layer[start + 148 : start + 156] = b"%06o\0 " % sum(layer[start : start + 512])
    spool = Spool(tmp_path_factory.getbasetemp(), limit=1 << 20)
    try:
        stream = ByteStream(iter([bytes(layer)]), limit=1 << 20, what="layer")
        tree = Tree(Limits())
        merge(tree, TarReader(stream, what="layer", limit=100), spool, 0)
        tree.nodes()
        tree.left_out()
    except ImageError:
        pass
    finally:
        spool.close()


def test_readers_agree() -> None:
    """What Python's own reader finds in an archive that is in order, ours finds too."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(30):
            info = tarfile.TarInfo("d/" * number + "f" * (number * 7 + 1))
            info.size, info.uid, info.mode = number * 100, number * 1_000_000, 0o4755
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        expected = [(member.name, member.size, member.uid, member.mode) for member in archive]
    reader = TarReader(ByteStream(iter([buffer.getvalue()]), limit=1 << 30, what="t"), what="t", limit=100)
    found = []
    for number, entry in enumerate(reader):
        found.append((entry.name, entry.size, entry.uid, entry.mode))
        if number % 2:
            assert b"".join(map(bytes, reader.data())) == bytes([number]) * entry.size
    assert found == expected
