"""What an image is, for people and programs: nitro-cli's `describe-eif` JSON, and what it doesn't say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from geumgo.image._bootstrap import bootable
from geumgo.image._errors import EifError
from geumgo.image._measure import Measurements
from geumgo.image._preflight import memory_needed
from geumgo.image._signature import check_dates, check_signature
from geumgo.image.build import THIS_MACHINE_KEY, THIS_MACHINE_ONLY
from geumgo.image.eif import Eif, Section, measure, read_eif

__all__ = ("Description", "describe", "verify")


@dataclass(frozen=True, slots=True)
class Description:
    """An image's facts.

    Attributes:
        version: of the format.
        architecture: `x86_64` or `aarch64`.
        size: bytes.
        sections: in file order.
        measurements: the PCRs.
        cmdline: kernel's command line.
        name: of the metadata.
        image_version: of the metadata.
        metadata: the metadata's other parts, custom keys among them.
        crc_ok: whether the CRC is right.
        signed: whether there is a signature section.
        signature_ok: whether the signature is the certificate's over PCR0.
        certificate: facts of the signing certificate; None where there is none that can be read.
        memory_mib: MiB that an enclave with it needs.
        bootable: whether it has a kernel and an init.
        this_machine_only: whether it says that it has files of the machine it was built on.
        warnings: what is unusual.
        notes: what every table that shows the image must say.
    """

    version: int
    architecture: str
    size: int
    sections: tuple[Section, ...]
    measurements: Measurements
    cmdline: str
    name: str
    image_version: str
    metadata: dict[str, Any]
    crc_ok: bool
    signed: bool
    signature_ok: bool
    certificate: dict[str, Any] | None
    memory_mib: int
    bootable: bool
    this_machine_only: bool
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return nitro-cli's object, then keys of ours that no key of its has the name of."""
        found: dict[str, Any] = {
            "EifVersion": self.version,
            "Measurements": self.measurements.to_json(),
            "IsSigned": self.signed,
        }
        if self.certificate is not None:
            found["SigningCertificate"] = self.certificate
        found["CheckCRC"] = self.crc_ok
        if self.signed:
            found["SignatureCheck"] = self.signature_ok
        found |= {"ImageName": self.name, "ImageVersion": self.image_version, "Metadata": self.metadata}
        return found | {
            "Architecture": self.architecture,
            "Size": self.size,
            "Cmdline": self.cmdline,
            "Sections": [
                {"Type": section.kind.name.lower(), "Offset": section.offset, "Size": section.size}
                for section in self.sections
            ],
            "MemoryNeededMiB": self.memory_mib,
            "Bootable": self.bootable,
            "ThisMachineOnly": self.this_machine_only,
            "Notes": list(self.notes),
            "Warnings": list(self.warnings),
        }


def describe(image: Path) -> Description:
    """Read and measure an image; one with a wrong CRC or signature is described as such.

    Raises:
        EifError: it is not well-formed.
        ImageError: it can't be read.
    """
    try:
        eif, crc_ok = read_eif(image), True
    except EifError as error:
        if error.code != "bad_eif_crc":
            raise
        eif, crc_ok = read_eif(image, check_crc=False), False
    return _description(eif, crc_ok)


def verify(image: Path, *, now_ms: int) -> Description:
    """Return an image's description if nothing about its form, CRC or signature is wrong.

    An image that isn't signed passes, unless the caller looks at `Description.signed`.

    Args:
        image: the file.
        now_ms: time at which the signing certificate must be valid, milliseconds since 1970.

    Raises:
        EifError: malformed, damaged, unusual (`unusual_eif`: gaps, trailing bytes), signature wrong
            (`bad_signature`), or certificate not valid now (`certificate_expired`).
    """
    eif = read_eif(image)
    description = _description(eif, crc_ok=True)
    if eif.signature is not None:
        certificate = check_signature(eif.signature, description.measurements.pcr0)
        check_dates(certificate, now_ms)
    if description.warnings:
        raise EifError(
            f"the image is unusual: {'; '.join(description.warnings)}",
            why="Readers of this format disagree about such files.",
            code="unusual_eif",
        )
    return description


def _description(eif: Eif, crc_ok: bool) -> Description:
    measurements = measure(eif)
    certificate, signature_ok, warnings = _signature(eif, measurements)
    metadata = _metadata(eif)
    custom = metadata.pop("CustomMetadata", None)
    name, version = str(metadata.pop("ImageName", "")), str(metadata.pop("ImageVersion", ""))
    build = metadata.pop("BuildMetadata", None)
    flat = {
        **(build if isinstance(build, dict) else {}),
        **{key: value for key, value in metadata.items() if value is not None},
        **(custom if isinstance(custom, dict) else {}),
    }
    can_boot, reason = bootable(eif)
    this_machine = flat.get(THIS_MACHINE_KEY) is True
    notes = [] if can_boot else [f"not bootable: {reason}"]
    notes += [THIS_MACHINE_ONLY] if this_machine else []
    notes += [] if crc_ok else ["damaged: the CRC is wrong"]
    return Description(
        version=eif.header.version,
        architecture=eif.header.architecture.machine,
        size=eif.source.size,
        sections=eif.sections,
        measurements=measurements,
        cmdline=eif.cmdline.decode(errors="replace"),
        name=name,
        image_version=version,
        metadata=flat,
        crc_ok=crc_ok,
        signed=eif.signature is not None,
        signature_ok=signature_ok,
        certificate=certificate,
        memory_mib=memory_needed(eif).mib,
        bootable=can_boot,
        this_machine_only=this_machine,
        warnings=(*eif.warnings, *warnings),
        notes=tuple(notes),
    )


def _signature(eif: Eif, measurements: Measurements) -> tuple[dict[str, Any] | None, bool, tuple[str, ...]]:
    if eif.signature is None:
        return None, False, ()
    try:
        certificate = check_signature(eif.signature, measurements.pcr0)
    except EifError as error:
        return None, False, (error.what,)
    try:
        return _certificate(certificate), True, ()
    except ValueError:  # cryptography reads names when they are asked for
        return None, True, ("the signing certificate's names can't be read",)


def _certificate(certificate: x509.Certificate) -> dict[str, Any]:
    issuer = {part.rfc4514_attribute_name: str(part.value) for part in certificate.issuer}
    return {
        "IssuerName": issuer,
        "Algorithm": certificate.signature_algorithm_oid._name,
        "NotBefore": certificate.not_valid_before_utc.isoformat(),
        "NotAfter": certificate.not_valid_after_utc.isoformat(),
        "Signature": certificate.signature.hex(":").upper(),
    }


def _metadata(eif: Eif) -> dict[str, Any]:
    data = eif.metadata
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise EifError("the metadata section is not JSON") from None
    if not isinstance(value, dict):
        raise EifError("the metadata section is not a JSON object")
    return value
