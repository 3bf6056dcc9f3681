"""A program with full code execution inside, in both sandboxes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from geumgo.backends.process._limits import MAX_DESCRIPTORS
from geumgo.nitro import AttestationDocument

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ATTACK = "import attacks\nresult = attacks.run(target)"
DIAL = """
from geumgo.vsock.provider import provider
from geumgo._base import GeumgoError
async def main():
    got = {}
    for cid, port in places:
        try:
            (await provider().connect(cid, port, timeout=5)).close()
            got[f"{cid}:{port}"] = "connected"
        except GeumgoError as error:
            got[f"{cid}:{port}"] = error.what
    return got
"""
DOCUMENT = """
import base64, os
from geumgo.nitro import NsmClient, SocketTransport
result = base64.b64encode(NsmClient(SocketTransport(os.dup(4))).attest(nonce=b"n")).decode()
"""


async def test_every_attack_is_refused(
    sandbox: str, launch: Any, run_inside: Any, host: dict[str, Any], allowed_numbers: list[int]
) -> None:
    enclave = await launch(sandbox=sandbox)
    host["pids"] += [enclave._process.pid]
    outcome = await run_inside(enclave, ATTACK, target={**host, "allowed": allowed_numbers})
    assert len(outcome) > 1500
    assert {name: got for name, got in outcome.items() if got.startswith("BREACH")} == {}
    # It still works after all that.
    assert await run_inside(enclave, "result = 1 + 1") == 2


async def test_the_attacks_do_something_where_nothing_confines(
    launch: Any, run_inside: Any, host: dict[str, Any]
) -> None:
    """The control: an attack that fails everywhere proves nothing."""
    enclave = await launch(unsandboxed=True)
    assert enclave.sandbox == "none"
    code = """
import attacks, mmap, os
call, at = attacks.call, attacks.AT_FDCWD
result = {
    "open": call("openat", at, os.fsencode(f), os.O_RDWR, 0),
    "path": call("openat", at, os.fsencode(d), os.O_PATH, 0),
    "readlink": call("readlinkat", at, os.fsencode(d) + b"/link", bytes(100), 100),
    "tcp": call("socket", 2, 1, 0),
    "datagrams": call("socket", 1, 2, 0),
    "memfd": call("memfd_create", b"x", 0),
    "unshare": call("unshare", 0x400),
    "code": attacks.mapping(7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
}
"""
    got = await run_inside(enclave, code, f=host["file"], d=host["folder"])
    assert {name: value for name, value in got.items() if value < 0} == {}


async def test_what_of_the_host_is_visible(
    sandbox: str, launch: Any, run_inside: Any, host: dict[str, Any]
) -> None:
    enclave = await launch(sandbox=sandbox)
    got = await run_inside(enclave, "import attacks\nresult = attacks.stat_host(f)", f=host["file"])
    # In the landlock sandbox the existence of a host file shows, and no filter can look at a path.
    assert got == ("ENOENT" if sandbox == "namespaces" else "visible")


async def test_namespaces_hold_the_image_and_three_devices_only(
    launch: Any, run_inside: Any, works: dict[str, str | None]
) -> None:
    if works["namespaces"] is not None:
        pytest.skip(f"no namespaces here: {works['namespaces']}")
    enclave = await launch(sandbox="namespaces")
    got = await run_inside(
        enclave,
        """
import os, socket
def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None
result = {
    "root": listed("/"), "dev": listed("/dev"), "proc": listed("/proc"), "sys": listed("/sys"),
    "above": listed("/../.."), "host": os.uname().nodename, "pid": os.getpid(), "parent": os.getppid(),
    "zero": open("/dev/zero", "rb").read(4).hex(), "random": len(open("/dev/urandom", "rb").read(8)),
}
""",
    )
    assert got["dev"] == ["null", "urandom", "zero"]
    assert not got["proc"]
    assert not got["sys"]
    assert got["above"] == got["root"]
    assert "opt" in got["root"]
    assert (got["host"], got["pid"], got["parent"]) == ("enclave", 1, 0)
    assert (got["zero"], got["random"]) == ("00000000", 8)


async def test_no_descriptor_but_those_handed_over(sandbox: str, launch: Any, run_inside: Any) -> None:
    leaked, write = os.pipe()
    os.set_inheritable(leaked, True)
    try:
        enclave = await launch(sandbox=sandbox)
    finally:
        os.close(leaked)
        os.close(write)
    got = await run_inside(enclave, "import attacks\nresult = attacks.descriptors()")
    # Standard streams lead nowhere: the null device, 1:3.
    assert [got[number] for number in "012"] == ["2 1:3"] * 3
    # Broker and NSM, and what the program made by itself: a broker's duplicate, the loop's, this connection.
    assert {kind.split()[0] for number, kind in got.items() if int(number) > 2} <= {"14", "0"}
    assert len(got) <= 10


async def test_it_runs_as_nobody_without_capabilities(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{enclave.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    groups = status["Groups"].split()
    assert "0" not in groups
    limits = Path(f"/proc/{enclave.pid}/limits").read_text()
    assert f"Max open files            {MAX_DESCRIPTORS}" in limits
    assert "Max file size             0 " in limits
    assert "Max core file size        1 " in limits
    assert await run_inside(enclave, "import os\nresult = len(os.sched_getaffinity(0))") == 1


async def test_what_a_program_needs_works(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    code = """
import asyncio, concurrent.futures, hashlib, os, socket, ssl, tempfile, threading, time
async def main():
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)
        numbers = list(pool.map(lambda n: (barrier.wait(), n)[1], range(8)))
    left, right = socket.socketpair()
    left.setblocking(False); right.setblocking(False)
    await loop.sock_sendall(left, b"x" * 10)
    size = len(await loop.sock_recv(right, 100))
    left.close(); right.close()
    from cryptography.hazmat.primitives.asymmetric import ec
    ec.generate_private_key(ec.SECP384R1())
    ssl.create_default_context()
    await asyncio.sleep(0.001)
    return [numbers, size, len(os.urandom(32)), await asyncio.to_thread(lambda: hashlib.sha256(b"").hexdigest()[:8])]
"""
    assert await run_inside(enclave, code) == [list(range(8)), 10, 32, "e3b0c442"]


async def test_memory_ends_at_the_limit(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox, memory_mib=256)
    code = """
held = []
try:
    while len(held) < 1000:
        held.append(bytearray(1 << 20))
    result = "no limit"
except MemoryError:
    result = len(held)
del held
"""
    got = await run_inside(enclave, code)
    assert 100 < got < 256


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86 has a second number space")
async def test_calls_of_another_number_space_end_it(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    with pytest.raises(ValueError, match="Expecting value"):  # it died without an answer
        await run_inside(enclave, "import ctypes\nctypes.CDLL(None).syscall(0x40000000 | 39)")
    assert (await enclave.wait()).reason == "the program was ended by SIGSYS"


async def test_the_parent_is_all_it_can_dial(sandbox: str, launch: Any, run_inside: Any) -> None:
    one = await launch("one", sandbox=sandbox)
    two = await launch("two", sandbox=sandbox)
    assert one.cid != two.cid
    places = [
        (cid, port)
        for cid in (two.cid, one.cid, 0, 1, 2, 3, 4, 0xFFFFFFFF)
        for port in (7007, 9000, 0, 0xFFFFFFFF)
    ]
    got = await run_inside(one, DIAL, places=places)
    assert len(got) == len(places)
    assert [place for place, what in got.items() if what == "connected"] == []
    # Nor by the sibling's socket, which it could name.
    path = str(two.address(7007).uds)
    attack = "import attacks\nresult = [attacks.verdict(g) for n, g in attacks.network_attacks(1, path, 'x')]"
    assert not [got for got in await run_inside(one, attack, path=path) if got.startswith("BREACH")]
    attack = "import attacks\nresult = [attacks.verdict(g) for n, g in attacks.process_attacks(pids)]"
    assert not [got for got in await run_inside(one, attack, pids=[two.pid]) if got.startswith("BREACH")]
    assert await run_inside(two, "result = 'alive'") == "alive"


async def test_no_document_with_another_pcr0(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    before = await _document(enclave, run_inside)
    expected = {name: enclave.measurements[name] for name in ("PCR0", "PCR1", "PCR2")}
    code = """
import array, base64, os, socket
import cbor2
from geumgo.nitro import NsmClient, SocketTransport

nsm = socket.socket(fileno=os.dup(4))
nsm.settimeout(10)
def ask(request):
    nsm.send(request)
    return nsm.recv(0x4000)

answers = []
zero = bytes(48)
for index in range(16):
    for body in (
        {"ExtendPCR": {"index": index, "data": b"x"}},
        {"LockPCR": {"index": index}},
        {"ExtendPCR": {"index": index, "data": b"x"}, "DescribeNSM": {}},
        {"SetPCR": {"index": index, "data": zero}},
        {"Attestation": {"pcrs": {index: zero}, "nonce": None, "user_data": None, "public_key": None}},
        {"Attestation": {"user_data": cbor2.dumps({"pcrs": {0: zero}}), "pcr0": zero}},
    ):
        answers.append(ask(cbor2.dumps(body)))
for garbage in (b"\\x00", b"\\xff" * 4096, b"\\xa1" * 100, bytes(0x1000), bytes(0x1001), bytes(60000), b"\\x9f" * 4000):
    answers.append(ask(garbage))
# Descriptors that nobody asked for, on both sockets' kin.
nsm.sendmsg([cbor2.dumps("DescribeNSM")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 3, 4]))])
answers.append(nsm.recv(0x4000))
documents = []
for answer in answers:
    decoded = cbor2.loads(answer)
    if isinstance(decoded, dict) and "Attestation" in decoded:
        documents.append(base64.b64encode(decoded["Attestation"]["document"]).decode())
result = documents
"""
    import base64

    documents = [
        AttestationDocument.parse(base64.b64decode(text)) for text in await run_inside(enclave, code)
    ]
    assert len(documents) == 32
    for document in (before, *documents, await _document(enclave, run_inside)):
        assert {f"PCR{index}": document.pcrs[index].hex() for index in range(3)} == expected
        assert document.module_id == enclave.enclave_id


async def _document(enclave: Any, run_inside: Any) -> AttestationDocument:
    import base64

    return AttestationDocument.parse(base64.b64decode(await run_inside(enclave, DOCUMENT)))


async def test_a_program_that_breaks_the_broker_ends_itself(
    sandbox: str, launch: Any, run_inside: Any
) -> None:
    enclave = await launch(sandbox=sandbox)
    other = await launch("other", sandbox=sandbox)
    with pytest.raises((ValueError, ConnectionError)):
        await run_inside(
            enclave, "import os,socket,time\nsocket.socket(fileno=os.dup(3)).send(b'x'*999)\ntime.sleep(9)"
        )
    assert "vsock protocol" in (await enclave.wait()).reason
    assert await run_inside(other, "result = 'alive'") == "alive"


FLOOD = """
import socket, os, struct
broker = socket.socket(fileno=os.dup(3))
broker.setblocking(blocking)
sent = 0
try:
    for number in range(200000):
        broker.send(struct.pack("!BBHIII", 1, 1, 0, number, 3, 1))
        sent += 1
except OSError:
    pass
result = sent
"""


async def test_flooding_the_broker_costs_the_launcher_nothing(
    sandbox: str, launch: Any, run_inside: Any
) -> None:
    enclave = await launch(sandbox=sandbox)
    before = _memory(enclave._process.pid)
    for _ in range(10):
        assert await run_inside(enclave, FLOOD, blocking=False) > 10
    assert _memory(enclave._process.pid) < before + (4 << 20)


async def test_a_program_that_asks_and_never_reads_is_ended(
    sandbox: str, launch: Any, run_inside: Any
) -> None:
    enclave = await launch(sandbox=sandbox)
    with pytest.raises((ValueError, ConnectionError)):
        await run_inside(enclave, FLOOD, blocking=True)
    assert "vsock protocol" in (await enclave.wait()).reason


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError
