"""Runs a command where the kernel refuses things, as a container's default profile does.

`python refuse.py namespaces,landlock COMMAND…`; children inherit it, whoever they are.
"""

from __future__ import annotations

import errno
import os
import sys

from geumgo.backends.process import _linux as linux
from geumgo.backends.process._bpf import ALLOW, Arg, Rule, assemble, encode, errno_action
from geumgo.backends.process._syscalls import this_machine

NEW_USER = 0x10000000
UNSHARE, MOUNT, SETNS = (272, 165, 308) if os.uname().machine == "x86_64" else (97, 40, 268)


def main(words: list[str], command: list[str]) -> None:
    machine = this_machine()
    assert machine is not None
    denied = Rule(action=errno_action(errno.EPERM))
    rules: dict[int, Rule] = {}
    if "namespaces" in words:
        rules |= dict.fromkeys((UNSHARE, MOUNT, SETNS), denied)
        rules[machine.numbers["clone"]] = Rule(((Arg(0, NEW_USER, NEW_USER),),), errno_action(errno.EPERM))
        rules[machine.numbers["clone3"]] = Rule(action=errno_action(errno.ENOSYS))
    if "landlock" in words:
        absent = Rule(action=errno_action(errno.ENOSYS))
        names = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
        rules |= dict.fromkeys((machine.numbers[name] for name in names), absent)
    linux.no_new_privileges()
    linux.set_filter(encode(assemble(rules, architecture=machine.audit, x32=False, otherwise=ALLOW)))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
