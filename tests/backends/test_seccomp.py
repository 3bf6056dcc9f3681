"""The filter programs, run by an interpreter of classic BPF written from the kernel's documentation."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.backends.process._bpf import (
    ALLOW,
    KILL_PROCESS,
    MAX_INSTRUCTIONS,
    Arg,
    Instruction,
    Rule,
    assemble,
    encode,
    errno_action,
)
from geumgo.backends.process._seccomp import confined, filter_bytes, general
from geumgo.backends.process._syscalls import ARCHITECTURES, this_machine

X86 = ARCHITECTURES["x86_64"]
EPERM, ENOSYS, EINVAL = errno_action(1), errno_action(38), errno_action(22)
EXEC_FD, PID = 4096, 4321
MASK64 = (1 << 64) - 1


def evaluate(
    program: bytes | Sequence[Instruction], number: int, *arguments: int, audit: int = X86.audit
) -> int:
    """Return the action for one system call; raises on a program that the kernel would refuse."""
    code = list(struct.iter_unpack("=HBBI", program)) if isinstance(program, bytes) else list(program)
    values = [argument & MASK64 for argument in (*arguments, *(0,) * 6)[:6]]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, audit, 0, *values)
    accumulator = position = 0
    while True:
        operation, on_true, on_false, constant = code[position]
        position += 1
        if operation == 0x20:
            assert constant % 4 == 0
            assert constant <= len(data) - 4
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x15:
            position += on_true if accumulator == constant else on_false
        elif operation == 0x45:
            position += on_true if accumulator & constant else on_false
        else:
            assert operation == 0x06
            return constant


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest):
    return ARCHITECTURES[request.param]


def _confined(machine=X86, *, links: bool = False) -> bytes:
    return filter_bytes(confined(pid=PID, exec_fd=EXEC_FD, links=links), machine)


def test_another_architecture_dies(machine) -> None:
    for audit in (0x40000003, 0xC000003E, 0xC00000B7, 0, 0xFFFFFFFF):
        if audit != machine.audit:
            assert evaluate(_confined(machine), machine.numbers["read"], audit=audit) == KILL_PROCESS


@given(st.integers(0, 0x3FFFFFFF))
def test_x32_dies(number: int) -> None:
    assert evaluate(_confined(), number | 0x40000000) == KILL_PROCESS


@given(st.integers(0, 0xFFFFFFFF), st.lists(st.integers(0, MASK64), min_size=6, max_size=6))
@settings(max_examples=300)
def test_only_listed_calls_are_let_through(number: int, arguments: list[int]) -> None:
    listed = {X86.numbers[name] for name in confined(pid=1, exec_fd=1, links=True) if name in X86.numbers}
    if number not in listed:
        assert evaluate(_confined(), number, *arguments) in (EPERM, KILL_PROCESS)


ALLOWED = [
    ("read", (3, 0, 10)),
    ("openat", (-100, 1, 0o2000000)),
    ("openat", (-100, 1, 0o2200000)),
    ("mmap", (0, 4096, 3, 0x22)),
    ("mmap", (0, 4096, 0, 0x4022)),
    ("mmap", (0, 4096, 1, 0x02, 5)),
    ("mmap", (0, 4096, 1, 0x01, 5)),
    ("mmap", (0, 4096, 5, 0x802, 5)),
    ("mprotect", (0, 4096, 3)),
    ("clone", (0x3D0F00,)),
    ("clone", (0x7D0F00,)),
    ("socketpair", (1, 1, 0)),
    ("socketpair", (1, 1 | 0o2004000, 0)),
    ("sendto", (3, 1, 1, 0x4000, 0, 0)),
    ("fcntl", (3, 4, 0o4000)),
    ("fcntl", (3, 1030, 0)),
    ("ioctl", (3, 0x5421)),
    ("prctl", (15, 1)),
    ("prctl", (4, 0)),
    ("kill", (PID, 9)),
    ("tgkill", (PID, 5, 6)),
    ("prlimit64", (0, 7, 0, 1)),
    ("execveat", (EXEC_FD, 1, 1, 1, 0x1000)),
    ("getsockopt", (3, 1, 4)),
]
DENIED = [
    ("openat", (-100, 1, 1)),
    ("openat", (-100, 1, 2)),
    ("openat", (-100, 1, 0o100)),
    ("openat", (-100, 1, 0o1000)),
    ("openat", (-100, 1, 0o10000000)),
    ("openat", (-100, 1, 0o20200000)),
    ("mmap", (0, 4096, 7, 0x22)),
    ("mmap", (0, 4096, 4, 0x22)),
    ("mmap", (0, 4096, 7, 0x02, 5)),
    ("mmap", (0, 4096, 5, 0x01, 5)),
    ("mmap", (0, 4096, 3, 0x21)),
    ("mmap", (0, 4096, 3, 0x28)),
    ("mmap", (0, 4096, 3, 0x40022)),
    ("mprotect", (0, 4096, 4)),
    ("mprotect", (0, 4096, 7)),
    ("clone", (17,)),
    ("clone", (0x3D0F00 | 0x10000000,)),
    ("clone", (0x3D0F00 & ~0x10000,)),
    ("socketpair", (1, 2, 0)),
    ("socketpair", (1, 5, 0)),
    ("socketpair", (2, 1, 0)),
    ("sendto", (3, 1, 1, 0, 0x7FFF00000000, 16)),
    ("sendto", (3, 1, 1, 0, 1 << 32, 16)),
    ("fcntl", (3, 4, 0o20000)),
    ("fcntl", (3, 8, 1)),
    ("fcntl", (3, 10, 9)),
    ("ioctl", (3, 0x5412)),
    ("ioctl", (3, 0x8901)),
    ("prctl", (1, 0)),
    ("prctl", (4, 1)),
    ("prctl", (4, 1 << 32)),
    ("kill", (1, 9)),
    ("kill", (0, 9)),
    ("kill", (-1, 9)),
    ("kill", (-PID, 9)),
    ("tgkill", (PID + 1, 5, 6)),
    ("prlimit64", (0, 7, 1, 0)),
    ("prlimit64", (0, 7, 1 << 32, 0)),
    ("prlimit64", (PID + 1, 7, 0, 0)),
    ("execveat", (EXEC_FD + 1, 1, 1, 1, 0x1000)),
    ("execveat", (EXEC_FD, 1, 1, 1, 0)),
    ("execveat", (-100, 1, 1, 1, 0)),
    ("getsockopt", (3, 1, 77)),
    ("setsockopt", (3, 1, 26)),
]


@pytest.mark.parametrize(("name", "arguments"), ALLOWED)
def test_what_python_needs_is_allowed(machine, name: str, arguments: tuple[int, ...]) -> None:
    assert evaluate(_confined(machine), machine.numbers[name], *arguments, audit=machine.audit) == ALLOW


@pytest.mark.parametrize(("name", "arguments"), DENIED)
def test_what_an_adversary_needs_is_denied(machine, name: str, arguments: tuple[int, ...]) -> None:
    assert evaluate(_confined(machine), machine.numbers[name], *arguments, audit=machine.audit) == EPERM


@given(st.sampled_from(DENIED), st.integers(0, 0xFFFFFFFF))
def test_high_bits_change_nothing_that_is_denied(case: tuple[str, tuple[int, ...]], high: int) -> None:
    """The kernel cuts `int` arguments to 32 bits: what is set above must not get a call through."""
    name, arguments = case
    raised = [(argument & 0xFFFFFFFF) | high << 32 for argument in arguments]
    if name not in ("sendto", "prctl", "prlimit64"):
        assert evaluate(_confined(), X86.numbers[name], *raised) == EPERM


def test_what_reads_structures_does_not_exist(machine) -> None:
    for name in ("clone3", "openat2", "io_uring_setup"):
        for rules in (confined(pid=1, exec_fd=1, links=True), general()):
            assert (
                evaluate(filter_bytes(rules, machine), machine.numbers[name], audit=machine.audit) == ENOSYS
            )


def test_links_are_no_links_where_the_host_shows() -> None:
    assert evaluate(_confined(links=False), X86.numbers["readlink"]) == EINVAL
    assert evaluate(_confined(links=True), X86.numbers["readlink"]) == ALLOW


def test_the_general_list_forks_and_executes_but_makes_no_namespace(machine) -> None:
    program = filter_bytes(general(), machine)

    def action(name: str, *arguments: int) -> int:
        return evaluate(program, machine.numbers[name], *arguments, audit=machine.audit)

    assert action("clone", 17) == ALLOW
    assert action("execve", 1, 1, 1) == ALLOW
    for bit in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
        assert action("clone", 17 | bit) == EPERM
    assert action("socketpair", 1, 2, 0) == EPERM
    assert action("prctl", 1, 0) == EPERM


def test_names_that_no_list_may_have() -> None:
    never = {
        "socket", "connect", "bind", "listen", "accept", "accept4", "ptrace", "mount", "unshare", "setns", "bpf",
        "process_vm_readv", "keyctl", "memfd_create", "perf_event_open", "userfaultfd", "chmod", "truncate",
        "setrlimit", "seccomp", "landlock_create_ruleset", "pivot_root", "sendmmsg", "io_uring_enter",
    }  # fmt: skip
    confined_names = set(confined(pid=1, exec_fd=1, links=True))
    assert not never & (confined_names | set(general()))
    assert not {"fork", "vfork", "execve", "chdir", "wait4"} & confined_names


args = st.builds(
    Arg,
    index=st.integers(0, 5),
    value=st.integers(0, MASK64),
    mask=st.sampled_from((0xFFFFFFFF, 0xFF, 0x80000001)),
    wide=st.booleans(),
)


@given(
    st.lists(st.lists(args, max_size=3).map(tuple), min_size=1, max_size=4),
    st.lists(st.integers(0, MASK64), min_size=6, max_size=6),
    st.data(),
)
@settings(max_examples=200)
def test_alternatives_mean_what_they_say(
    alternatives: list[tuple[Arg, ...]], arguments: list[int], data: st.DataObject
) -> None:
    for arg in (arg for alternative in alternatives for arg in alternative):
        if data.draw(st.booleans()):
            arguments[arg.index] = arg.value
    program = assemble({7: Rule(tuple(alternatives))}, architecture=1, x32=False, otherwise=EPERM)

    def holds(arg: Arg) -> bool:
        mask = MASK64 if arg.wide and arg.mask == 0xFFFFFFFF else arg.mask
        seen = arguments[arg.index] & mask
        return seen == (arg.value if arg.wide else arg.value & 0xFFFFFFFF)

    wanted = ALLOW if any(all(map(holds, alternative)) for alternative in alternatives) else EPERM
    assert evaluate(program, 7, *arguments, audit=1) == wanted
    assert evaluate(program, 8, *arguments, audit=1) == EPERM


def test_a_program_that_is_too_long_is_refused() -> None:
    long = Rule(tuple((Arg(0, number),) for number in range(200)))
    with pytest.raises(ValueError, match="too long"):
        assemble({1: long}, architecture=1, x32=False, otherwise=EPERM)
    with pytest.raises(ValueError, match="too long"):
        assemble(dict.fromkeys(range(MAX_INSTRUCTIONS), Rule()), architecture=1, x32=False, otherwise=EPERM)


def test_the_encoding_is_eight_bytes_an_instruction() -> None:
    assert encode(((0x20, 1, 2, 3),)) == struct.pack("=HBBI", 0x20, 1, 2, 3)


@pytest.mark.parametrize(
    ("architecture", "headers"),
    [
        ("x86_64", ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")),
        ("aarch64", ("/usr/include/asm-generic/unistd.h",)),
    ],
)
def test_numbers_are_the_kernels(architecture: str, headers: tuple[str, ...]) -> None:
    found = [Path(header) for header in headers if Path(header).exists()]
    if not found:
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    text = found[0].read_text()
    kernel = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    numbers = ARCHITECTURES[architecture].numbers
    # A table newer than the headers may know more calls; a number that both have must be the same.
    assert {name: kernel[name] for name in numbers if name in kernel} == {
        name: number for name, number in numbers.items() if name in kernel
    }
    assert len(set(numbers.values())) == len(numbers)
    assert len(numbers) - len(numbers.keys() & kernel.keys()) < 8


def test_this_machine_has_a_table_or_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    assert this_machine() is ARCHITECTURES.get(os.uname().machine)
    monkeypatch.setattr(os, "uname", lambda: type("U", (), {"machine": "riscv64"})())
    assert this_machine() is None
