"""Limits and times of the servers, each with its reason, and how the environment changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from geumgo._base import GeumgoError

__all__ = ("ApiSettings", "SettingsError", "settings_from_environment")

T = TypeVar("T")


class SettingsError(GeumgoError):
    """Raised when a setting has a value that can't be used."""

    code = "bad_setting"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What bounds a client of the HTTP and gRPC edges. Sizes in bytes, times in seconds.

    In the environment `GEUMGO_API_MAX_BODY=1048576` sets `max_body`, and so on.
    """

    max_body: int = 16 << 20
    """One message; the channel's own default, so nothing passes here that stops behind."""
    max_bytes: int = 256 << 20
    """All bodies held at one time: sixteen of the largest, half of a small pod's memory."""
    max_requests: int = 4096
    """Requests between their head and their answer; the balancer's queue is shorter, this bounds the rest."""
    max_connections: int = 8192
    """Open HTTP connections; each costs a descriptor and a few kilobytes."""
    max_head: int = 16 << 10
    """Request line and headers; browsers and proxies stay under 8 KiB."""
    max_headers: int = 64
    """Header fields of one request."""
    max_pipelined: int = 16
    """Requests that wait on one connection behind the one that is being answered."""
    head_timeout: float = 10.0
    """From a request's first byte to the end of its headers: a slow client may be slow, not endless."""
    body_grace: float = 10.0
    """Before the least rate counts."""
    min_rate: float = 8192.0
    """Bytes a second that a body must make after that, so that few slow clients can't hold the memory."""
    keep_alive: float = 75.0
    """An idle connection; longer than the 60 s of the usual load balancers, so that they close first."""
    write_timeout: float = 30.0
    """A client that reads nothing of its answer."""
    linger: float = 2.0
    """After an early refusal what the client still sends is thrown away this long, so that it sees the answer."""
    default_timeout: float = 30.0
    """A call whose client names no time."""
    max_timeout: float = 600.0
    """The longest time that a client may ask for."""
    log_requests: bool = True
    """One log line for each request; failures are logged in any case."""


def settings_from_environment(kind: type[T], prefix: str, environ: Mapping[str, str], **given: Any) -> T:
    """Return `kind` (a dataclass of int, float, str and bool) with what `environ` sets.

    Args:
        kind: the dataclass; each field's default must have the field's type.
        prefix: what stands before the field's name in upper case, such as "GEUMGO_API_".
        environ: the environment.
        given: values that the caller sets itself; they win.

    Raises:
        SettingsError: a value that is not a number, not positive, or not "true"/"false"; names the variable.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = prefix + field.name.upper()
        text = environ.get(name)
        if text is not None:
            values[field.name] = _parse(name, text, type(field.default))
    return kind(**(values | given))


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "1", "false", "0"):
            return text.lower() in ("true", "1")
        raise SettingsError(f"{name} is neither true nor false", fix=f"Set {name}=true or {name}=false")
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{name} is not a positive number", fix=f"Give {name} a number or leave it out")
    return value
