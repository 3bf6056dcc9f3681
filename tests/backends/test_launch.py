"""Launching, what a launch says when it fails, and the ways an enclave ends."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from geumgo import vsock
from geumgo.backends import BackendError, EnclaveSpec, LaunchFailed
from geumgo.backends._heartbeat import heartbeat_address, wait_for_heartbeat
from geumgo.backends.process import ProcessLauncher
from geumgo.image import build_from_directory, read_eif, unpack
from geumgo.nitro import AttestationDocument

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

DOCUMENT = """
import base64, os
from geumgo.nitro import NsmClient, SocketTransport
result = base64.b64encode(NsmClient(SocketTransport(os.dup(4))).attest(nonce=b"n")).decode()
"""
ENVIRONMENT = (
    "import os\nresult = {name: value for name, value in os.environ.items() if name.startswith('GEUMGO')}"
)


async def _pcrs(enclave: Any, run_inside: Any) -> dict[int, str]:
    document = AttestationDocument.parse(base64.b64decode(await run_inside(enclave, DOCUMENT)))
    return {index: value.hex() for index, value in document.pcrs.items()}


async def _text(console: AsyncIterator[bytes]) -> str:
    return b"".join([chunk async for chunk in console]).decode()


async def test_a_launch_says_everything_about_the_enclave(
    launch: Any, run_inside: Any, image: Path, tmp_path: Path
) -> None:
    enclave = await launch("some-name", cid=77)
    assert (enclave.name, enclave.cid, enclave.debug) == ("some-name", 77, False)
    assert enclave.sandbox in ("namespaces", "landlock")
    assert enclave.enclave_id.startswith("i-")
    assert enclave.measurements["HashAlgorithm"] == "Sha384 { ... }"
    assert Path(f"/proc/{enclave.pid}").exists()
    assert enclave.sandbox in repr(enclave)
    assert str(enclave.address(5)) == f"hybrid:{tmp_path}/some-name/vsock.sock:5"
    pcrs = await _pcrs(enclave, run_inside)
    assert [pcrs[index] for index in range(3)] == [enclave.measurements[f"PCR{index}"] for index in range(3)]
    assert pcrs[3] == "00" * 48
    assert pcrs[4] != "00" * 48
    environment = await run_inside(enclave, ENVIRONMENT)
    assert environment.keys() == {"GEUMGO_VSOCK_FD", "GEUMGO_NSM_FD", "GEUMGO_ROOT"}


async def test_options_reach_the_registers(launch: Any, run_inside: Any) -> None:
    arn, instance = "arn:aws:iam::123456789012:role/Webserver", "i-1234567890abcdef0"
    enclave = await launch(options={"role_arn": arn, "instance_id": instance, "region": "eu-west-1"})
    pcrs = await _pcrs(enclave, run_inside)
    # Published values (nitro.md, section 1.4).
    assert pcrs[3].startswith("78fce75db17cd4e0a3fb8dad3ad128ca5e77edbb2b2c7f75329dccd99aa5f6ef")
    assert pcrs[4].startswith("08f996b5d43e047a9eb51e7f548bfee7e164fd7dc8f65541f2ac09d6545ac812")
    assert enclave.enclave_id.startswith(instance)


@pytest.mark.parametrize(
    "how", [{"debug": True}, {"unsandboxed": True}, {"debug": True, "unsandboxed": True}]
)
async def test_debug_and_unsandboxed_lose_their_measurements(
    launch: Any, run_inside: Any, how: dict[str, bool]
) -> None:
    enclave = await launch(**how)
    pcrs = await _pcrs(enclave, run_inside)
    assert {pcrs[index] for index in (0, 1, 2, 8)} == {"00" * 48}
    assert pcrs[4] != "00" * 48
    assert enclave.measurements["PCR0"] != "00" * 48  # of the image, as describe-enclaves prints it
    assert (enclave.sandbox == "none") is ("unsandboxed" in how)


async def test_the_console_is_read_in_debug(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox, debug=True)
    assert (await run_inside(enclave, ENVIRONMENT))["GEUMGO_DEBUG"] == "1"
    await run_inside(enclave, "print('안녕', flush=True)")
    await enclave.terminate(0)
    text = await _text(enclave.console())
    for words in ("this line is for the console", "this one too", "안녕"):
        assert words in text


async def test_output_goes_nowhere_outside_debug(
    sandbox: str, launch: Any, run_inside: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    enclave = await launch(sandbox=sandbox)
    await run_inside(enclave, "import os\nos.write(1, b'secret'); os.write(2, b'secret')")
    assert await _text(enclave.console()) == ""
    await enclave.terminate(0)
    assert capfd.readouterr() == ("", "")


async def test_a_chatty_program_never_blocks(launch: Any, run_inside: Any) -> None:
    enclave = await launch(debug=True)
    await run_inside(enclave, "import os\nfor _ in range(200): os.write(1, b'x' * 65536)")
    assert await run_inside(enclave, "result = 1") == 1


async def test_connections_carry_bytes_both_ways(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    results = await asyncio.gather(
        *(run_inside(enclave, "result = text", text=f"{number}" * 20000) for number in range(40))
    )
    assert [result[:1] for result in results] == [f"{number}"[:1] for number in range(40)]
    assert len(results[7]) == 20000


async def test_the_program_reaches_what_its_parent_listens_on(
    sandbox: str, launch: Any, run_inside: Any
) -> None:
    enclave = await launch(sandbox=sandbox)
    listener = await vsock.listen(enclave.address(9001))
    code = """
import asyncio
from geumgo.vsock.provider import provider
async def main():
    sock = await provider().connect(cid, 9001, timeout=5)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"out")
    got = (await loop.sock_recv(sock, 10)).decode()
    sock.close()
    return got
"""
    loop = asyncio.get_running_loop()
    for cid in (3, 2):
        asked = asyncio.create_task(run_inside(enclave, code, cid=cid))
        sock, _ = await listener.accept()
        with sock:
            assert await loop.sock_recv(sock, 10) == b"out"
            await loop.sock_sendall(sock, b"in")
            assert await asked == "in"
    listener.close()


async def test_a_port_nobody_listens_on_is_refused(launch: Any) -> None:
    enclave = await launch()
    with pytest.raises(vsock.ConnectFailed):
        await vsock.connect(enclave.address(4242))


async def test_the_socket_is_for_its_owner_only(launch: Any) -> None:
    enclave = await launch()
    uds = enclave.address(1).uds
    assert stat.S_IMODE(os.stat(uds).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(uds.parent).st_mode) == 0o700


async def test_the_launcher_never_holds_what_is_said(launch: Any, run_inside: Any) -> None:
    enclave = await launch()
    marker = os.urandom(16).hex()
    assert await run_inside(enclave, "result = text", text=marker * 100) == marker * 100
    assert not _holds(enclave._process.pid, marker.encode())
    assert _holds(enclave.pid, marker.encode())  # the control: the program itself does


def _holds(pid: int, needle: bytes) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split()
            start, end = (int(part, 16) for part in fields[0].split("-"))
            if not fields[1].startswith("rw"):
                continue
            try:
                memory.seek(start)
                if needle in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


async def test_the_program_ends_by_itself(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    with pytest.raises((ValueError, ConnectionError)):
        await run_inside(enclave, "import os\nos._exit(7)")
    ended = await enclave.wait()
    assert (ended.code, ended.reason) == (7, "the program ended with code 7")
    assert await enclave.wait() == ended
    assert await enclave.terminate(1) == ended
    assert "ended" in repr(enclave)
    assert not (enclave.address(1).uds).exists()


async def test_the_program_is_killed(sandbox: str, launch: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    folder = Path(os.readlink(enclave.address(1).uds.parent / "image"))
    assert folder.exists()
    os.kill(enclave.pid, signal.SIGKILL)
    ended = await enclave.wait()
    assert (ended.code, ended.reason) == (None, "the program was ended by SIGKILL")
    assert not folder.exists()


async def test_terminate_asks_first(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    await run_inside(enclave, "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(42))")
    assert (await enclave.terminate(20)).code == 42


async def test_terminate_kills_what_does_not_listen(sandbox: str, launch: Any, run_inside: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    await run_inside(enclave, "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)")
    began = asyncio.get_running_loop().time()
    ended = await enclave.terminate(0.3)
    assert (ended.code, ended.reason) == (None, "terminated")
    assert asyncio.get_running_loop().time() - began < 15


async def test_a_program_without_a_handler_does_not_use_up_the_grace(sandbox: str, launch: Any) -> None:
    enclave = await launch(sandbox=sandbox)
    began = asyncio.get_running_loop().time()
    await enclave.terminate(60)
    assert asyncio.get_running_loop().time() - began < 30


async def test_the_launcher_obeys_sigterm(launch: Any) -> None:
    enclave = await launch()
    os.kill(enclave._process.pid, signal.SIGTERM)
    assert (await enclave.wait()).code is None


async def test_a_killed_launcher_is_noticed(launch: Any) -> None:
    enclave = await launch()
    enclave._process.kill()
    assert "launcher process ended" in (await enclave.wait()).reason


async def test_the_same_folder_again(launch: Any) -> None:
    enclave = await launch()
    await enclave.terminate(0)
    again = await launch()
    assert again.enclave_id != enclave.enclave_id


async def test_a_cancelled_launch_leaves_nothing(image: Path, tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path / "nsm")
    spec = EnclaveSpec("one", image, None, 512, 1, False, tmp_path / "run")
    task = asyncio.create_task(launcher.launch(spec))
    async with asyncio.timeout(60):
        while not (tmp_path / "run" / "launcher.lock").exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= {"launcher.lock"}


async def _fails(launch: Any, **options: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await launch(**options)
    return caught.value


async def test_a_missing_image_is_an_error(launch: Any, tmp_path: Path) -> None:
    error = await _fails(launch, eif=tmp_path / "absent.eif")
    assert (error.code, "absent.eif" in error.what) == ("image_unreadable", True)


async def test_no_image_is_an_error(launch: Any, tmp_path: Path) -> None:
    (tmp_path / "no.eif").write_bytes(b"not an image" * 100)
    error = await _fails(launch, eif=tmp_path / "no.eif")
    assert "not an EIF" in error.what


async def test_a_damaged_image_is_never_started(launch: Any, image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.eif").write_bytes(data)
    assert (await _fails(launch, eif=tmp_path / "damaged.eif")).code == "bad_eif_crc"


async def test_two_in_one_folder_is_an_error(launch: Any) -> None:
    await launch()
    error = await _fails(launch)
    assert error.code == "in_use"
    assert error.fix


async def test_a_path_that_is_too_long_is_an_error(image: Path, tmp_path: Path) -> None:
    spec = EnclaveSpec("one", image, None, 512, 1, False, tmp_path / ("x" * 100))
    with pytest.raises(LaunchFailed) as caught:
        await ProcessLauncher(tmp_path / "nsm").launch(spec)
    assert caught.value.code == "bad_address"
    assert "shorter" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("../up", {}, id="a name that is a path"),
        pytest.param("", {}, id="no name"),
        pytest.param("one", {"options": {"colour": "blue"}}, id="an unknown option"),
        pytest.param("one", {"options": {"heartbeat_timeout": "soon"}}, id="a time that is none"),
        pytest.param("one", {"memory_mib": 0}, id="no memory"),
        pytest.param("one", {"cpus": 0}, id="no CPU"),
    ],
)
async def test_a_bad_spec_is_an_error(launch: Any, name: str, options: dict[str, Any]) -> None:
    assert (await _fails(launch, name=name, **options)).code == "bad_spec"


async def test_a_bad_option_of_the_nsm_is_an_error(launch: Any) -> None:
    assert (await _fails(launch, options={"instance_id": "nonsense"})).code == "bad_nsm"


async def test_no_heartbeat_in_time(launch: Any) -> None:
    error = await _fails(launch, options={"heartbeat_timeout": "0.01"})
    assert (error.code, error.retryable) == ("no_heartbeat", True)


async def test_a_program_that_ends_before_its_heartbeat(launch: Any, broken_image: Path) -> None:
    error = await _fails(launch, eif=broken_image)
    assert error.code == "ended_early"
    assert "debug" in error.fix
    error = await _fails(launch, eif=broken_image, debug=True)
    assert "no module named" in error.why.lower()  # the console's last lines


async def test_too_little_memory_is_an_error(launch: Any) -> None:
    assert (await _fails(launch, memory_mib=1)).code in ("ended_early", "sandbox_unavailable")


async def test_an_image_whose_module_is_missing_ends_after_its_heartbeat(
    launch: Any, crashing_image: Path
) -> None:
    enclave = await launch(eif=crashing_image, debug=True)
    assert (await enclave.wait()).code == 1
    assert "no_such_module" in await _text(enclave.console())


async def test_another_command_needs_namespaces(
    launch: Any, image: Path, tmp_path: Path, works: dict[str, str | None]
) -> None:
    unpacked = unpack(read_eif(image), tmp_path / "unpacked")
    code = "import os, sys; os.fork() or os._exit(3); sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    built = build_from_directory(
        unpacked.root,
        cmd=[unpacked.cmd[0], "-c", code],
        env=dict(unpacked.env),
        output=tmp_path / "other.eif",
        name="other",
        version="1",
    )
    if works["landlock"] is None:
        error = await _fails(launch, eif=built.path, sandbox="landlock")
        assert error.code == "image_needs_namespaces"
        assert "namespaces" in error.fix
    if works["namespaces"] is None:
        enclave = await launch(eif=built.path, sandbox="namespaces", debug=True)
        assert (await enclave.wait()).code == 3


async def test_a_garbage_request_to_the_launcher_is_a_failure(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "geumgo.backends.process",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(b'{"name": 1}\n')
    assert b'"failed"' in out
    assert b'"malformed"' in out


async def test_a_heartbeat_of_another_byte_does_not_count(tmp_path: Path) -> None:
    uds = tmp_path / "v"
    listener = await vsock.listen(heartbeat_address(uds))
    waiting = asyncio.create_task(wait_for_heartbeat(listener))
    loop = asyncio.get_running_loop()
    for sent, answer in ((b"\x00", b""), (b"", b""), (b"\xb7", b"\xb7")):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, f"{uds}_9000")
            if sent:
                await loop.sock_sendall(sock, sent)
            else:
                sock.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(sock, 2) == answer
    await waiting
    listener.close()
