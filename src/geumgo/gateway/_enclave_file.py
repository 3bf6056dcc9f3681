"""`enclave.json`, as a manager writes it: parsed once, believed little."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geumgo._base import GeumgoError
from geumgo.vsock import Address

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
            EnclaveFileError: it can't be read, or is not what a manager writes.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except OSError as error:
            raise EnclaveFileError(f"{path} can't be read ({error.strerror})") from None
        return cls.parse(data, name)

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


def _scalar(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None


def _measurements(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}
