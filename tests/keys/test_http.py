"""The reader of KMS's answers: any split of bytes, every limit, garbage."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.keys import KmsError
from geumgo.keys._http import MAX_BODY, MAX_HEAD, Response, encode_request, read_response


class Chunks:
    """Bytes that arrive in pieces, and then the end."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.asked = 0

    async def receive(self) -> bytes:
        self.asked += 1
        return self._pieces.pop(0) if self._pieces else b""


def read(*pieces: bytes) -> Response:
    return asyncio.run(read_response(Chunks(*pieces)))


ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 11\r\n\r\n{"a":"b"}\r\n'
)
CHUNKED = (
    b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n4;ext=1\r\nabcd\r\nA\r\n0123456789\r\n0\r\n"
    b"trailer: x\r\n\r\n"
)


def test_content_length() -> None:
    response = read(ANSWER)
    assert (response.status, response.body) == (200, b'{"a":"b"}\r\n')
    assert response.headers["content-type"] == "application/x-amz-json-1.1"


def test_chunked() -> None:
    response = read(CHUNKED)
    assert (response.status, response.body) == (400, b"abcd0123456789")


def test_until_the_end() -> None:
    assert read(b"HTTP/1.0 500 \r\n\r\nall of ", b"this").body == b"all of this"


def test_informational_answers_are_skipped() -> None:
    assert read(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER).status == 200
    with pytest.raises(KmsError):
        read(b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + ANSWER)


@settings(max_examples=100)
@given(cuts=st.lists(st.integers(0, 120), max_size=8), chunked=st.booleans())
def test_any_split(cuts: list[int], chunked: bool) -> None:
    data = CHUNKED if chunked else ANSWER
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == read(data)


@pytest.mark.parametrize("data", [ANSWER, CHUNKED])
def test_every_truncation(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(KmsError) as caught:
            read(data[:size])
        assert caught.value.code == "kms_protocol"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-x\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/2 200\r\n\r\n", id="another version"),
        pytest.param(b"HTTP/1.1 99 x\r\n\r\n", id="a status that is none"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="no header"),
        pytest.param(b"HTTP/1.1 200 OK\r\na : b\r\n\r\n", id="a space before the colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", id="a folded header"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", id="a length in letters"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", id="a long length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two lengths"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="both lengths",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", id="another encoding"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", id="a chunk without length"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", id="a chunk without end"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFF\r\n", id="a huge chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\na: " + b"b" * MAX_HEAD + b"\r\n\r\n", id="a long head"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1), id="a body over the limit"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(KmsError) as caught:
        read(data)
    assert caught.value.code == "kms_protocol"


def test_an_endless_head_is_not_read_to_its_end() -> None:
    reader = Chunks(*[b"x" * 1024] * 1000)
    with pytest.raises(KmsError):
        asyncio.run(read_response(reader))
    assert reader.asked < 20


def test_an_endless_body_is_not_read_to_its_end() -> None:
    reader = Chunks(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 1000)
    with pytest.raises(KmsError):
        asyncio.run(read_response(reader))
    assert reader.asked < 10


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=120), prefix=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED[:60]]))
def test_garbage(data: bytes, prefix: bytes) -> None:
    try:
        response = read(prefix + data)
    except KmsError:
        return
    assert 200 <= response.status < 600


def test_request() -> None:
    assert encode_request({"host": "h"}, b"{}") == (
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    )


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "가", "\0"])
def test_a_header_that_would_be_two(value: str) -> None:
    with pytest.raises(KmsError):
        encode_request({"x-amz-security-token": value}, b"")
