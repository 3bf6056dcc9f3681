"""Enclave images: EIF format, ramdisks, measurement, building."""

from geumgo.image._bootstrap import bootable
from geumgo.image._describe import Description, describe, verify
from geumgo.image._diff import diff
from geumgo.image._errors import (
    BuildError,
    CpioError,
    EifError,
    ImageError,
    LockError,
    SigningError,
    Unavailable,
)
from geumgo.image._extract import extract
from geumgo.image._layout import Architecture, EifHeader, SectionType
from geumgo.image._loader import loader_command
from geumgo.image._measure import Measurements, pcr_of_text
from geumgo.image._preflight import Finding, Need, memory_needed, preflight
from geumgo.image._run import end_programs
from geumgo.image._sign import SigningRequest, attach_signature, sign_eif, signing_request
from geumgo.image._signature import pcr_of_certificate
from geumgo.image._unpack import Unpacked, unpack
from geumgo.image.build import BuiltImage, build_from_directory
from geumgo.image.eif import Eif, Part, Section, measure, read_eif, write_eif
from geumgo.image.enclave_image import BANNER, CONFIGURATION, build_enclave_image
from geumgo.image.oci import build_from_oci
from geumgo.image.tamper import replace_byte

__all__ = (
    "BANNER",
    "CONFIGURATION",
    "Architecture",
    "BuildError",
    "BuiltImage",
    "CpioError",
    "Description",
    "Eif",
    "EifError",
    "EifHeader",
    "Finding",
    "ImageError",
    "LockError",
    "Measurements",
    "Need",
    "Part",
    "Section",
    "SectionType",
    "SigningError",
    "SigningRequest",
    "Unavailable",
    "Unpacked",
    "attach_signature",
    "bootable",
    "build_enclave_image",
    "build_from_directory",
    "build_from_oci",
    "describe",
    "diff",
    "end_programs",
    "extract",
    "loader_command",
    "measure",
    "memory_needed",
    "pcr_of_certificate",
    "pcr_of_text",
    "preflight",
    "read_eif",
    "replace_byte",
    "sign_eif",
    "signing_request",
    "unpack",
    "verify",
    "write_eif",
)
