from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.gateway._enclave_file import MAX_SIZE, EnclaveFile, EnclaveFileError

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "a",
    "state": "running",
    "cid": 16,
    "port": 7007,
    "address": "vsock:16:7007",
    "backend": "nitro",
    "sandbox": "",
    "debug": False,
    "pid": 7,
    "measurements": {"PCR0": "00"},
    "restarts": 2,
    "updated_ms": 1,
}


def parse(**changes: Any) -> EnclaveFile:
    return EnclaveFile.parse(json.dumps({**GOOD, **changes}).encode(), "a")


def test_what_a_manager_writes_is_read() -> None:
    file = parse()
    assert (file.name, file.state, str(file.address)) == ("a", "running", "vsock:16:7007")
    assert file.shown["backend"] == "nitro"
    assert file.shown["measurements"] == {"PCR0": "00"}


@pytest.mark.parametrize("state", ["starting", "backoff", "crash_loop", "stopping", "stopped"])
def test_an_enclave_that_does_not_run_needs_no_address(state: str) -> None:
    assert parse(state=state, address=None).address is None


def test_a_hybrid_address() -> None:
    address = parse(address="hybrid:/run/x/v.sock:7007").address
    assert address is not None
    assert address.uds == Path("/run/x/v.sock")


@pytest.mark.parametrize("field", ["pid", "restarts", "address"])
def test_every_launch_is_another_generation(field: str) -> None:
    other = {"pid": 8, "restarts": 3, "address": "vsock:17:7007"}[field]
    assert parse().generation != parse(**{field: other}).generation


def test_a_newer_time_is_the_same_generation() -> None:
    assert parse().generation == parse(updated_ms=99, measurements={}).generation


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": None},
        {"name": "b"},
        {"name": None},
        {"state": "dancing"},
        {"state": None},
        {"address": None},
        {"address": 7},
        {"address": "tcp:1.2.3.4:7007"},
        {"address": "vsock:16"},
        {"address": ""},
    ],
)
def test_what_no_manager_writes_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EnclaveFileError):
        parse(**changes)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 50_000, b'{"version":1}', b" " * (MAX_SIZE + 1)]
)
def test_bytes_that_are_no_such_file_are_refused(data: bytes) -> None:
    with pytest.raises(EnclaveFileError):
        EnclaveFile.parse(data, "a")


@pytest.mark.parametrize("odd", [None, [], {}, "x", 1.5, True])
def test_odd_fields_that_are_only_shown_do_no_harm(odd: object) -> None:
    json.dumps(parse(backend=odd, sandbox=odd, measurements=odd, restarts=odd, pid=odd).shown)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(GOOD)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_only_our_error_comes_out(changes: dict[str, Any]) -> None:
    with contextlib.suppress(EnclaveFileError):
        parse(**changes)


def test_a_file_that_is_gone_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(EnclaveFileError):
        EnclaveFile.read(tmp_path / "enclave.json", "a")


def test_a_folder_in_its_place_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(EnclaveFileError):
        EnclaveFile.read(tmp_path, "a")
