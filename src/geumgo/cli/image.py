"""`geumgo image`: build enclave images, and look into them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from geumgo import image, keys
from geumgo._base import GeumgoError, SystemClock
from geumgo.cli import _output

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="Enclave images: build, describe, verify, take apart, compare.")

_Image = Annotated[Path, typer.Argument(help="The enclave image (EIF).")]


@app.command()
def build(
    output: Annotated[Path, typer.Option("--out", help="Where the image goes.")],
    root: Annotated[Path | None, typer.Option(help="Build from this folder as root file system.")] = None,
    cmd: Annotated[
        list[str] | None, typer.Option(help="With --root: program, then each argument; repeat the option.")
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
    """
    if (root is None) == (configuration is None):
        raise typer.BadParameter("give --root or --configuration, and not both")
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
    json: _output.Json = False,
) -> None:
    """Check form, CRC, section table, signature and certificate dates; exit code 1 and the reason if wrong.

    Example: geumgo image verify enclave.eif --signed
    """
    found = image.verify(eif, now_ms=SystemClock().now_ms())
    if signed and not found.signed:
        raise GeumgoError(f"{eif} is not signed", code="not_signed")
    _show(found, json=json)


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
        try:
            pem = certificate.read_bytes()
        except OSError as error:
            raise GeumgoError(f"{certificate} can't be read: {error.strerror}", code="file") from None
        found["PCR8"] = image.pcr_of_certificate(pem)
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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GeumgoError(f"{path} can't be read: {error.strerror}", code="file") from None
    keys.MeasuredConfiguration.from_json(data)  # what the enclave would refuse at start is refused here
    return data


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{option} is NAME=value, not {text!r}")
    return name, value
