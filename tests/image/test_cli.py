"""`geumgo image`: the commands as a person types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from geumgo import cli
from geumgo.image import measure, read_eif, replace_byte

COMMANDS = ("build", "describe", "verify", "preflight", "sign", "signing-request", "attach-signature")
COMMANDS += ("extract", "pcr", "diff")


@dataclass
class Done:
    stdout: str
    stderr: str


Geumgo = Callable[..., Done]


@pytest.fixture
def geumgo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Geumgo:
    """Run the command line as `geumgo image WORDS` and check its exit status."""

    def call(*words: str | Path, status: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["geumgo", "image", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == status, shown.err
        return Done(shown.out, shown.err)

    return call


def answer(geumgo: Geumgo, *words: str | Path) -> Any:
    return json.loads(geumgo(*words, "--json").stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(geumgo: Geumgo, command: str) -> None:
    assert f"Example: geumgo image {command}" in " ".join(geumgo(command, "--help").stdout.split())


def test_build_describe_verify(geumgo: Geumgo, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").write_text("x")
    options = ("--root", tmp_path / "root", "--cmd", "/app", "--cmd", "-v", "--env", "A=b=c")
    built = answer(geumgo, "build", "--out", tmp_path / "x.eif", *options)
    measured = measure(read_eif(tmp_path / "x.eif"))
    assert built["Measurements"] == measured.to_json()
    assert built["Bootable"] is False
    described = answer(geumgo, "describe", tmp_path / "x.eif")
    assert described["Measurements"] == measured.to_json()
    assert answer(geumgo, "verify", tmp_path / "x.eif") == described
    for done in (
        geumgo("build", "--out", tmp_path / "y.eif", *options),
        geumgo("describe", tmp_path / "x.eif"),
    ):
        assert measured.pcr0 in done.stdout  # in one piece, to be copied
        assert "not bootable" in done.stdout
    assert (tmp_path / "x.eif").read_bytes() == (tmp_path / "y.eif").read_bytes()


def test_pcr(geumgo: Geumgo, small: Path) -> None:
    role = "arn:aws:iam::123456789012:role/Webserver"
    found = answer(geumgo, "pcr", small, "--role", role, "--instance", "i-1234567890abcdef0")
    assert found["PCR0"] == measure(read_eif(small)).pcr0
    assert found["PCR3"].startswith("78fce75d")
    assert found["PCR4"].startswith("08f996b5")


def test_diff(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    assert "same bytes" in geumgo("diff", small, small).stdout
    replace_byte(small, tmp_path / "c.eif", "etc/banner.txt")
    done = geumgo("diff", small, tmp_path / "c.eif", status=1)
    assert done.stdout.startswith("ramdisk 1, rootfs/etc/banner.txt: content differs from byte 0 on")
    found = json.loads(geumgo("diff", small, tmp_path / "c.eif", "--json", status=1).stdout)
    assert (found["same"], len(found["differences"])) == (False, 1)


def test_extract(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    files = answer(geumgo, "extract", small, "--out", tmp_path / "parts", "--unpack")["files"]
    assert [Path(file).name for file in files][-2:] == ["ramdisk1.cpio", "rootfs"]
    assert (tmp_path / "parts/app/rootfs/etc/banner.txt").is_file()


def test_errors_are_words_and_exit_codes(geumgo: Geumgo, small: Path, tmp_path: Path) -> None:
    assert "image_unreadable" in geumgo("describe", tmp_path / "absent", status=1).stderr
    assert "not_signed" in geumgo("verify", small, "--signed", status=1).stderr
    small.write_bytes(small.read_bytes()[:-1] + b"x")
    assert "bad_eif_crc" in geumgo("verify", small, status=1).stderr
    out = ("--out", tmp_path / "x.eif")
    (tmp_path / "m.json").write_text("{}")
    geumgo("build", *out, "--configuration", tmp_path / "m.json", status=1)
    geumgo("build", *out, "--configuration", tmp_path / "absent", status=1)
    geumgo("build", *out, status=2)
    geumgo("build", *out, "--root", tmp_path, "--configuration", tmp_path / "m.json", status=2)
    geumgo("build", *out, "--root", tmp_path, "--cmd", "/x", "--env", "A", status=2)
    geumgo("build", *out, "--root", tmp_path, "--cmd", "/x", "--arch", "mips", status=1)
    geumgo("pcr", status=2)
    assert not (tmp_path / "x.eif").exists()


@pytest.fixture
def signer(tmp_path: Path) -> dict[str, Path]:
    """Files of a signer: certificate, key, and another key."""
    files = {
        "certificate": tmp_path / "cert.pem",
        "key": tmp_path / "key.pem",
        "other": tmp_path / "other.pem",
    }
    key, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "release")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=365))
    pem = serialization.Encoding.PEM
    files["certificate"].write_bytes(made.sign(key, hashes.SHA384()).public_bytes(pem))
    for file, one in (("key", key), ("other", other)):
        form, hidden = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[file].write_bytes(one.private_bytes(pem, form, hidden))
    return files


THEN = ("--now", "2026-06-01T00:00:00Z")


def test_sign(geumgo: Geumgo, small: Path, signer: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "signed.eif"
    certificate = ("--certificate", signer["certificate"])
    words = ("sign", small, *certificate, "--key", signer["key"], "--out", out, *THEN)
    pcr8 = answer(geumgo, "pcr", *certificate)["PCR8"]
    assert pcr8 in geumgo(*words).stdout
    assert answer(geumgo, *words) == {"Measurements": measure(read_eif(out)).to_json(), "Path": str(out)}
    found = answer(geumgo, "verify", out, "--signed", *certificate, *THEN)
    assert (found["SignatureCheck"], found["Measurements"]["PCR8"]) == (True, pcr8)
    assert "expired at 2027-01-01" in " ".join(
        geumgo("verify", out, "--now", "2027-06-01", status=1).stderr.split()
    )
    assert "not_signed" in geumgo("verify", small, *certificate, *THEN, status=1).stderr
    other = tmp_path / "other-cert.pem"
    lines = signer["certificate"].read_bytes().splitlines(keepends=True)
    other.write_bytes(b"".join([lines[0], lines[2], *lines[1:]]))  # PEM of other bytes: only the hash counts
    assert "other_signer" in geumgo("verify", out, "--certificate", other, *THEN, status=1).stderr


def test_sign_offline(geumgo: Geumgo, small: Path, signer: dict[str, Path], tmp_path: Path) -> None:
    out, tbs, signature = tmp_path / "signed.eif", tmp_path / "x.tbs", tmp_path / "x.sig"
    certificate = ("--certificate", signer["certificate"], *THEN)
    request = answer(geumgo, "signing-request", small, *certificate, "--out", tbs)
    assert request["Algorithm"] == "ES384"
    assert tbs.read_bytes().hex() == request["ToBeSigned"]
    shown = geumgo("signing-request", small, *certificate, "--out", tmp_path / "digest", "--digest").stdout
    assert request["Digest"] in shown
    assert (tmp_path / "digest").read_bytes().hex() == request["Digest"]
    key = serialization.load_pem_private_key(signer["key"].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature.write_bytes(key.sign(tbs.read_bytes(), ec.ECDSA(hashes.SHA384())))
    words = ("attach-signature", small, *certificate, "--signature", signature, "--out", out)
    assert answer(geumgo, *words)["Measurements"] == request["Measurements"]
    assert request["Measurements"]["PCR8"] in geumgo(*words).stdout
    geumgo("verify", out, "--signed", *certificate)
    signature.write_bytes(key.sign(b"another", ec.ECDSA(hashes.SHA384())))
    out.unlink()
    assert "bad_signature" in geumgo(*words, status=1).stderr
    assert not out.exists()
    geumgo("signing-request", small, *certificate, "--out", tmp_path, status=1)


def test_what_can_not_be_signed_is_never_left_unsigned(
    geumgo: Geumgo, small: Path, signer: dict[str, Path], tmp_path: Path
) -> None:
    """The reference tools printed a message, wrote an unsigned image and ended with 0."""
    out = ("--out", tmp_path / "signed.eif")
    certificate, key = ("--certificate", signer["certificate"]), ("--key", signer["key"])
    arn = "arn:aws:kms:ap-northeast-2:123456789012:key/1234"
    assert (
        "key_mismatch"
        in geumgo("sign", small, *certificate, "--key", signer["other"], *out, *THEN, status=1).stderr
    )
    assert "signing-request" in geumgo("sign", small, *certificate, "--key", arn, *out, status=1).stderr
    geumgo("sign", small, *certificate, "--key", tmp_path / "absent", *out, *THEN, status=1)
    geumgo("sign", small, "--certificate", tmp_path / "absent", *key, *out, *THEN, status=1)
    geumgo("sign", small, "--certificate", small, *key, *out, *THEN, status=1)
    assert (
        "certificate_expired"
        in geumgo("sign", small, *certificate, *key, *out, "--now", "2030-01-01", status=1).stderr
    )
    geumgo("sign", small, *certificate, *out, status=2)
    geumgo("sign", small, *key, *out, status=2)
    geumgo("sign", small, *certificate, *key, *out, "--now", "soon", status=2)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(17 << 20)
    assert "can't be the right file" in " ".join(
        geumgo("sign", small, *certificate, "--key", tmp_path / "large", *out, *THEN, status=1).stderr.split()
    )
    assert not out[1].exists()


def test_preflight(geumgo: Geumgo, small: Path) -> None:
    found = json.loads(geumgo("preflight", small, "--memory", "32", "--json", status=1).stdout)
    assert (found["Ready"], found["MemoryNeededMiB"], found["Size"]) == (False, 64, small.stat().st_size)
    assert [finding["Code"] for finding in found["Findings"]] == ["memory", "not_bootable"]
    shown = geumgo("preflight", small, "--memory", "32", status=1).stdout
    assert "Give the enclave 64 MiB or more" in shown
    assert "64 MiB" in geumgo("preflight", small, "--backend", "process").stdout
    assert answer(geumgo, "preflight", small, "--backend", "process")["Ready"] is True
    assert answer(geumgo, "describe", small)["MemoryNeededMiB"] == 64
    geumgo("preflight", small, "--memory", "0", status=2)
