"""docs/spec/vectors/channel.json against the code, and against a reader that knows the page only."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import cbor2
import pytest

from geumgo.channel import ChannelMachine, Role, Settings, Side
from geumgo.channel._events import Failed
from geumgo.channel._settings import MIN_WINDOW

SPEC = Path(__file__).parents[2] / "docs" / "spec"
VECTORS = json.loads((SPEC / "vectors" / "channel.json").read_text())


def read(data: bytes) -> list[dict[str, Any]]:
    """Read frames by the page's tables, with nothing of the implementation."""
    found = []
    while data:
        length, kind, flags, stream = struct.unpack(">IBBI", data[:10])
        payload, data = data[10 : 4 + length], data[4 + length :]
        what: dict[str, Any] = {"type": kind, "flags": flags, "stream": stream}
        if kind == 1:
            what["hello"] = struct.unpack(">4sBBHIIII", payload)
        elif kind == 2:
            deadline, name, packed = struct.unpack(">IBH", payload[:7])
            what["deadline"] = deadline
            what["kind"] = payload[7 : 7 + name].decode()
            metadata = payload[7 + name : 7 + name + packed]
            what["metadata"] = cbor2.loads(metadata) if metadata else {}
            what["message"] = payload[7 + name + packed :]
        elif kind == 4:
            what["credit"] = struct.unpack(">I", payload)[0]
        else:
            what["payload"] = payload
        found.append(what)
    return found


def test_the_file_is_what_the_code_makes() -> None:
    path = Path(__file__).with_name("make_vectors.py")
    spec = importlib.util.spec_from_file_location("make_channel_vectors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (SPEC / "vectors" / "channel.json").read_text() == module.text(), (
        "run tests/channel/make_vectors.py"
    )


def test_frames_read_by_the_page() -> None:
    by_name = {vector["name"]: read(bytes.fromhex(vector["hex"])) for vector in VECTORS["frames"]}
    assert all(len(frames) == 1 for frames in by_name.values())
    hello = by_name["HELLO, control wanted, this implementation's limits"][0]["hello"]
    assert hello == (b"GMGO", 1, 1, 0, 16 << 20, 1024, 256 << 10, 8 << 20)
    assert by_name["OPEN, a whole call"][0] == {
        "type": 2,
        "flags": 3,
        "stream": 1,
        "deadline": 30_000,
        "kind": "operation",
        "metadata": {"name": "echo", "sealed": False},
        "message": b"hi",
    }
    assert by_name["OPEN, every type of metadata, no message"][0]["metadata"] == {
        "name": "deidentify",
        "sealed": True,
        "port": 443,
        "low": -1,
        "id": b"\x00\xff",
    }
    assert by_name["RESET, retryable"][0] == {"type": 5, "flags": 1, "stream": 1, "payload": b"busy"}
    assert by_name["WINDOW of a stream"][0]["credit"] == 131_072


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_each_frame_is_accepted_in_its_place(vector: dict[str, str]) -> None:
    data = bytes.fromhex(vector["hex"])
    kind, stream = data[4], int.from_bytes(data[6:10], "big")
    dial = ChannelMachine(Side.DIAL, Settings(), role=Role.CONTROL)
    accept = ChannelMachine(Side.ACCEPT, Settings(), grant=lambda wanted: wanted)
    if kind == 1:
        assert accept.receive(data)
        return
    accept.receive(dial.take())
    dial.receive(accept.take())
    receiver = accept if stream % 2 else dial
    if kind != 2 and stream:
        assert receiver.receive(struct.pack(">IBBIIBH", 14, 2, 0, stream, 0, 1, 0) + b"k")
    assert not any(isinstance(event, Failed) for event in receiver.receive(data))
    assert receiver.error is None


def test_the_conversation_replays() -> None:
    """Each side, given the other's bytes of the file, accepts them all."""
    small = Settings(
        max_message=1 << 20, max_streams=8, stream_window=MIN_WINDOW, connection_window=4 * MIN_WINDOW
    )
    accept = ChannelMachine(Side.ACCEPT, small, grant=lambda wanted: wanted)
    for step in VECTORS["conversation"]:
        if step["from"] == "dial" and step["what"] != "refused":
            assert not any(isinstance(event, Failed) for event in accept.receive(bytes.fromhex(step["hex"])))
    assert accept.role is Role.CONTROL
    types = [frame["type"] for step in VECTORS["conversation"] for frame in read(bytes.fromhex(step["hex"]))]
    assert {1, 2, 3, 5, 6} <= set(types)


def test_the_page_names_what_the_code_has() -> None:
    page = (SPEC / "channel.md").read_text()
    for number, name in enumerate(
        ["HELLO", "OPEN", "DATA", "WINDOW", "RESET", "GOAWAY", "PING", "PONG"], start=1
    ):
        assert f"| {number} | {name} |" in page
    assert "65 600" in page
    assert MIN_WINDOW == 65_600
