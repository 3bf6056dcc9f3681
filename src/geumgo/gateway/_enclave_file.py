"""`enclave.json`, as a manager writes it: parsed once, believed little.

Other containers of the pod may write into the folder too. Whoever can write into an enclave's own folder
decides what is dialled there; this keeps the gateway from waiting, and from dialling anywhere else.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geumgo._base import GeumgoError
from geumgo.vsock import CID_PARENT, VMADDR_CID_ANY, Address

__all__ = ("EnclaveFile", "EnclaveFileError")

MAX_SIZE = 64 << 10
"""Bytes; the real ones have less than two kilobytes."""

VERSION = 1
STATES = ("starting", "running", "backoff", "crash_loop", "stopping", "stopped")


class EnclaveFileError(GeumgoError):
    """Raised when an `enclave.json` can't be used."""

    code = "bad_enclave_file"


@dataclass(frozen=True, slots=True)
class EnclaveFile:
    """What a manager says of its enclave.

    Attributes:
        address: where the enclave is dialled; None while it can't be.
        generation: changes with every launch, so a connection to an earlier one is not taken for this one's.
        shown: the fields that `GET /v1/enclaves` repeats.
    """

    name: str
    state: str
    address: Address | None
    generation: tuple[object, ...]
    shown: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, name: str) -> EnclaveFile:
        """Read the file of the enclave `name`.

        Raises:
            EnclaveFileError: it can't be read, is no plain file or not what a manager writes, or has an address
                outside of its own folder.
        """
        parsed = cls.parse(_read(path), name)
        if parsed.address is not None and parsed.address.uds is not None:
            _check_place(parsed.address.uds, path.parent, name)
        return parsed

    @classmethod
    def parse(cls, data: bytes, name: str) -> EnclaveFile:
        """Parse the content of the file of the enclave `name`.

        Raises:
            EnclaveFileError: it is not what a manager writes.
        """
        if len(data) > MAX_SIZE:
            raise EnclaveFileError(f"enclave.json of {name!r} is over {MAX_SIZE} bytes")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise EnclaveFileError(f"enclave.json of {name!r} is not JSON") from None
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise EnclaveFileError(
                f"enclave.json of {name!r} is not version {VERSION}",
                fix="Run gateway and managers of the same release",
            )
        state, address = fields.get("state"), fields.get("address")
        if state not in STATES or not isinstance(address, str | None) or fields.get("name") != name:
            raise EnclaveFileError(f"enclave.json of {name!r} has no usable name, state or address")
        if state == "running" and address is None:
            raise EnclaveFileError(f"enclave.json of {name!r} says running and names no address")
        try:
            parsed = None if address is None else Address.parse(address)
        except GeumgoError as error:
            raise EnclaveFileError(f"enclave.json of {name!r}: {error.what}") from None
        if parsed is not None and parsed.uds is None and not CID_PARENT < parsed.cid < VMADDR_CID_ANY:
            raise EnclaveFileError(f"enclave.json of {name!r} names CID {parsed.cid}, which no enclave has")
        return cls(
            name=name,
            state=state,
            address=parsed,
            generation=(address, _scalar(fields.get("pid")), _scalar(fields.get("restarts"))),
            shown={
                "backend": _scalar(fields.get("backend")),
                "sandbox": _scalar(fields.get("sandbox")),
                "debug": bool(fields.get("debug")),
                "restarts": _scalar(fields.get("restarts")),
                "measurements": _measurements(fields.get("measurements")),
            },
        )


def _read(path: Path) -> bytes:
    try:
        # Never a link, and never a pipe: to open one waits until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise EnclaveFileError(f"{path} is not a plain file")
            return os.read(descriptor, MAX_SIZE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EnclaveFileError(f"{path} can't be read ({error.strerror})") from None


def _check_place(uds: Path, folder: Path, name: str) -> None:
    """Refuse a socket that is not in the enclave's own folder, whatever the folder is called there."""
    try:
        inside = os.path.samefile(uds.parent, folder)
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise EnclaveFileError(
            f"enclave.json of {name!r} names a socket outside of its folder",
            fix="Mount the runtime folder at the same place in gateway and managers",
        )


def _scalar(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None


def _measurements(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}
