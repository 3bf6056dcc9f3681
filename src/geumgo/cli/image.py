"""`geumgo image`: build enclave images, and look into them."""

from __future__ import annotations

import enum
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from geumgo import image, keys
from geumgo._base import GeumgoError, SystemClock
from geumgo.cli import _output

__all__ = ("app",)

_MAX_FILE = 16 << 20
"""Bytes of a certificate, key, signature or configuration; a wrong path must not fill memory."""


class _Backend(enum.Enum):
    nitro = "nitro"
    microvm = "microvm"
    process = "process"


app = typer.Typer(no_args_is_help=True, help="Enclave images: build, sign, check, take apart, compare.")

_Image = Annotated[Path, typer.Argument(help="The enclave image (EIF).")]
_Signer = Annotated[Path, typer.Option("--certificate", help="The signing certificate (PEM).")]
_Signed = Annotated[Path, typer.Option("--out", help="Where the signed image goes; may be the image itself.")]
_Now = Annotated[
    str,
    typer.Option(
        "--now", help="Check dates as of this time, such as 2026-12-31T00:00:00Z.", show_default="now"
    ),
]


@app.command()
def build(
    output: Annotated[Path, typer.Option("--out", help="Where the image goes.")],
    root: Annotated[Path | None, typer.Option(help="Build from this folder as root file system.")] = None,
    cmd: Annotated[
        list[str] | None,
        typer.Option(
            help="With --root: program, then each argument; repeat the option. With --oci: in place of its CMD."
        ),
    ] = None,
    oci: Annotated[
        Path | None,
        typer.Option(
            help="Build from this container image: an OCI layout (folder or tar) or `docker save` archive."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--platform", help="With --oci: such as linux/amd64.", show_default="this machine's"),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="With --oci: which of several images, by name.")
    ] = None,
    configuration: Annotated[
        Path | None, typer.Option(help="Build Geumgo's own image around this measured configuration.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="With --configuration: one more file, INSIDE=PATH; repeatable.")
    ] = None,
    module: Annotated[
        str, typer.Option(help="With --configuration: the module that runs.")
    ] = "geumgo.enclave",
    env: Annotated[list[str] | None, typer.Option(help="NAME=value for the program; repeatable.")] = None,
    kernel: Annotated[Path | None, typer.Option(help="bzImage (x86_64) or Image (aarch64).")] = None,
    init: Annotated[
        Path | None, typer.Option(help="First program; its place is the bootstrap ramdisk.")
    ] = None,
    cmdline: Annotated[str | None, typer.Option(help="Kernel command line; nitro-cli's by default.")] = None,
    arch: Annotated[
        str, typer.Option(help="With --root: x86_64 or aarch64.", show_default="this machine's")
    ] = platform.machine(),
    name: Annotated[str, typer.Option(help="Name in the metadata.")] = "",
    host_files: Annotated[
        bool | None,
        typer.Option(
            "--host-files/--locked",
            help="Take this machine's Python in place of the locked one, or never; by default where it must.",
            show_default=False,
        ),
    ] = None,
    json: _output.Json = False,
) -> None:
    """Build an image and print its PCRs: what the hypervisor will measure.

    Example: geumgo image build --configuration measured.json --out enclave.eif

    Example: geumgo image build --oci app.tar --platform linux/amd64 --out app.eif
    """
    if sum(source is not None for source in (root, oci, configuration)) != 1:
        raise typer.BadParameter("give one of --root, --oci and --configuration")
    variables = dict(_pair(text, "--env") for text in env or [])
    with _output.progress("building the image", total=1.0) as bar:
        task = bar.task_ids[0]

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done / total if total else 0.0)

        if root is not None:
            built = image.build_from_directory(
                root,
                cmd=cmd or [],
                env=variables,
                output=output,
                kernel=kernel,
                init=init,
                cmdline=cmdline,
                architecture=image.Architecture.of_machine(arch),
                name=name,
                progress=step,
            )
        elif oci is not None:
            built = image.build_from_oci(
                oci,
                output=output,
                platform=target,
                reference=reference,
                cmd=cmd,
                env=variables,
                kernel=kernel,
                init=init,
                cmdline=cmdline,
                name=name,
                progress=step,
            )
        else:
            assert configuration is not None
            files = {inside: Path(path) for inside, path in (_pair(text, "--file") for text in file or [])}
            built = image.build_enclave_image(
                output=output,
                configuration=_configuration(configuration),
                app_files=files,
                module=module,
                env=variables,
                kernel=kernel,
                init=init,
                cmdline=cmdline,
                host_files=host_files,
                progress=step,
                name=name or "geumgo-enclave",
            )
    if json:
        _output.print_json(
            {
                "Measurements": built.measurements.to_json(),
                "Path": str(built.path),
                "Size": built.size,
                "Bootable": built.bootable,
                "ThisMachineOnly": built.this_machine_only,
                "LeftOut": list(built.left_out),
                "Notes": list(built.notes),
            }
        )
    else:
        rows: dict[str, Any] = {"image": f"{built.path} ({built.size / 1e6:.1f} MB)"}
        _lines(rows | _pcrs(built.measurements) | _notes(built.notes))


@app.command()
def describe(eif: _Image, json: _output.Json = False) -> None:
    """Print what an image is: sections, PCRs, metadata, whether CRC and signature are right.

    Example: geumgo image describe enclave.eif --json
    """
    _show(image.describe(eif), json=json)


@app.command()
def verify(
    eif: _Image,
    signed: Annotated[bool, typer.Option("--signed", help="Fail when the image isn't signed.")] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="Fail unless the image is signed with this certificate (PEM).")
    ] = None,
    now: _Now = "",
    json: _output.Json = False,
) -> None:
    """Check form, CRC, section table, signature and certificate dates; exit code 1 and the reason if wrong.

    Example: geumgo image verify enclave.eif --signed
    """
    expected = None if certificate is None else image.pcr_of_certificate(_read(certificate))
    found = image.verify(eif, now_ms=_time(now))
    if (signed or expected) and not found.signed:
        raise GeumgoError(f"{eif} is not signed", code="not_signed")
    if expected and found.measurements.pcr8 != expected:
        raise GeumgoError(f"{eif} is signed with another certificate than {certificate}", code="other_signer")
    _show(found, json=json)


@app.command()
def preflight(
    eif: _Image,
    memory: Annotated[
        int | None, typer.Option(min=1, help="MiB for the enclave.", show_default="the image's default")
    ] = None,
    backend: Annotated[
        _Backend, typer.Option(help="What it shall run on; process needs no kernel.")
    ] = _Backend.nitro,
    now: _Now = "",
    json: _output.Json = False,
) -> None:
    """Say what a launch would fail with, the number and the fix; exit code 1 if anything would.

    Example: geumgo image preflight enclave.eif --memory 512
    """
    opened = image.read_eif(eif)
    need = image.memory_needed(opened)
    found = image.preflight(opened, memory, boots=backend is not _Backend.process, now_ms=_time(now))
    fatal = any(finding.fatal for finding in found)
    if json:
        findings = [finding.to_json() for finding in found]
        _output.print_json(
            {"Ready": not fatal, "MemoryNeededMiB": need.mib, "Size": need.size, "Unpacked": need.unpacked}
            | {"Findings": findings}
        )
    else:
        for finding in found:
            word = "fails" if finding.fatal else "note"
            _lines({word: f"{finding.what} [{finding.code}]", "": finding.fix})
        if not fatal:
            _lines({"ready": f"nothing would fail; memory needed on Nitro and microvm: {need.mib} MiB"})
    if fatal:
        raise typer.Exit(1)


@app.command()
def sign(
    eif: _Image,
    certificate: _Signer,
    key: Annotated[str, typer.Option(help="The certificate's private key (PEM file, EC).")],
    output: _Signed,
    now: _Now = "",
    json: _output.Json = False,
) -> None:
    """Sign an image with a key in a file, and print its PCRs; a signature that it has is replaced.

    Example: geumgo image sign app.eif --certificate cert.pem --key key.pem --out signed.eif
    """
    if key.startswith("arn:"):
        raise GeumgoError(
            "a key in KMS signs offline",
            fix="Write the bytes with geumgo image signing-request, have KMS sign them, and attach-signature.",
            code="image_signing",
        )
    measured = image.sign_eif(
        eif,
        output,
        certificate_pem=_read(certificate),
        private_key_pem=_read(Path(key)),
        now_ms=_time(now),
    )
    _show_signed(output, measured, json=json)


@app.command("signing-request")
def signing_request(
    eif: _Image,
    certificate: _Signer,
    output: Annotated[Path, typer.Option("--out", help="File for the bytes to be signed.")],
    digest: Annotated[
        bool, typer.Option("--digest", help="Write their hash, for signers that take a digest.")
    ] = False,
    now: _Now = "",
    json: _output.Json = False,
) -> None:
    """Write the exact bytes that a KMS or HSM must sign, and print how.

    Example: geumgo image signing-request app.eif --certificate cert.pem --out app.tbs
    """
    request = image.signing_request(eif, certificate_pem=_read(certificate), now_ms=_time(now))
    try:
        output.write_bytes(request.digest if digest else request.to_be_signed)
    except OSError as error:
        raise GeumgoError(f"{output} can't be written: {error.strerror}", code="file") from None
    if json:
        _output.print_json(
            {
                "Path": str(output),
                "Algorithm": request.algorithm.name,
                "HashAlgorithm": request.hash_name,
                "ToBeSigned": request.to_be_signed.hex(),
                "Digest": request.digest.hex(),
                "Measurements": request.measurements.to_json(),
            }
        )
        return
    _lines(
        {
            "to be signed": f"{output} ({'the digest' if digest else 'the bytes'})",
            "algorithm": f"{request.algorithm.name}: ECDSA with {request.hash_name}",
            request.hash_name: request.digest.hex(),
            **_pcrs(request.measurements),
        }
    )


@app.command("attach-signature")
def attach_signature(
    eif: _Image,
    certificate: _Signer,
    signature: Annotated[Path, typer.Option(help="The signature's bytes: DER, or r and s.")],
    output: _Signed,
    now: _Now = "",
    json: _output.Json = False,
) -> None:
    """Check a signature that was made elsewhere over the signing request, and write the signed image.

    Example: geumgo image attach-signature app.eif --certificate cert.pem --signature app.sig --out signed.eif
    """
    measured = image.attach_signature(
        eif,
        output,
        certificate_pem=_read(certificate),
        signature=_read(signature),
        now_ms=_time(now),
    )
    _show_signed(output, measured, json=json)


@app.command()
def extract(
    eif: _Image,
    output: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Unpack the application's ramdisks, too, below app/.")
    ] = False,
    json: _output.Json = False,
) -> None:
    """Write an image's sections to files.

    Example: geumgo image extract enclave.eif --out parts --unpack
    """
    opened = image.read_eif(eif)
    written = [str(path) for path in image.extract(opened, output)]
    if unpack:
        written.append(str(image.unpack(opened, output / "app").root))
    if json:
        _output.print_json({"files": written})
    else:
        for path in written:
            _output.out.print(path, markup=False)


@app.command()
def pcr(
    eif: Annotated[Path | None, typer.Argument(help="The enclave image (EIF).")] = None,
    role: Annotated[str | None, typer.Option(help="ARN of the parent's IAM role: PCR3.")] = None,
    instance: Annotated[str | None, typer.Option(help="Id of the parent instance: PCR4.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Signing certificate (PEM): PCR8.")] = None,
    json: _output.Json = False,
) -> None:
    """Print PCRs as policies need them: of an image, an IAM role, an instance, a signing certificate.

    Example: geumgo image pcr enclave.eif --role arn:aws:iam::123456789012:role/Webserver
    """
    found: dict[str, str] = {}
    if eif is not None:
        found |= _pcrs(image.measure(image.read_eif(eif)))
    if role is not None:
        found["PCR3"] = image.pcr_of_text(role)
    if instance is not None:
        found["PCR4"] = image.pcr_of_text(instance)
    if certificate is not None:
        found["PCR8"] = image.pcr_of_certificate(_read(certificate))
    if not found:
        raise typer.BadParameter("give an image, --role, --instance or --certificate")
    if json:
        _output.print_json(found)
    else:
        _lines(found)


@app.command()
def diff(
    one: Annotated[Path, typer.Argument(help="An image.")],
    other: Annotated[Path, typer.Argument(help="Another image.")],
    json: _output.Json = False,
) -> None:
    """Say in words what differs between two images; exit code 1 if anything does.

    Example: geumgo image diff before.eif after.eif
    """
    found = list(image.diff(image.read_eif(one), image.read_eif(other)))
    if json:
        _output.print_json({"same": not found, "differences": found})
    elif found:
        for line in found:
            _output.out.print(line, markup=False, soft_wrap=True)
    else:
        _output.out.print("The images are the same bytes.")
    if found:
        raise typer.Exit(1)


def _show(found: image.Description, *, json: bool) -> None:
    if json:
        _output.print_json(found.to_json())
        return
    signature = "none"
    if found.signed:
        signature = "right" if found.signature_ok else "WRONG"
    _lines(
        {
            "name": " ".join(part for part in (found.name, found.image_version) if part),
            "format": f"EIF {found.version}, {found.architecture}, {found.size / 1e6:.1f} MB",
            **_pcrs(found.measurements),
            "CRC": "right" if found.crc_ok else "WRONG",
            "signature": signature,
            "memory needed": f"{found.memory_mib} MiB",
            "command line": found.cmdline,
            **_notes(found.notes),
            **{f"warning {number}": text for number, text in enumerate(found.warnings, 1)},
        }
    )
    _output.table(
        ("section", "offset", "bytes"),
        [(section.kind.name.lower(), section.offset, section.size) for section in found.sections],
    )


def _lines(values: Mapping[str, object]) -> None:
    """Print one pair a line and leave wrapping to the terminal, so that a PCR is copied in one piece."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        _output.out.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)


def _pcrs(measurements: image.Measurements) -> dict[str, str]:
    return {name: value for name, value in measurements.to_json().items() if name.startswith("PCR")}


def _notes(notes: tuple[str, ...]) -> dict[str, str]:
    return {f"note {number}" if len(notes) > 1 else "note": text for number, text in enumerate(notes, 1)}


def _configuration(path: Path) -> bytes:
    data = _read(path)
    keys.MeasuredConfiguration.from_json(data)  # what the enclave would refuse at start is refused here
    return data


def _read(path: Path) -> bytes:
    """Return a small file's bytes: a certificate, a key, a configuration."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise GeumgoError(f"{path} can't be read: {error.strerror}", code="file") from None
    if len(data) > _MAX_FILE:
        raise GeumgoError(f"{path} has more than {_MAX_FILE} bytes; it can't be the right file", code="file")
    return data


def _time(text: str) -> int:
    """Return milliseconds since 1970: now, or what --now says."""
    if not text:
        return SystemClock().now_ms()
    try:
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--now is a time such as 2026-12-31T00:00:00Z, not {text!r}") from None


def _show_signed(path: Path, measured: image.Measurements, *, json: bool) -> None:
    if json:
        _output.print_json({"Measurements": measured.to_json(), "Path": str(path)})
    else:
        _lines({"signed image": str(path)} | _pcrs(measured))


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{option} is NAME=value, not {text!r}")
    return name, value
