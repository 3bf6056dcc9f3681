"""The control connection: what the enclave asks of its parent, and the parent's answers.

The enclave opens three kinds of streams: `egress` (bytes to an allowed host), `credentials` (AWS
credentials, which the parent has anyway) and `log` (event codes with typed fields).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from geumgo._base import GeumgoError
from geumgo.channel import Stream
from geumgo.codec import cbor
from geumgo.manager._egress import Egress

__all__ = (
    "ControlHandler",
    "CredentialError",
    "CredentialSource",
    "EnvironmentCredentials",
    "FileCredentials",
)

MAX_CREDENTIALS = 64 << 10
"""Bytes of a credentials file."""
MAX_EVENT = 16 << 10
"""Bytes of one log event; the enclave's are far smaller."""


class CredentialError(GeumgoError):
    """Raised when there are no AWS credentials to hand to the enclave."""

    code = "keys_unavailable"
    retryable = True


class CredentialSource(Protocol):
    """Where AWS credentials come from, read anew each time since they expire."""

    def read(self) -> Mapping[str, Any]:
        """Return access_key_id, secret_access_key, session_token and expires_ms (both may be None)."""
        ...


class FileCredentials:
    """A JSON file with `access_key_id` and `secret_access_key`, mounted into the manager alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, Any]:
        try:
            content = json.loads(self._path.read_bytes()[:MAX_CREDENTIALS])
            return {
                "access_key_id": str(content["access_key_id"]),
                "secret_access_key": str(content["secret_access_key"]),
                "session_token": content.get("session_token"),
                "expires_ms": content.get("expires_ms"),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise CredentialError(
                f"{self._path} holds no credentials",
                fix='It needs {"access_key_id": …, "secret_access_key": …} in JSON.',
            ) from None


class EnvironmentCredentials:
    """`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment

    def read(self) -> Mapping[str, Any]:
        try:
            return {
                "access_key_id": self._environment["AWS_ACCESS_KEY_ID"],
                "secret_access_key": self._environment["AWS_SECRET_ACCESS_KEY"],
                "session_token": self._environment.get("AWS_SESSION_TOKEN") or None,
                "expires_ms": None,
            }
        except KeyError as missing:
            raise CredentialError(
                f"{missing.args[0]} is not set, so the enclave gets no credentials",
                fix="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or pass --credentials-file.",
            ) from None


class ControlHandler:
    """Answers the streams that the enclave opens."""

    def __init__(
        self,
        *,
        egress: Egress,
        credentials: CredentialSource,
        event: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._egress = egress
        self._credentials = credentials
        self._event = event

    async def __call__(self, stream: Stream) -> None:
        """Serve one stream.

        Raises:
            GeumgoError: its code goes to the enclave, nothing else does.
        """
        if stream.kind == "egress":
            await self._egress.serve(stream)
        elif stream.kind == "credentials":
            await stream.reply(cbor.dumps(dict(self._credentials.read())))
        elif stream.kind == "log":
            while (message := await stream.receive()) is not None:
                self._event(_parse_event(message))
        else:
            raise GeumgoError("the enclave opened a stream of an unknown kind", code="malformed")


def _parse_event(message: bytes) -> Mapping[str, Any]:
    """Return one event with nothing in it but a time, a code, a level and flat fields.

    What it says is the enclave's word; how it looks is decided here, so that it can't forge a line.
    """
    event = cbor.loads(message, max_size=MAX_EVENT, max_depth=4)
    if not isinstance(event, dict) or not isinstance(event.get("code"), str):
        raise GeumgoError("the enclave sent a log event that can't be read", code="malformed")
    fields = event.get("fields")
    flat = {
        # No floats: JSON has no NaN, and a log line must stay JSON whatever the enclave says.
        str(name)[:64]: value if isinstance(value, int) else str(value)[:256]
        for name, value in (fields.items() if isinstance(fields, dict) else ())
    }
    level = event.get("level")
    return {
        "code": event["code"][:64],
        "level": level if level in ("info", "warn", "error") else "info",
        "t": event["t"] if type(event.get("t")) is int else None,
        "fields": flat,
    }
