"""Addresses as text and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.vsock import VMADDR_CID_ANY, Address, AddressError

U32 = st.integers(0, 0xFFFFFFFF)


@given(U32, U32)
def test_vsock_round_trip(cid: int, port: int) -> None:
    address = Address(cid, port)
    assert str(address) == f"vsock:{cid}:{port}"
    assert Address.parse(str(address)) == address


@given(st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=60), U32)
def test_hybrid_round_trip(name: str, port: int) -> None:
    address = Address.hybrid(Path("/run") / name.lstrip("/"), port)
    assert Address.parse(str(address)) == address


@given(U32, U32)
def test_a_hybrid_address_has_no_cid(cid: int, port: int) -> None:
    address = Address(cid, port, Path("/run/v.sock"))
    assert address.cid == VMADDR_CID_ANY
    assert address == Address.hybrid(Path("/run/v.sock"), port)


def test_examples() -> None:
    assert Address.parse("vsock:16:7007") == Address(16, 7007)
    assert Address.parse("hybrid:/run/x/v.sock:7007") == Address.hybrid(Path("/run/x/v.sock"), 7007)
    assert Address.parse("hybrid:/run/a:b/v.sock:1").uds == Path("/run/a:b/v.sock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vsock",
        "vsock:",
        "vsock:16",
        "vsock:16:",
        "vsock::7007",
        "vsock:-1:7007",
        "vsock:16:+7",
        "vsock:16: 7",
        "vsock:016:7",
        "vsock:16:7\n",
        "vsock:4294967296:7",
        "vsock:16:4294967296",
        "vsock:1:2:3",
        "vsock:١٦:7",
        "VSOCK:16:7",
        "hybrid::7",
        "hybrid:relative/v.sock:7",
        "hybrid:/a\0b:7",
        "hybrid:/a\nb:7",
        "hybrid:/run/v.sock",
        "tcp:localhost:7",
        "hybrid:/" + "x" * 600 + ":7",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert caught.value.code == "bad_address"


@given(st.text(max_size=40))
def test_any_text_gives_an_address_or_our_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(("cid", "port"), [(-1, 1), (1, -1), (1 << 32, 1), (1, 1 << 32), (True, 1), ("1", 1)])
def test_numbers_out_of_range(cid: int, port: int) -> None:
    with pytest.raises(AddressError):
        Address(cid, port)
