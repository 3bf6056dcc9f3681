"""The memory of real processes is searched, and what can't be searched is no success."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from geumgo.testing.leaks import LeakSearchError, Search, descendants, read_regions, regions

HOLDER = """
import ctypes, mmap, sys
parts = sys.stdin.readline().split("|")
number = "".join(parts).strip()
kept = {place}
del parts, number
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
"""
NUMBER = "010-8084-9966"
PARTS = "010-80|84-9966\n"


@pytest.fixture
def hold():
    """Start a process that keeps the number in its memory, which it got in two parts."""
    started = []

    def start(place):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER.replace("{place}", place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        child.stdin.write(PARTS)
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        return child.pid

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


@pytest.mark.parametrize(
    ("place", "encoding"),
    [
        ("number.encode()", "utf-8"),
        ("'\\u1100' + number", "utf-16-le"),
        ("'\\U0001f600' + number", "utf-32-le"),
        ("number.encode('utf-16-be')", "utf-16-be"),
        ("number.replace('-', '').encode()", "utf-8"),
        ("__import__('base64').b64encode(b'12' + number.encode())", "base64+2"),
        ("ctypes.create_string_buffer(number.encode())", "utf-8"),
        ("(m := mmap.mmap(-1, 8192), m.write(b' ' * 4090 + number.encode()))", "utf-8"),
    ],
)
def test_found_in_memory(hold, place, encoding):
    found = Search([NUMBER]).memory(hold(place))
    assert encoding in {finding.encoding for finding in found}
    assert all(NUMBER not in finding.where for finding in found)


def test_a_process_without_it_is_clean(hold):
    assert Search(["010-1111-2222"]).memory(hold("number")) == []


def test_found_in_a_shared_file(hold, tmp_path):
    path = tmp_path / "store"
    path.write_bytes(bytes(4096))
    pid = hold(
        f"(f := open({str(path)!r}, 'r+b'), m := mmap.mmap(f.fileno(), 4096), m.write(number.encode()))"
    )
    assert any("store" in finding.where for finding in Search([NUMBER]).memory(pid))


def test_again_and_again_while_it_changes(hold):
    search = Search([NUMBER])
    assert search.memory(hold("None and number")) is not None
    assert search.memory(hold("number.encode()")), "blocks that were clean elsewhere don't hide it"


def test_regions_are_what_was_written(hold):
    pid = hold("number")
    found = regions(pid)
    assert "[heap]" in {region.name for region in found}
    assert "[vsyscall]" not in {region.name for region in found}
    for region, data in read_regions(pid):
        assert len(data) <= region.end - region.start


def test_a_process_that_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for search in (regions, Search([NUMBER]).memory):
        with pytest.raises(LeakSearchError) as caught:
            search(child.pid)
        assert caught.value.code == "process_gone"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_not_permitted_is_said_not_skipped():
    """A user other than root asks for root's memory."""
    script = (
        "import os, sys\nfrom geumgo.testing.leaks import LeakSearchError, Search\n"
        "search = Search(['010-8084-9966'])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: search.memory(int(sys.argv[1]))\n"
        "except LeakSearchError as error: print(error.code, '|', error.fix)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, str(os.getpid())], capture_output=True, text=True, check=True
    )
    assert asked.stdout.startswith("memory_unreadable | ")
    assert "CAP_SYS_PTRACE" in asked.stdout


def test_descendants(hold):
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; c = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL); "
            "print(c.pid, flush=True); c.wait()",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    grandchild = int(child.stdout.readline())
    try:
        assert descendants(child.pid) == [grandchild]
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
    finally:
        os.kill(grandchild, 9)
        child.wait()
        child.stdout.close()
