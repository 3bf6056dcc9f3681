"""Writes docs/spec/vectors/channel.json; ``python tests/channel/make_vectors.py``. A test compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geumgo.channel import ChannelMachine, Role, Settings, Side
from geumgo.channel._metadata import OpenCodec
from geumgo.channel._settings import MIN_WINDOW
from geumgo.channel._wire import (
    DATA,
    END_MESSAGE,
    END_STREAM,
    GOAWAY,
    HELLO,
    OPEN,
    PING,
    PONG,
    Hello,
    frame,
    reset_frame,
    window_frame,
)

PATH = Path(__file__).parents[2] / "docs" / "spec" / "vectors" / "channel.json"
_BOTH = END_MESSAGE | END_STREAM


def frames() -> list[dict[str, Any]]:
    """Single frames: what they say, and their bytes."""

    def hello(role: Role, settings: Settings) -> bytes:
        return frame(HELLO, 0, 0, Hello.of(role, settings).to_payload())

    def opening(
        flags: int, stream: int, deadline_ms: int, kind: str, metadata: dict[str, Any], message: bytes
    ) -> bytes:
        payload = deadline_ms.to_bytes(4, "big") + OpenCodec().encode(kind, metadata) + message
        return frame(OPEN, flags, stream, payload)

    metadata = {"name": "deidentify", "sealed": True, "port": 443, "low": -1, "id": b"\x00\xff"}
    named: list[tuple[str, bytes]] = [
        ("HELLO, control wanted, this implementation's limits", hello(Role.CONTROL, Settings())),
        (
            "HELLO, call, smallest windows, no streams",
            hello(Role.CALL, Settings(1, 0, MIN_WINDOW, MIN_WINDOW)),
        ),
        (
            "OPEN, a whole call",
            opening(_BOTH, 1, 30_000, "operation", {"name": "echo", "sealed": False}, b"hi"),
        ),
        ("OPEN, every type of metadata, no message", opening(0, 3, 0, "egress", metadata, b"")),
        ("OPEN, an empty message", opening(END_MESSAGE, 2, 0, "log", {}, b"")),
        ("OPEN, ended without a message", opening(END_STREAM, 5, 1, "describe", {}, b"")),
        ("OPEN, a message begins", opening(0, 7, 0, "k", {}, b"first part")),
        ("DATA, a whole message", frame(DATA, END_MESSAGE, 1, b"hello")),
        ("DATA, a part", frame(DATA, 0, 1, b"hel")),
        ("DATA, the last message", frame(DATA, _BOTH, 1, b"hello")),
        ("DATA, an empty message", frame(DATA, END_MESSAGE, 1)),
        ("DATA, ended without a message", frame(DATA, END_STREAM, 1)),
        ("WINDOW of the connection", window_frame(0, 4 << 20)),
        ("WINDOW of a stream", window_frame(0x01020304, 131_072)),
        ("RESET, retryable", reset_frame(1, "busy", True)),
        ("RESET", reset_frame(1, "unknown_operation", False)),
        ("GOAWAY", frame(GOAWAY, 0, 0, b"draining")),
        ("PING", frame(PING, 0, 0, bytes(range(8)))),
        ("PONG", frame(PONG, 0, 0, bytes(range(8)))),
    ]
    return [{"name": name, "hex": data.hex()} for name, data in named]


def conversation() -> list[dict[str, Any]]:
    """A whole conversation, byte for byte: handshake, a call, a stream, a reset, a drain."""
    small = Settings(
        max_message=1 << 20, max_streams=8, stream_window=MIN_WINDOW, connection_window=4 * MIN_WINDOW
    )
    dial = ChannelMachine(Side.DIAL, small, role=Role.CONTROL)
    accept = ChannelMachine(Side.ACCEPT, small, grant=lambda wanted: wanted)
    steps: list[dict[str, Any]] = []

    def move(what: str, consume: bool = True) -> None:
        for name, source, target in (("dial", dial, accept), ("accept", accept, dial)):
            data = source.take()
            if data:
                steps.append({"from": name, "what": what, "hex": data.hex()})
                for event in target.receive(data):
                    cost = getattr(event, "cost", 0)
                    if consume and cost:
                        target.consumed(getattr(event, "stream", 0), cost)

    move("HELLO each way")
    call = dial.open(
        "operation", {"name": "echo", "sealed": False}, deadline_ms=1000, message=b"ping", end=True
    )
    move("a call")
    accept.send(call, b"pong", True)
    move("its answer")
    stream = dial.open("operation", {"name": "echo", "sealed": True})
    dial.send(stream, b"one")
    dial.send(stream, b"")
    move("a stream and two messages, the second empty")
    accept.send(stream, b"one")
    dial.end(stream)
    move("an answer, and the end of the request")
    accept.end(stream)
    move("the end of the answer")
    egress = accept.open("egress", {"host": "kms.example", "port": 443}, message=b"\x16\x03\x01")
    move("a stream of the accepting side")
    dial.reset(egress, "forbidden")
    move("refused")
    accept.drain()
    move("drain")
    return steps


def main() -> None:
    """Write the file."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text())


def text() -> str:
    """Return the file's content."""
    content = {"version": 1, "frames": frames(), "conversation": conversation()}
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    main()
