"""What a launch would fail with, said before it."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from geumgo.image import (
    EifError,
    Finding,
    Part,
    SectionType,
    cpio,
    describe,
    memory_needed,
    preflight,
    read_eif,
    sign_eif,
    write_eif,
)
from geumgo.image import _preflight as room

MIB = 1 << 20
KERNEL = bytes(0x202) + b"HdrS"
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = int((START + timedelta(days=10)).timestamp() * 1000)

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> Make:
    """Write an image that boots, as far as a reader can tell."""

    def write(
        *, cmdline: bytes = b"console=ttyS0", ramdisk: bytes | None = None, more: Sequence[Part] = ()
    ) -> Path:
        parts = make_parts(kernel=KERNEL)
        parts[1] = Part(SectionType.CMDLINE, cmdline)
        if ramdisk is not None:
            parts[4] = Part(SectionType.RAMDISK, ramdisk)
        write_eif(tmp_path / "x.eif", [*parts, *more])
        return tmp_path / "x.eif"

    return write


def archive(size: int, *, files: int = 1) -> bytes:
    nodes = {f"rootfs/{number}": cpio.Node.file(bytes(size)) for number in range(files)}
    return cpio.Archive(nodes, mtime=0).to_bytes()


def codes(found: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in found]


def test_nothing_to_find(make: Make) -> None:
    assert preflight(make(), 64, now_ms=NOW_MS) == ()
    assert preflight(read_eif(make())) == ()  # the default of 1 GiB


def test_four_times_the_image(make: Make) -> None:
    path = make(ramdisk=archive(30 * MIB))
    need = memory_needed(read_eif(path))
    size = path.stat().st_size
    assert need.by_rule == 4 * size > need.by_content
    assert need.mib == 122  # 4 x 30.0 MiB and a little, in steps of 2 MiB
    assert preflight(path, 122, now_ms=NOW_MS) == ()
    (found,) = preflight(path, 121, now_ms=NOW_MS)
    assert (found.code, found.fatal) == ("memory", True)
    assert found.what == "121 MiB is not enough: an enclave needs 4 times its image, which has 30.0 MiB"
    assert "122 MiB or more" in found.fix
    assert describe(path).memory_mib == 122


def test_the_least_of_an_enclave(make: Make) -> None:
    (found,) = preflight(make(), 63, now_ms=NOW_MS)
    assert found.what == "63 MiB is not enough: an enclave has at least 64 MiB"


def test_what_a_compressed_ramdisk_unpacks_to(make: Make) -> None:
    plain = archive(60 * MIB)
    path = make(ramdisk=gzip.compress(plain, 1))
    need = memory_needed(read_eif(path))
    assert need.by_rule < 4 * MIB
    assert len(plain) <= need.unpacked < len(plain) + MIB
    assert need.mib == 122
    (found,) = preflight(path, 64, now_ms=NOW_MS)
    assert "unpacks to 60.0 MiB, half of memory at most" in found.what


def test_small_files_take_whole_pages(make: Make) -> None:
    before = memory_needed(read_eif(make())).unpacked
    need = memory_needed(read_eif(make(ramdisk=archive(1, files=100))))
    assert 100 * 4096 <= need.unpacked < 100 * 4096 + before


def test_the_image_names_too_little_itself(tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    write_eif(tmp_path / "x.eif", make_parts(kernel=KERNEL), default_memory=32 * MIB)
    (found,) = preflight(tmp_path / "x.eif", now_ms=NOW_MS)
    assert found.what.startswith("the image's default of 32 MiB is not enough")


@pytest.mark.parametrize(
    ("ramdisk", "words"),
    [
        pytest.param(b"RAMDISK", "no archive entry at 0", id="not an archive"),
        pytest.param(b"\x1f\x8b" + b"x" * 50, "gzip data is damaged", id="damaged gzip"),
        pytest.param(gzip.compress(archive(9), mtime=0)[:-9], "ends too early", id="cut gzip"),
        pytest.param(b"", "ends without its trailer", id="empty"),
    ],
)
def test_ramdisks_that_can_not_be_counted(make: Make, ramdisk: bytes, words: str) -> None:
    path = make(ramdisk=ramdisk)
    (found,) = preflight(path, 64, now_ms=NOW_MS)
    assert (found.code, found.fatal) == ("unpacked_size_unknown", False)
    assert words in found.what
    assert "ramdisk 1 can't be counted" in found.what
    assert describe(path).memory_mib == 64


def test_a_ramdisk_that_expands_to_anything(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_UNPACKED", 3 * MIB)
    path = make(ramdisk=gzip.compress(bytes(64 * MIB)))
    (found,) = preflight(path, 64, now_ms=NOW_MS)
    assert found.code == "unpacked_size_unknown"
    assert "more than 0 GiB" in found.what


def test_images_that_can_not_boot(small: Path) -> None:
    (found,) = preflight(small, now_ms=NOW_MS)
    assert (found.code, found.fatal) == ("not_bootable", True)
    assert "its kernel is not an x86_64 bzImage" in found.what
    assert "--kernel and --init" in found.fix
    assert preflight(small, 1, boots=False, now_ms=NOW_MS) == ()


@pytest.mark.parametrize(
    ("cmdline", "code"),
    [
        (b"a" * 2047, None),
        (b"a" * 2048, "cmdline_too_long"),
        (b"a\0", "cmdline_malformed"),
        (b"a\n", "cmdline_malformed"),
    ],
)
def test_command_lines(make: Make, cmdline: bytes, code: str | None) -> None:
    assert codes(preflight(make(cmdline=cmdline), now_ms=NOW_MS)) == ([code] if code else [])


def test_the_process_backend(make: Make, tmp_path: Path, make_parts: Callable[..., list[Part]]) -> None:
    packed = make(ramdisk=gzip.compress(archive(9)))
    assert codes(preflight(packed, boots=False, now_ms=NOW_MS)) == ["compressed"]
    write_eif(tmp_path / "one.eif", make_parts()[:-1])
    assert codes(preflight(tmp_path / "one.eif", boots=False, now_ms=NOW_MS)) == ["no_application"]


def test_no_section_left_for_a_signature(make: Make) -> None:
    more = [Part(SectionType.RAMDISK, archive(1))] * 27
    (found,) = preflight(make(more=more), now_ms=NOW_MS)
    assert (found.code, found.fatal) == ("no_room_for_signature", False)


def test_signatures(make: Make) -> None:
    path = make()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(START).not_valid_after(START + timedelta(days=100))
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    sign_eif(path, path, certificate_pem=pem, private_key_pem=private, now_ms=NOW_MS)

    def after(days: int) -> tuple[Finding, ...]:
        return preflight(path, now_ms=int((START + timedelta(days=days)).timestamp() * 1000))

    assert after(10) == ()
    (soon,) = after(71)
    assert (soon.code, soon.fatal) == ("certificate_expires_soon", False)
    assert "2026-04-11" in soon.what
    for days in (-1, 101):
        (expired,) = after(days)
        assert (expired.code, expired.fatal) == ("certificate_expired", True)
    data = bytearray(path.read_bytes())
    data[560] ^= 1  # the kernel, measured and signed
    repair(path, data)
    assert codes(after(10)) == ["bad_signature"]


def test_damaged_and_unusual_images(make: Make) -> None:
    path = make()
    data = bytearray(path.read_bytes())
    repair(path, data + b"tail")
    assert codes(preflight(path, now_ms=NOW_MS)) == ["unusual_eif"]
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(EifError) as caught:
        preflight(path)
    assert caught.value.code == "bad_eif_crc"


def repair(path: Path, data: bytearray) -> None:
    struct.pack_into(">I", data, 0x220, zlib.crc32(data[0x224:], zlib.crc32(data[:0x220])))
    path.write_bytes(data)
