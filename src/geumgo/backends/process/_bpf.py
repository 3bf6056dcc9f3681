"""A small assembler for seccomp's classic BPF: an allow list of system calls with argument conditions.

A filter sees `struct seccomp_data` (number, architecture, six 64-bit arguments by value). Pointers are
numbers to it: what they point to can be changed by another thread after the check, so no rule here looks
at memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ("ALLOW", "KILL_PROCESS", "MAX_INSTRUCTIONS", "Arg", "Rule", "assemble", "encode", "errno_action")

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
MAX_INSTRUCTIONS = 4096
"""The kernel's BPF_MAXINSNS."""

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_ANY_BIT = 0x15, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000
_ALL = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant."""


def errno_action(number: int) -> int:
    """Return the action that makes a system call fail with this error number."""
    return _ERRNO | number


@dataclass(frozen=True, slots=True)
class Arg:
    """A condition: `argument & mask == value`.

    Attributes:
        index: 0 to 5.
        value: what it must equal.
        mask: which bits are looked at. Only the low 32 bits of an argument by default: the kernel cuts
            `int` arguments off there, so that what is above can neither be checked nor matter.
        wide: look at all 64 bits (pointers).
    """

    index: int
    value: int
    mask: int = _ALL
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to one system call.

    Attributes:
        alternatives: it gets `action` if all conditions of one of these hold; else the default action.
            One empty alternative means: always.
        action: a seccomp action.
    """

    alternatives: tuple[tuple[Arg, ...], ...] = ((),)
    action: int = ALLOW


def assemble(
    rules: Mapping[int, Rule], *, architecture: int, x32: bool, otherwise: int
) -> tuple[Instruction, ...]:
    """Return the filter program.

    Args:
        rules: by system call number, the ones called most often first.
        architecture: the one AUDIT_ARCH value that is let in; a call by another kills the process.
        x32: whether numbers with the x32 bit exist on it; they kill the process.
        otherwise: the action for all numbers that have no rule.

    Raises:
        ValueError: the program is too long for the kernel.
    """
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if x32:
        program += [(_JUMP_ANY_BIT, 0, 1, _X32_BIT), (_RETURN, 0, 0, KILL_PROCESS)]
    for number, rule in rules.items():
        block = _block(rule, otherwise)
        program.append((_JUMP_EQUAL, 0, len(block), number))
        program += block
    program.append((_RETURN, 0, 0, otherwise))
    if len(program) > MAX_INSTRUCTIONS or any(jump > 255 for _, *jumps, _ in program for jump in jumps):
        raise ValueError("the filter is too long")
    return tuple(program)


def _block(rule: Rule, otherwise: int) -> list[Instruction]:
    block: list[Instruction] = []
    for alternative in rule.alternatives:
        tests = [test for arg in alternative for test in _tests(arg)]
        length = sum(len(test) for test in tests)
        done = 0
        for test in tests:
            done += len(test)
            code, on_true, _, constant = test[-1]
            # False: over the rest of this alternative and its return, to the next one.
            block += [*test[:-1], (code, on_true, length - done + 1, constant)]
        block.append((_RETURN, 0, 0, rule.action))
        if not alternative:
            return block
    return [*block, (_RETURN, 0, 0, otherwise)]


def _tests(arg: Arg) -> Iterable[Sequence[Instruction]]:
    """One or two tests, each ending in the jump whose false branch leaves the alternative."""
    halves = [(0, 0)] if not arg.wide else [(0, 0), (4, 32)]
    for offset, shift in halves:
        mask = _ALL if arg.wide and arg.mask == _ALL else (arg.mask >> shift) & _ALL
        test: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS + 8 * arg.index + offset)]
        if mask != _ALL:
            test.append((_AND, 0, 0, mask))
        test.append((_JUMP_EQUAL, 0, 0, (arg.value >> shift) & _ALL))
        yield test


def encode(program: Sequence[Instruction]) -> bytes:
    """Return the program as an array of `struct sock_filter` in this machine's byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
