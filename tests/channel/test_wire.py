"""Frames, HELLO, codes and metadata as bytes."""

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.channel import MessageTooLarge, ProtocolError, Role, Settings, UsageError
from geumgo.channel._metadata import EMPTY, OpenCodec
from geumgo.channel._settings import MAX_KIND, MAX_METADATA, MAX_METADATA_ITEMS, MAX_WINDOW, MIN_WINDOW
from geumgo.channel._wire import (
    GOAWAY,
    Hello,
    frame,
    goaway_frame,
    parse_code,
    reset_frame,
    window_frame,
)

VALUES = st.one_of(
    st.text(max_size=20),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.booleans(),
    st.binary(max_size=20),
)
METADATA = st.dictionaries(st.text(max_size=10), VALUES, max_size=5)


class TestFrames:
    def test_frame_is_length_type_flags_stream_payload(self) -> None:
        assert frame(GOAWAY, 3, 0x01020304, b"xy") == bytes.fromhex("00000008 06 03 01020304 7879")

    def test_window_frame(self) -> None:
        assert window_frame(7, 0x10000) == bytes.fromhex("0000000a 04 00 00000007 00010000")

    def test_reset_carries_code_and_retryable(self) -> None:
        assert reset_frame(1, "busy", True) == bytes.fromhex("0000000a 05 01 00000001") + b"busy"

    def test_reset_with_a_local_code_says_internal_and_not_retryable(self) -> None:
        assert reset_frame(1, "disk_full", True) == reset_frame(1, "internal", False)

    @pytest.mark.parametrize(
        "payload",
        [b"", b"Busy", b"busy ", b"busy\n", b"1busy", b"b" * 65, b"\xff", b"_busy", b"a-b"],
    )
    def test_codes_that_are_none_are_refused(self, payload: bytes) -> None:
        with pytest.raises(ProtocolError):
            parse_code(payload)

    def test_unknown_code_is_internal(self) -> None:
        assert parse_code(b"of_a_later_version") == "internal"

    def test_code_round_trip(self) -> None:
        assert parse_code(goaway_frame("draining")[10:]) == "draining"


class TestHello:
    @given(
        st.sampled_from(Role),
        st.integers(1, MAX_WINDOW),
        st.integers(0, MAX_WINDOW),
        st.integers(MIN_WINDOW, MAX_WINDOW),
        st.integers(MIN_WINDOW, MAX_WINDOW),
    )
    def test_round_trip(self, role: Role, message: int, streams: int, window: int, connection: int) -> None:
        hello = Hello(role, message, streams, window, connection)
        assert Hello.parse(hello.to_payload()) == hello

    @pytest.mark.parametrize(
        ("at", "byte"),
        [
            pytest.param(0, 0x00, id="magic"),
            pytest.param(4, 2, id="version"),
            pytest.param(5, 2, id="role"),
            pytest.param(7, 1, id="reserved"),
            pytest.param(8, 0x80, id="max_message over 31 bits"),
            pytest.param(12, 0x80, id="max_streams over 31 bits"),
            pytest.param(16, 0x80, id="stream_window over 31 bits"),
            pytest.param(20, 0x80, id="connection_window over 31 bits"),
        ],
    )
    def test_a_wrong_field_is_refused(self, at: int, byte: int) -> None:
        payload = bytearray(Hello.of(Role.CALL, Settings()).to_payload())
        payload[at] = byte
        with pytest.raises(ProtocolError):
            Hello.parse(bytes(payload))

    @given(st.binary(max_size=40))
    def test_garbage_raises_only_protocol_errors(self, payload: bytes) -> None:
        with pytest.raises(ProtocolError):
            Hello.parse(payload)

    @given(st.binary(min_size=20, max_size=20))
    def test_garbage_behind_the_magic(self, rest: bytes) -> None:
        try:
            hello = Hello.parse(b"GMGO" + rest)
        except ProtocolError:
            return
        assert hello.to_payload() == b"GMGO" + rest

    def test_zero_message_limit_is_refused(self) -> None:
        payload = Hello(Role.CALL, 0, 1, MIN_WINDOW, MIN_WINDOW).to_payload()
        with pytest.raises(ProtocolError):
            Hello.parse(payload)

    def test_window_that_holds_no_whole_frame_is_refused(self) -> None:
        payload = Hello(Role.CALL, 1, 1, MIN_WINDOW - 1, MIN_WINDOW).to_payload()
        with pytest.raises(ProtocolError):
            Hello.parse(payload)


class TestSettings:
    @pytest.mark.parametrize(
        "changes",
        [
            {"max_message": 0},
            {"max_message": 2, "max_held": 3},
            {"max_streams": -1},
            {"stream_window": MIN_WINDOW - 1},
            {"stream_window": 9 << 20},
            {"connection_window": MAX_WINDOW + 1},
        ],
    )
    def test_out_of_range(self, changes: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            Settings(**changes)  # type: ignore[arg-type]


class TestMetadata:
    @given(st.text(min_size=1, max_size=16), METADATA)
    def test_round_trip_keeps_types(self, kind: str, metadata: dict[str, Any]) -> None:
        codec = OpenCodec()
        decoded_kind, decoded = codec.decode(codec.encode(kind, metadata))
        assert decoded_kind == kind
        assert dict(decoded) == metadata
        assert {key: type(value) for key, value in decoded.items()} == {
            key: type(value) for key, value in metadata.items()
        }

    @given(st.lists(METADATA, max_size=6))
    def test_what_is_remembered_is_what_would_be_encoded(self, several: list[dict[str, Any]]) -> None:
        codec = OpenCodec()
        for metadata in [*several, *several]:
            assert codec.encode("k", metadata) == OpenCodec().encode("k", metadata)

    def test_equal_values_of_other_types_are_not_confused(self) -> None:
        codec = OpenCodec()
        encoded = {codec.encode("k", {"a": value}) for value in (True, 1, "1", b"1")}
        assert len(encoded) == 4

    def test_a_mapping_that_is_changed_is_encoded_anew(self) -> None:
        codec, metadata = OpenCodec(), {"a": 1}
        first = codec.encode("k", metadata)
        metadata["a"] = 2
        assert codec.encode("k", metadata) != first

    def test_any_mapping_will_do(self) -> None:
        codec = OpenCodec()
        proxy = MappingProxyType({"a": True})
        assert codec.encode("k", proxy) == codec.encode("k", {"a": True})
        assert codec.encode("k", MappingProxyType({"a": 1})) != codec.encode("k", proxy)

    def test_decoded_metadata_cannot_be_changed(self) -> None:
        codec = OpenCodec()
        _, metadata = codec.decode(codec.encode("k", {"a": 1}))
        with pytest.raises(TypeError):
            metadata["a"] = 2  # type: ignore[index]

    def test_empty_metadata_takes_no_bytes(self) -> None:
        assert OpenCodec().encode("k", EMPTY) == b"\x01\x00\x00k"
        assert OpenCodec().decode(b"\x01\x00\x01k\xa0") == ("k", {})

    @pytest.mark.parametrize(
        ("kind", "metadata"),
        [
            pytest.param("", {}, id="empty kind"),
            pytest.param("k\udc80", {}, id="kind with a lone surrogate"),
            pytest.param("k", {"a": "\udc80"}, id="value with a lone surrogate"),
            pytest.param("k", {"a": 1.5}, id="float"),
            pytest.param("k", {"a": None}, id="null"),
            pytest.param("k", {"a": [1]}, id="list"),
            pytest.param("k", {"a": {}}, id="map"),
            pytest.param("k", {1: "a"}, id="integer key"),
            pytest.param("k", {"a": 1 << 63}, id="integer over 64 bits"),
            pytest.param("k", {"a": 1 << 80}, id="huge integer"),
        ],
    )
    def test_illegal_openings_are_refused_before_sending(self, kind: str, metadata: Any) -> None:
        with pytest.raises(UsageError):
            OpenCodec().encode(kind, metadata)

    @pytest.mark.parametrize(
        ("kind", "metadata"),
        [
            ("k" * (MAX_KIND + 1), {}),
            ("k", {"a": b"x" * MAX_METADATA}),
            ("k", {str(index): index for index in range(MAX_METADATA_ITEMS + 1)}),
        ],
    )
    def test_large_openings_are_refused_before_sending(self, kind: str, metadata: Any) -> None:
        with pytest.raises(MessageTooLarge):
            OpenCodec().encode(kind, metadata)

    @pytest.mark.parametrize(
        "packed",
        [
            pytest.param(cbor2.dumps([1]), id="no map"),
            pytest.param(cbor2.dumps({"a": 1.5}), id="float"),
            pytest.param(cbor2.dumps({"a": None}), id="null"),
            pytest.param(cbor2.dumps({"a": {"b": 1}}), id="nested"),
            pytest.param(cbor2.dumps({1: "a"}), id="integer key"),
            pytest.param(cbor2.dumps({"a": 1 << 64}), id="big integer"),
            pytest.param(cbor2.dumps({"a": 1}) + b"\0", id="trailing byte"),
            pytest.param(b"\xa2\x61a\x01\x61a\x02", id="duplicate key"),
            pytest.param(b"\xbf\x61a\x01\xff", id="indefinite length"),
            pytest.param(b"\xba\xff\xff\xff\xff", id="map bomb"),
            pytest.param(b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", id="bytes bomb"),
            pytest.param(b"\x81" * 2000, id="deep nesting"),
            pytest.param(
                cbor2.dumps({str(index): index for index in range(MAX_METADATA_ITEMS + 1)}), id="too many"
            ),
            pytest.param(cbor2.dumps({"a": b"x" * MAX_METADATA}), id="too large"),
        ],
    )
    def test_bad_metadata_from_the_peer(self, packed: bytes) -> None:
        opening = bytes([1]) + len(packed).to_bytes(2, "big") + b"k" + packed
        with pytest.raises(ProtocolError):
            OpenCodec().decode(opening)

    @given(st.binary(min_size=3, max_size=80))
    def test_garbage_raises_only_protocol_errors(self, opening: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            OpenCodec().decode(opening)

    def test_the_cache_is_bounded(self) -> None:
        codec = OpenCodec()
        for index in range(2000):
            codec.decode(codec.encode("k", {"a": index}))
        for index in range(200):
            codec.decode(codec.encode("k", {"a": b"x" * 2000, "b": index}))
        assert len(codec._encoded) <= 128
        assert len(codec._decoded) <= 128
        assert sum(map(len, codec._decoded)) < 128 * 512
