"""A tap changes nothing, keeps everything, and says so where it can't."""

from __future__ import annotations

import asyncio
import os

import pytest

from geumgo.testing.leaks import LeakSearchError, Search, Tap, _tap


@pytest.fixture
async def shouting():
    """A server that answers each line in upper case and ends after the client does."""

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
        writer.write(b"BYE")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_both_directions_are_kept_apart(shouting):
    async with Tap("127.0.0.1", shouting) as tap:
        for text in (b"one\n", b"two\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
            writer.write(text)
            writer.write_eof()
            assert await reader.read() == text.upper() + b"BYE", "a half-closed connection goes on"
            writer.close()
    assert tap.connections == 2
    assert list(tap.recorded().values()) == [b"one\n", b"ONE\nBYE", b"two\n", b"TWO\nBYE"]
    assert tap.address == f"http://127.0.0.1:{tap.port}" if tap._server.sockets else True


async def test_a_value_in_two_segments_is_one_in_the_record(shouting):
    async with Tap("127.0.0.1", shouting) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        for part in (b"010-80", b"84-99", b"66\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert await reader.readline() == b"010-8084-9966\n"
        writer.close()
        found = Search(["010-8084-9966"]).streams(tap.recorded())
    assert len(found) == 2
    assert found[0].where.startswith("connection 0 to 127.0.0.1:")


async def test_unix_sockets(tmp_path):
    async def serve(reader, writer):
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "far")
    async with Tap(tmp_path / "far", at=tmp_path / "near") as tap:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        assert [len(stream) for stream in tap.recorded().values()] == [5, 5]
    server.close()
    await server.wait_closed()


async def test_nobody_behind_it(tmp_path):
    async with Tap(tmp_path / "nobody", at=tmp_path / "near"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "near")
        assert await reader.read() == b""
        writer.close()


async def test_open_connections_end_with_it(shouting):
    async with Tap("127.0.0.1", shouting) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        writer.write(b"x\n")
        assert await reader.readline() == b"X\n"
    assert await reader.read() in (b"", b"BYE")
    writer.close()


async def test_large_streams_pass_unchanged(tmp_path):
    data = os.urandom(4 << 20)

    async def serve(reader, writer):
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with Tap("127.0.0.1", server.sockets[0].getsockname()[1]) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        sending = asyncio.create_task(drain(writer, data))
        assert await reader.readexactly(len(data)) == data
        await sending
        writer.close()
        assert all(stream == data for stream in tap.recorded().values())
    server.close()
    await server.wait_closed()


async def drain(writer, data):
    writer.write(data)
    await writer.drain()


async def test_what_it_could_not_keep_is_no_clean_record(shouting, monkeypatch):
    monkeypatch.setattr(_tap, "MAX_RECORDED", 10)
    async with Tap("127.0.0.1", shouting) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        writer.write(b"a line that is longer\n")
        assert await reader.readline() == b"A LINE THAT IS LONGER\n"
        writer.close()
        with pytest.raises(LeakSearchError) as caught:
            tap.recorded()
    assert caught.value.code == "recorded_too_much"
