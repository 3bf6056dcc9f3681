from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from geumgo.api import JsonLog, configure_logging


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def lines(reader: int) -> list[dict[str, object]]:
    os.set_blocking(reader, False)
    data = b""
    try:
        while chunk := os.read(reader, 1 << 16):
            data += chunk
    except BlockingIOError:
        pass
    return [json.loads(line) for line in data.splitlines()]


def test_an_event_is_one_json_object_a_line(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer, server="gateway")
    log.info("개시", enclave="a\nb", count=3)
    (line,) = lines(reader)
    assert line["event"] == "개시"
    assert line["enclave"] == "a\nb"
    assert (line["level"], line["server"], line["count"]) == ("info", "gateway", 3)


def test_what_is_below_the_level_is_not_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer, level="warning")
    log.debug("a")
    log.info("b")
    log.request(
        edge="http", request_id="1", route="r", operation="", code="ok", seconds=0, size_in=0, size_out=0
    )
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines(reader)] == ["c", "d"]


def test_a_request_line_is_json_with_its_figures(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer, server="gateway")
    log.request(
        edge="http",
        request_id="abc-1",
        route="operation",
        operation="echo",
        code="internal",
        seconds=0.0123456,
        size_in=1,
        size_out=2,
    )
    (line,) = lines(reader)
    del line["t"]
    assert line == {
        "level": "error",
        "event": "request",
        "server": "gateway",
        "edge": "http",
        "request_id": "abc-1",
        "route": "operation",
        "operation": "echo",
        "code": "internal",
        "ms": 12.346,
        "bytes_in": 1,
        "bytes_out": 2,
    }


async def test_lines_are_gathered_and_come_by_themselves(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer)
    log.info("one")
    log.info("two")
    assert lines(reader) == []
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(reader, readable.set)
    await readable.wait()
    loop.remove_reader(reader)
    assert [line["event"] for line in lines(reader)] == ["one", "two"]


async def test_a_warning_does_not_wait(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer)
    log.info("before")
    log.warning("now")
    assert [line["event"] for line in lines(reader)] == ["before", "now"]


def test_a_reader_that_does_not_read_never_blocks_the_server(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = JsonLog(writer)
    for number in range(20_000):
        log.info("filler", number=number, text="x" * 200)
    os.set_blocking(reader, False)
    data = b""
    try:
        while True:
            data += os.read(reader, 1 << 20)
            log.flush()
    except BlockingIOError:
        log.info("after")
    data += os.read(reader, 1 << 20)
    *fillers, dropped, last = [json.loads(line) for line in data.splitlines()]
    assert [line["number"] for line in fillers] == list(range(len(fillers)))
    assert (dropped["event"], dropped["lines"]) == ("log_dropped", 20_000 - len(fillers))
    assert last["event"] == "after"


def test_a_reader_that_is_gone_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = JsonLog(writer)
    log.error("x")
    os.close(writer)


def test_a_file_takes_it_all(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = JsonLog(file.fileno())
        for _ in range(1000):
            log.info("x" * 300)
        log.flush()
    assert len((tmp_path / "log").read_bytes().splitlines()) == 1000


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], level = before
    root.setLevel(level)


def test_what_libraries_log_loses_its_arguments(pipe: tuple[int, int], root_logger: logging.Logger) -> None:
    reader, writer = pipe
    configure_logging("gateway", fd=writer)
    try:
        raise ValueError("900101-1234567")
    except ValueError:
        logging.getLogger("asyncio").exception(
            "Exception in callback f(b'900101-1234567')\nhandle: <x 900101>"
        )
    logging.getLogger("x").warning("value %s", "900101-1234567")
    first, second = lines(reader)
    assert (first["logger"], first["message"]) == ("asyncio", "Exception in callback f")
    assert first["exception"] == "ValueError"
    assert str(first["at"]).startswith("test_log.py:")
    assert second["message"] == "value %s"
    assert "900101" not in json.dumps([first, second])


def test_what_libraries_say_below_a_warning_is_left_out(
    pipe: tuple[int, int], root_logger: logging.Logger
) -> None:
    reader, writer = pipe
    configure_logging("gateway", fd=writer)
    logging.getLogger("x").info("chatter")
    assert lines(reader) == []
