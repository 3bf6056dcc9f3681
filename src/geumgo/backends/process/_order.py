"""What the manager's side and the launcher process tell each other: JSON lines on stdin and stdout.

The manager writes one :class:`Order`, then keeps the pipe open: its end is the launcher's, whatever
happened to the manager. A :class:`Terminate` may follow. The launcher answers with events.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from geumgo._base import GeumgoError

__all__ = (
    "MAX_LINE",
    "Ended",
    "Event",
    "Failed",
    "Measured",
    "Order",
    "Started",
    "Terminate",
    "decode_event",
    "decode_order",
    "decode_request",
    "encode",
)

MAX_LINE = 64 << 10
"""Bytes of one line; paths and reasons are far below."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to launch.

    Attributes:
        name: the enclave's name.
        eif: the image's path.
        runtime_dir: where the sockets go.
        nsm_state: the software NSM's folder.
        cid: what the enclave is told to be.
        memory_mib: memory of the program.
        cpus: CPUs of the program.
        debug: console on, measurements zero.
        sandbox: `auto`, `namespaces` or `landlock`.
        unsandboxed: no sandbox, measurements zero.
        console_fd: where the program's output goes in debug; else -1.
        role_arn: measured into PCR3, or empty.
        instance_id: measured into PCR4; by default one that belongs to the NSM's state.
        region: of the NSM's certificates; empty for its default.
    """

    name: str
    eif: str
    runtime_dir: str
    nsm_state: str
    cid: int
    memory_mib: int
    cpus: int
    debug: bool = False
    sandbox: str = "auto"
    unsandboxed: bool = False
    console_fd: int = -1
    role_arn: str = ""
    instance_id: str = ""
    region: str = ""


class Terminate(msgspec.Struct, frozen=True, tag="terminate", forbid_unknown_fields=True):
    """End the enclave: SIGTERM to the program, after `grace` seconds SIGKILL."""

    grace: float


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The program runs.

    Attributes:
        pid: its process id.
        sandbox: how it is confined.
        cgroup: whether a cgroup limits its memory too.
        refused: why the better sandbox was not had; empty if it was.
    """

    pid: int
    sandbox: str
    cgroup: bool
    refused: str = ""


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """The image is whole, and the NSM serves.

    Attributes:
        enclave_id: the NSM's module id.
        measurements: nitro-cli's object.
    """

    enclave_id: str
    measurements: dict[str, str]


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The program has ended; the last event."""

    code: int | None
    reason: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Nothing was started, or it was ended for this; the last event."""

    code: str
    what: str
    why: str = ""
    fix: str = ""
    retryable: bool = False
    kind: str = "launch"


Event = Started | Measured | Ended | Failed
T = TypeVar("T")

_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_orders = msgspec.json.Decoder(Order)
_requests = msgspec.json.Decoder(Terminate)


class OrderError(GeumgoError):
    """Raised when a line is not what the other side should have sent."""

    code = "malformed"


def encode(message: Order | Terminate | Event) -> bytes:
    """Return one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    """Parse the first line that a launcher gets; raises `OrderError`."""
    return _decode(_orders, line)


def decode_request(line: bytes) -> Terminate:
    """Parse a later line; raises `OrderError`."""
    return _decode(_requests, line)


def decode_event(line: bytes) -> Event:
    """Parse a line of a launcher; raises `OrderError`."""
    return _decode(_events, line)


def _decode(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    try:
        return decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise OrderError(f"the line is not understood: {error}") from None
