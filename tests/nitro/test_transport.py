"""Transports: the ioctl as the driver sees it, and one socket."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from geumgo.nitro import (
    DeviceTransport,
    ErrorCode,
    MessageError,
    NsmRefused,
    NsmUnavailable,
    SocketTransport,
    open_nsm,
)
from geumgo.nitro.messages import MAX_REQUEST_SIZE, MAX_RESPONSE_SIZE
from geumgo.nitro.transport import NSM_FD_VARIABLE, NSM_IOCTL


class Driver:
    """What the kernel's driver does with the argument: reads and writes memory at its addresses."""

    def __init__(self, response: bytes = b"response", *, length: int | None = None) -> None:
        self.response = response
        self.length = len(response) if length is None else length
        self.requests: list[bytes] = []
        self.room: list[int] = []
        self.numbers: list[int] = []

    def __call__(self, fd: int, number: int, argument: bytearray) -> int:
        assert os.fstat(fd)
        assert len(argument) == 32
        request_address, request_length, response_address, response_room = struct.unpack("=QQQQ", argument)
        self.numbers.append(number)
        self.requests.append(ctypes.string_at(request_address, request_length))
        self.room.append(response_room)
        ctypes.memmove(response_address, self.response, len(self.response))
        argument[24:] = struct.pack("=Q", self.length)
        return 0


@pytest.fixture
def device(tmp_path: Path) -> str:
    path = tmp_path / "nsm"
    path.touch()
    return str(path)


def test_the_ioctl_number_is_that_of_the_kernels_macro() -> None:
    read_write, size, kind, number = 3, 32, 0x0A, 0
    assert read_write << 30 | size << 16 | kind << 8 | number == NSM_IOCTL


def test_the_driver_gets_the_request_and_its_response_comes_back(device: str) -> None:
    driver = Driver(b"\x01\x00\x02")
    transport = DeviceTransport(device, ioctl=driver)
    assert transport.exchange(b"question\x00") == b"\x01\x00\x02"
    assert driver.requests == [b"question\x00"]
    assert driver.room == [0x3000]
    assert driver.numbers == [0xC0200A00]
    transport.close()


@pytest.mark.parametrize("size", [1, MAX_REQUEST_SIZE], ids=["smallest", "largest"])
def test_requests_up_to_the_limit_pass(device: str, size: int) -> None:
    driver = Driver(bytes(MAX_RESPONSE_SIZE))
    assert DeviceTransport(device, ioctl=driver).exchange(b"q" * size) == bytes(MAX_RESPONSE_SIZE)
    assert driver.requests == [b"q" * size]


@pytest.mark.parametrize("size", [0, MAX_REQUEST_SIZE + 1], ids=["empty", "too large"])
def test_requests_over_the_limit_do_not_reach_the_driver(device: str, size: int) -> None:
    driver = Driver()
    with pytest.raises(MessageError):
        DeviceTransport(device, ioctl=driver).exchange(bytes(size))
    assert driver.requests == []


def test_a_length_that_can_not_be_is_refused(device: str) -> None:
    driver = Driver(length=MAX_RESPONSE_SIZE + 1)
    with pytest.raises(MessageError):
        DeviceTransport(device, ioctl=driver).exchange(b"question")


def test_emsgsize_is_input_too_large(device: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMSGSIZE, "Message too long")

    with pytest.raises(NsmRefused) as caught:
        DeviceTransport(device, ioctl=refuse).exchange(b"question")
    assert caught.value.error is ErrorCode.INPUT_TOO_LARGE
    assert caught.value.code == "nsm_input_too_large"


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EIO, errno.ETIMEDOUT, errno.EBADF])
def test_other_errors_of_the_driver_mean_that_there_is_no_nsm(device: str, number: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with pytest.raises(NsmUnavailable):
        DeviceTransport(device, ioctl=fail).exchange(b"question")


def test_the_real_ioctl_on_what_is_no_nsm_is_an_error_of_ours(device: str) -> None:
    with pytest.raises(NsmUnavailable):
        DeviceTransport(device, ioctl=fcntl.ioctl).exchange(b"question")


def test_no_device_says_where_one_is(tmp_path: Path) -> None:
    with pytest.raises(NsmUnavailable) as caught:
        DeviceTransport(str(tmp_path / "nsm"))
    assert "inside an enclave" in caught.value.diagnostics()
    with pytest.raises(NsmUnavailable):
        DeviceTransport("a\x00b")


def test_closing_twice_is_harmless_and_a_closed_device_is_gone(device: str) -> None:
    transport = DeviceTransport(device)
    transport.close()
    transport.close()
    with pytest.raises(NsmUnavailable):
        transport.exchange(b"question")


@pytest.fixture
def ends() -> Iterator[tuple[SocketTransport, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    transport = SocketTransport(ours.detach(), timeout=5)
    with theirs:
        yield transport, theirs
    transport.close()


def test_a_packet_each_way(ends: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = ends
    theirs.send(b"response")
    assert transport.exchange(b"question") == b"response"
    assert theirs.recv(100) == b"question"


@pytest.mark.parametrize("size", [0, MAX_REQUEST_SIZE + 1], ids=["empty", "too large"])
def test_requests_over_the_limit_are_not_sent(ends: tuple[SocketTransport, socket.socket], size: int) -> None:
    transport, theirs = ends
    with pytest.raises(MessageError):
        transport.exchange(bytes(size))
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_the_largest_response_passes_and_a_larger_one_is_refused(
    ends: tuple[SocketTransport, socket.socket],
) -> None:
    transport, theirs = ends
    theirs.send(bytes(MAX_RESPONSE_SIZE))
    assert len(transport.exchange(b"q")) == MAX_RESPONSE_SIZE
    theirs.send(bytes(MAX_RESPONSE_SIZE + 1))
    with pytest.raises(MessageError):
        transport.exchange(b"q")
    theirs.send(bytes(MAX_RESPONSE_SIZE + 5000))
    with pytest.raises(MessageError):
        transport.exchange(b"q")


def test_a_closed_socket_means_that_the_nsm_is_gone(ends: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = ends
    theirs.close()
    for _ in range(2):
        with pytest.raises(NsmUnavailable):
            transport.exchange(b"question")


def test_a_late_answer_is_never_taken_for_the_next_requests() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    transport = SocketTransport(ours.detach(), timeout=0.01)
    with theirs:
        with pytest.raises(NsmUnavailable, match="in time"):
            transport.exchange(b"first")
        assert theirs.recv(100) == b"first"
        with pytest.raises(OSError):
            theirs.send(b"late")  # the transport closed its end
        with pytest.raises(NsmUnavailable):
            transport.exchange(b"second")


def test_threads_get_their_own_answers(ends: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = ends

    def echo() -> None:
        while request := theirs.recv(100):
            theirs.send(request[::-1])

    server = threading.Thread(target=echo)
    server.start()
    answers: dict[bytes, bytes] = {}

    def ask(text: bytes) -> None:
        for _ in range(50):
            answers[text] = transport.exchange(text)
            assert answers[text] == text[::-1]

    threads = [threading.Thread(target=ask, args=(b"question %d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.close()
    server.join()
    assert answers == {text: text[::-1] for text in answers}
    assert len(answers) == 8


@pytest.mark.parametrize("fd", [-1, 1 << 20, 1 << 40], ids=["negative", "closed", "too large"])
def test_a_descriptor_that_is_none_is_an_error_of_ours(fd: int) -> None:
    with pytest.raises(NsmUnavailable):
        SocketTransport(fd).exchange(b"question")


def test_a_descriptor_that_is_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(NsmUnavailable):
        SocketTransport(fd).exchange(b"question")


def test_the_launchers_descriptor_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setenv(NSM_FD_VARIABLE, str(ours.detach()))
    transport = open_nsm()
    assert isinstance(transport, SocketTransport)
    with theirs:
        theirs.send(b"response")
        assert transport.exchange(b"question") == b"response"
    transport.close()


def test_without_one_it_is_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NSM_FD_VARIABLE, raising=False)
    if Path("/dev/nsm").exists():
        pytest.skip("this machine has an NSM")
    with pytest.raises(NsmUnavailable, match="/dev/nsm"):
        open_nsm()


@pytest.mark.parametrize("text", ["", "three", "-1", "1.0", "٣", "9" * 10, "1e400", " 3"])
def test_a_descriptor_that_is_no_number_is_an_error_of_ours(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NSM_FD_VARIABLE, text)
    with pytest.raises(NsmUnavailable, match=NSM_FD_VARIABLE):
        open_nsm()
