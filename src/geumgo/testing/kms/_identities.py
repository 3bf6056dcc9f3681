"""The emulator's callers: an administrator and the enclaves' parent, made at first use."""

from __future__ import annotations

import json
import secrets
import string
from pathlib import Path

import msgspec

from geumgo._base import GeumgoError
from geumgo.testing.kms._evaluate import Principal
from geumgo.testing.kms._files import write_file
from geumgo.testing.kms._signature import Identity

__all__ = ("ADMIN_FILE", "PARENT_FILE", "IdentityError", "load_identities")

ADMIN_FILE = "credentials.json"
"""Long-term credentials of a user, who administers keys."""

PARENT_FILE = "credentials-parent.json"
"""Temporary credentials of a role's session, as an enclave's parent has them on EC2."""

_ALPHABET = string.ascii_uppercase + "234567"


class IdentityError(GeumgoError):
    """Raised when a credentials file is not what the emulator wrote."""

    code = "bad_credentials_file"


class _File(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    principal: str
    session_token: str | None = None


def load_identities(directory: Path, account: str) -> dict[str, Identity]:
    """Return access key id → identity, with the files written where they are not there yet.

    Raises:
        IdentityError: a file can't be read.
    """
    files = {
        ADMIN_FILE: ("AKIA", f"arn:aws:iam::{account}:user/geumgo-admin"),
        PARENT_FILE: ("ASIA", f"arn:aws:sts::{account}:assumed-role/geumgo-parent/emulator"),
    }
    identities = (_load_or_make(directory / name, *how) for name, how in files.items())
    return {identity.access_key_id: identity for identity in identities}


def _load_or_make(path: Path, prefix: str, arn: str) -> Identity:
    if not path.exists():
        made = {
            "access_key_id": prefix + "".join(secrets.choice(_ALPHABET) for _ in range(16)),
            "secret_access_key": secrets.token_urlsafe(30),
            "session_token": secrets.token_urlsafe(60) if prefix == "ASIA" else None,
            "principal": arn,
        }
        write_file(path, json.dumps(made, indent=2).encode() + b"\n", mode=0o600)
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        principal = Principal(file.principal)
        principal.names()
    except (msgspec.DecodeError, OSError, IndexError) as error:
        raise IdentityError(
            f"{path.name} is not a credentials file of the emulator ({type(error).__name__})",
            fix="Remove it; a new one is made at the next start.",
        ) from None
    return Identity(file.access_key_id, file.secret_access_key, file.session_token, principal)
