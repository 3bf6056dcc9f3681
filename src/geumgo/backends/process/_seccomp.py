"""Which system calls the program inside may make. What isn't listed fails with EPERM.

Two lists. `confined` is for images whose `cmd` is their own Python with `-m`: one process, threads, no
exec, read-only opens, no page that is both written and executed. `general` is for any other image, which
only the namespaces sandbox runs: it may fork and exec what its own root holds.

Why each condition is there stands beside it; `docs/process-sandbox.md` has the table for readers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from geumgo.backends.process._bpf import Arg, Rule, assemble, encode, errno_action
from geumgo.backends.process._syscalls import Architecture

__all__ = ("confined", "filter_bytes", "general")

_ALWAYS = Rule()
_ABSENT = Rule(action=errno_action(errno.ENOSYS))

_READ, _WRITE, _EXEC = 1, 2, 4
_SHARED, _PRIVATE, _MAP_TYPE = 1, 2, 0xF
_ANONYMOUS, _HUGETLB = 0x20, 0x40000

_ACCESS_MODE, _CREAT, _TRUNC, _ASYNC = 0o3, 0o100, 0o1000, 0o20000
_PATH, _TMPFILE = 0o10000000, 0o20000000
_AT_EMPTY_PATH = 0x1000

_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)  # glibc's and musl's pthread_create, to the bit
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag, NEWTIME too

# Most frequent first: the kernel runs the filter from the top.
_PLAIN = """
read write futex clock_gettime epoll_wait epoll_pwait epoll_pwait2 epoll_ctl recvfrom recvmsg sendmsg
close newfstatat fstat stat lstat statx lseek getdents64 readv writev pread64 pwrite64 preadv
munmap mremap madvise brk mlock munlock
poll ppoll select pselect6 epoll_create epoll_create1 pipe pipe2 eventfd2 dup dup2 dup3
timerfd_create timerfd_settime timerfd_gettime shutdown getsockname getpeername
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack restart_syscall
clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage getrandom
set_robust_list set_tid_address rseq membarrier sched_yield sched_getaffinity getcpu
getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getrlimit
access faccessat faccessat2 getcwd uname fadvise64 close_range exit exit_group
""".split()  # noqa: SIM905 - a list of a hundred literals is not easier to read

_GENERAL_PLAIN = """
fork vfork execve execveat wait4 waitid kill tgkill setsid setpgid getpgid getpgrp getsid
open openat chdir fchdir umask readlink readlinkat mmap mprotect
""".split()  # noqa: SIM905


def _shared(filter_pid: int) -> dict[str, Rule]:
    """Rules of both lists. `filter_pid` is the program's own process id as it sees it."""
    stream = Arg(1, socket.SOCK_STREAM, ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) & 0xFFFFFFFF)
    return {
        # No destination: an address could name a host's Unix socket.
        "sendto": Rule(((Arg(4, 0, wide=True),),)),
        # Not F_SETOWN, F_SETSIG or O_ASYNC: they make the kernel signal other processes.
        "fcntl": Rule(
            (
                *(
                    (Arg(1, command),) for command in (0, 1, 2, 3, 1030)
                ),  # DUPFD GETFD SETFD GETFL DUPFD_CLOEXEC
                (Arg(1, 4), Arg(2, 0, _ASYNC)),  # SETFL
            )
        ),
        # FIONBIO FIOCLEX FIONCLEX FIONREAD TCGETS TIOCGWINSZ. Not FIOASYNC, FIOSETOWN, TIOCSTI.
        "ioctl": Rule(tuple((Arg(1, code),) for code in (0x5421, 0x5451, 0x5450, 0x541B, 0x5401, 0x5413))),
        # asyncio's own pair. Not SOCK_DGRAM: sendmsg could give it a host socket's name.
        "socketpair": Rule(((Arg(0, socket.AF_UNIX), stream),)),
        # SO_TYPE ERROR SNDBUF RCVBUF ACCEPTCONN PROTOCOL DOMAIN. Not PEERPIDFD, a handle to the launcher.
        "getsockopt": Rule(tuple((Arg(1, 1), Arg(2, option)) for option in (3, 4, 7, 8, 30, 38, 39))),
        # SO_SNDBUF RCVBUF. Not ATTACH_FILTER, PASSCRED, PASSPIDFD.
        "setsockopt": Rule(tuple((Arg(1, 1), Arg(2, option)) for option in (7, 8))),
        # SET_NAME GET_NAME GET_DUMPABLE GET_NO_NEW_PRIVS, and SET_DUMPABLE off only. Not PDEATHSIG,
        # which ends the program with its launcher.
        "prctl": Rule(
            (*((Arg(0, option),) for option in (15, 16, 3, 39)), (Arg(0, 4), Arg(1, 0, wide=True)))
        ),
        # ARCH_SET_FS: thread-local storage, set once by the dynamic loader.
        "arch_prctl": Rule(((Arg(0, 0x1002),),)),
        # Reading its own limits; the second argument is what would be set.
        "prlimit64": Rule(((Arg(0, 0), Arg(2, 0, wide=True)), (Arg(0, filter_pid), Arg(2, 0, wide=True)))),
        # Structures in memory can't be checked: glibc falls back to clone, openat and epoll.
        "clone3": _ABSENT,
        "openat2": _ABSENT,
        "io_uring_setup": _ABSENT,
    }


def confined(*, pid: int, exec_fd: int, links: bool) -> Mapping[str, Rule]:
    """Return the rules for an image that is one Python process.

    Args:
        pid: the program's process id as it sees it; it may signal no other.
        exec_fd: the descriptor of the program to be started. It is above the descriptor limit that holds
            by then and closes on exec, so that no second descriptor can ever have this number.
        links: whether symbolic links may be read. Not where the host's are visible.
    """
    # O_PATH needs no permission that Landlock checks; O_RDONLY|O_TRUNC truncates before Landlock ABI 3.
    opening = _ACCESS_MODE | _CREAT | _TRUNC | _PATH | _TMPFILE
    not_link = Rule(action=errno_action(errno.EINVAL))  # "that is no symbolic link"
    return {
        **dict.fromkeys(_PLAIN, _ALWAYS),
        **_shared(pid),
        "open": Rule(((Arg(1, 0, opening),),)),
        "openat": Rule(((Arg(2, 0, opening),),)),
        "readlink": _ALWAYS if links else not_link,
        "readlinkat": _ALWAYS if links else not_link,
        # Data, private (it counts against RLIMIT_DATA) or of a file; code of files only, never writable.
        # Huge pages come from the host's pool, outside every limit.
        "mmap": Rule(
            (
                (Arg(2, 0, _EXEC), Arg(3, _PRIVATE, _MAP_TYPE | _HUGETLB)),
                (Arg(2, 0, _EXEC), Arg(3, 0, _ANONYMOUS | _HUGETLB)),
                (Arg(2, _EXEC, _EXEC | _WRITE), Arg(3, _PRIVATE, _MAP_TYPE | _ANONYMOUS)),
            )
        ),
        "mprotect": Rule(((Arg(2, 0, _EXEC),),)),
        # Threads of this process; nothing that is a new process or namespace.
        "clone": Rule(tuple((Arg(0, flags),) for flags in _THREAD_FLAGS)),
        "execveat": Rule(((Arg(0, exec_fd), Arg(4, _AT_EMPTY_PATH)),)),
        "kill": Rule(((Arg(0, pid),),)),
        "tgkill": Rule(((Arg(0, pid),),)),
    }


def general() -> Mapping[str, Rule]:
    """Return the rules for any other image; its processes see only each other (PID namespace)."""
    return {
        **dict.fromkeys((*_PLAIN, *_GENERAL_PLAIN), _ALWAYS),
        **_shared(0),
        "clone": Rule(((Arg(0, 0, _NEW_NAMESPACES),),)),
    }


def filter_bytes(rules: Mapping[str, Rule], machine: Architecture) -> bytes:
    """Return the filter program for `machine`; names that it lacks are left out."""
    numbered = {machine.numbers[name]: rule for name, rule in rules.items() if name in machine.numbers}
    return encode(
        assemble(numbered, architecture=machine.audit, x32=machine.x32, otherwise=errno_action(errno.EPERM))
    )
