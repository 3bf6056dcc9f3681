"""The one socket that an enclave has to its NSM: real sockets, a real process, and abuse of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import cbor2
import pytest

from geumgo.attestation import TrustRoots, verify_document
from geumgo.nitro import AttestationDocument, NsmClient, NsmUnavailable, SocketTransport
from geumgo.testing.nsm import SoftwareNsm, serve_nsm


@pytest.fixture
def end(nsm: SoftwareNsm) -> Iterator[socket.socket]:
    """The enclave's end; the service runs in a thread that must end with it."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve_nsm, args=(nsm, ours))
    thread.start()
    with theirs:
        yield theirs
    thread.join(10)
    assert not thread.is_alive()
    assert ours.fileno() == -1


def test_a_client_over_the_socket(end: socket.socket, nsm: SoftwareNsm) -> None:
    transport = SocketTransport(os.dup(end.fileno()))
    client = NsmClient(transport)
    assert client.describe().module_id == nsm.module_id
    assert AttestationDocument.parse(client.attest(nonce=b"n")).nonce == b"n"
    transport.close()


@pytest.mark.parametrize("request_", [b"\xff", bytes(4096), bytes(4097), bytes(60_000)], ids=len)
def test_abuse_is_answered_and_the_service_goes_on(end: socket.socket, request_: bytes) -> None:
    end.settimeout(10)
    end.send(request_)
    answer = cbor2.loads(end.recv(100))
    assert answer == {"Error": "InputTooLarge" if len(request_) > 4096 else "InvalidOperation"}
    end.send(cbor2.dumps("GetRandom"))
    assert "GetRandom" in cbor2.loads(end.recv(1000))


def test_who_does_not_read_only_holds_itself(end: socket.socket, nsm: SoftwareNsm) -> None:
    end.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            end.send(cbor2.dumps("GetRandom"))
            sent += 1
    assert sent > 1
    assert cbor2.loads(nsm.handle(cbor2.dumps("GetRandom")))


def test_an_enclave_that_dies_ends_the_service(nsm: SoftwareNsm) -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve_nsm, args=(nsm, ours))
    thread.start()
    theirs.send(cbor2.dumps("GetRandom"))
    theirs.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_launcher_can_end_it(nsm: SoftwareNsm) -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve_nsm, args=(nsm, ours))
    thread.start()
    transport = SocketTransport(theirs.detach())
    NsmClient(transport).describe()
    ours.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(NsmUnavailable):
        NsmClient(transport).describe()


_INSIDE = """
import sys
from geumgo.nitro import NsmClient, open_nsm
client = NsmClient(open_nsm())
client.extend_pcr(16, b"code"); client.lock_pcr(16)
for index in range(16):
    try:
        client.extend_pcr(index, b"other")
    except Exception as error:
        assert error.code == "nsm_read_only_index", error
    else:
        sys.exit(f"PCR{index} was extended")
sys.stdout.buffer.write(client.attest(nonce=b"n"))
"""


@pytest.mark.system
def test_a_process_with_the_descriptor_gets_documents_and_no_other_measurement(
    nsm: SoftwareNsm, roots: TrustRoots, pcrs: dict[int, bytes], clock: object
) -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=serve_nsm, args=(nsm, ours))
    thread.start()
    with theirs:
        result = subprocess.run(
            [sys.executable, "-c", _INSIDE],
            env={**os.environ, "GEUMGO_NSM_FD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            capture_output=True,
            timeout=30,
            check=False,
        )
    thread.join(10)
    assert result.returncode == 0, result.stderr.decode()
    verified = verify_document(result.stdout, roots, now_ms=clock.now_ms())  # type: ignore[attr-defined]
    assert all(verified.document.pcrs[index] == value for index, value in pcrs.items())
    assert 16 in verified.document.pcrs
