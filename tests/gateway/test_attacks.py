"""What another container that shares the runtime folder tries: the folder is believed little."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from geumgo.gateway._enclave_file import EnclaveFile, EnclaveFileError

GOOD: dict[str, Any] = {"version": 1, "name": "a", "state": "running", "address": "vsock:16:7007", "pid": 7}


@pytest.fixture
def place(runtime: Path) -> Path:
    folder = runtime / "a"
    folder.mkdir()
    return folder / "enclave.json"


def read(path: Path) -> EnclaveFile:
    """Read, and fail instead of waiting for ever."""

    def hangs(*_: object) -> None:
        raise AssertionError("reading the file waits for its writer")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        return EnclaveFile.read(path, "a")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_in_its_place_does_not_stop_the_gateway(place: Path) -> None:
    os.mkfifo(place)
    with pytest.raises(EnclaveFileError):
        read(place)


def test_a_link_in_its_place_is_not_followed(place: Path, runtime: Path) -> None:
    elsewhere = runtime / "elsewhere.json"
    elsewhere.write_text(json.dumps(GOOD))
    place.symlink_to(elsewhere)
    with pytest.raises(EnclaveFileError):
        read(place)


def test_a_device_in_its_place_is_not_read(place: Path) -> None:
    place.symlink_to("/dev/zero")
    with pytest.raises(EnclaveFileError):
        read(place)


@pytest.mark.parametrize("cid", [0, 1, 2, 3, 0xFFFF_FFFF])
def test_no_address_leads_to_the_hypervisor_the_host_or_the_gateway_itself(place: Path, cid: int) -> None:
    place.write_text(json.dumps({**GOOD, "address": f"vsock:{cid}:7007"}))
    with pytest.raises(EnclaveFileError):
        read(place)


@pytest.mark.parametrize("path", ["/run/docker.sock", "{runtime}/other/vsock.sock", "{folder}/../other/v"])
def test_no_address_leads_out_of_the_enclaves_own_folder(place: Path, runtime: Path, path: str) -> None:
    (runtime / "other").mkdir()
    uds = path.format(runtime=runtime, folder=place.parent)
    place.write_text(json.dumps({**GOOD, "address": f"hybrid:{uds}:7007"}))
    with pytest.raises(EnclaveFileError):
        read(place)


def test_a_folder_reached_by_another_name_is_the_same_folder(place: Path, runtime: Path) -> None:
    other = runtime.parent / f"{runtime.name}.link"
    other.symlink_to(runtime)
    try:
        place.write_text(json.dumps({**GOOD, "address": f"hybrid:{other}/a/vsock.sock:7007"}))
        assert read(place).address is not None
    finally:
        other.unlink()


async def test_names_that_are_no_text_do_not_break_the_list(runtime: Path, site: Any) -> None:
    name = os.fsdecode(b"\xff\xfe")
    (runtime / name).mkdir()
    (runtime / name / "enclave.json").write_text(json.dumps({**GOOD, "name": name}))
    enclave = await site.enclave("b")
    gateway = await site.gateway("b")
    await asyncio.sleep(0.05)
    for shown in gateway.enclaves():
        json.dumps(shown, ensure_ascii=False).encode()
    assert enclave is not None
