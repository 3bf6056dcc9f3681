"""What an adversary with full code execution inside tries; runs in the sandbox, by raw system calls.

`run(target)` returns a dict: attack -> what it got ("refused EPERM", "absent", …), or a text that begins
with "BREACH". `target` names things on the host that the test made for this.
"""

import array
import contextlib
import ctypes
import errno
import mmap
import os
import platform
import signal
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"

# name: (x86_64, aarch64)
NUMBERS = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "stat": (4, None), "newfstatat": (262, 79), "getdents64": (217, 61),
    "truncate": (76, 45), "ftruncate": (77, 46), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchownat": (260, 54), "utimensat": (280, 88),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33),
    "readlink": (89, None), "readlinkat": (267, 78), "chdir": (80, 49), "fchdir": (81, 50), "chroot": (161, 51),
    "getxattr": (191, 8), "setxattr": (188, 5), "listxattr": (194, 11), "statfs": (137, 43),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "mount_setattr": (442, 442),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "setns": (308, 268),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "socketpair": (53, 199), "setsockopt": (54, 208), "getsockopt": (55, 209),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272),
    "fcntl": (72, 25), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261), "setrlimit": (160, 164),
    "setuid": (105, 146), "setgid": (106, 144), "setresuid": (117, 147), "setgroups": (116, 159),
    "capset": (126, 91), "keyctl": (250, 219), "add_key": (248, 217), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142), "syslog": (103, 116),
    "swapon": (167, 224), "acct": (163, 89), "settimeofday": (170, 170), "clock_settime": (227, 112),
    "sethostname": (170, 161), "personality": (135, 92), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "sched_setaffinity": (203, 122), "setpriority": (141, 140),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "splice": (275, 76), "tee": (276, 77), "vmsplice": (278, 75), "sendfile": (40, 71),
    "copy_file_range": (326, 285), "pkey_mprotect": (329, 288), "remap_file_pages": (216, 234),
    "quotactl": (179, 60), "lookup_dcookie": (212, 18), "setsid": (112, 157), "setpgid": (109, 154),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
}  # fmt: skip
AT_FDCWD = -100
PRIVILEGED = (
    "keyctl", "add_key", "bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module", "kexec_load",
    "reboot", "syslog", "swapon", "acct", "settimeofday", "clock_settime", "sethostname", "seccomp",
    "landlock_create_ruleset", "personality", "setpriority", "shmget", "shmat", "msgget", "semget", "mq_open",
    "splice", "tee", "vmsplice", "sendfile", "copy_file_range", "quotactl", "lookup_dcookie", "setsid", "setpgid",
    "iopl", "ioperm", "modify_ldt", "uselib", "mount_setattr", "move_mount", "process_madvise", "remap_file_pages",
)  # fmt: skip


def number(name):
    return NUMBERS[name][0 if X86 else 1]


def call(name, *arguments):
    """Return the result, or the negative error number; None where the machine has no such call."""
    nr = number(name)
    if nr is None:
        return None
    ctypes.set_errno(0)
    result = libc.syscall(
        ctypes.c_long(nr),
        *(a if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in arguments),
    )
    return -ctypes.get_errno() if result < 0 else result


def verdict(result, allowed=()):
    if result is None:
        return "absent"
    if result in allowed:
        return f"harmless {result}"
    if result < 0:
        return f"refused {errno.errorcode.get(-result, -result)}"
    return f"BREACH: returned {result}"


def file_attacks(file, folder, program):
    """Every way to reach a host file that this user may read, write, change and execute."""
    f, d, p = (os.fsencode(x) for x in (file, folder, program))
    new = d + b"/new"
    how = struct.pack("=QQQ", 0, 0, 0)
    argv = (ctypes.c_char_p * 2)(p, None)
    buffer = ctypes.create_string_buffer(256)
    times = bytes(32)
    yield "open read", call("open", f, os.O_RDONLY)
    yield "openat read", call("openat", AT_FDCWD, f, os.O_RDONLY, 0)
    yield "openat write", call("openat", AT_FDCWD, f, os.O_WRONLY, 0)
    yield "openat append", call("openat", AT_FDCWD, f, os.O_WRONLY | os.O_APPEND, 0)
    yield "openat truncate", call("openat", AT_FDCWD, f, os.O_RDONLY | os.O_TRUNC, 0)
    yield "openat create", call("openat", AT_FDCWD, new, os.O_RDWR | os.O_CREAT, 0o600)
    yield "openat read create", call("openat", AT_FDCWD, new, os.O_RDONLY | os.O_CREAT, 0o600)
    yield "openat path", call("openat", AT_FDCWD, f, os.O_PATH, 0)
    yield "openat path folder", call("openat", AT_FDCWD, d, os.O_PATH | os.O_DIRECTORY, 0)
    yield "openat tmpfile", call("openat", AT_FDCWD, d, os.O_TMPFILE | os.O_RDWR, 0o600)
    yield "openat folder", call("openat", AT_FDCWD, d, os.O_RDONLY | os.O_DIRECTORY, 0)
    yield "openat root", call("openat", AT_FDCWD, b"/../../.." + f, os.O_RDONLY, 0)
    yield "openat2", call("openat2", AT_FDCWD, f, how, len(how))
    yield "creat", call("creat", new, 0o600)
    yield "truncate", call("truncate", f, 0)
    yield "chmod", call("chmod", f, 0o777)
    yield "fchmodat", call("fchmodat", AT_FDCWD, f, 0o777)
    yield "fchmodat2", call("fchmodat2", AT_FDCWD, f, 0o777, 0)
    yield "chown", call("chown", f, os.getuid(), os.getgid())
    yield "fchownat", call("fchownat", AT_FDCWD, f, os.getuid(), os.getgid(), 0)
    yield "utimensat", call("utimensat", AT_FDCWD, f, times, 0)
    yield "utimensat now", call("utimensat", AT_FDCWD, f, None, 0)
    yield "utime", call("utime", f, None)
    yield "utimes", call("utimes", f, None)
    yield "futimesat", call("futimesat", AT_FDCWD, f, None)
    yield "unlink", call("unlink", f)
    yield "unlinkat", call("unlinkat", AT_FDCWD, f, 0)
    yield "rename", call("rename", f, new)
    yield "renameat2", call("renameat2", AT_FDCWD, f, AT_FDCWD, new, 0)
    yield "link", call("link", f, new)
    yield "linkat", call("linkat", AT_FDCWD, f, AT_FDCWD, new, 0)
    yield "symlink", call("symlink", f, new)
    yield "symlinkat", call("symlinkat", f, AT_FDCWD, new)
    yield "mkdir", call("mkdir", new, 0o700)
    yield "mkdirat", call("mkdirat", AT_FDCWD, new, 0o700)
    yield "rmdir", call("rmdir", d)
    yield "mknod", call("mknod", new, 0o10600, 0)
    yield "mknodat", call("mknodat", AT_FDCWD, new, 0o140600, 0)
    yield "readlink", call("readlink", d + b"/link", buffer, 256)
    yield "readlinkat", call("readlinkat", AT_FDCWD, d + b"/link", buffer, 256)
    yield "chdir", call("chdir", d)
    yield "chroot", call("chroot", d)
    yield "getxattr", call("getxattr", f, b"user.x", buffer, 256)
    yield "setxattr", call("setxattr", f, b"user.x", b"y", 1, 0)
    yield "listxattr", call("listxattr", f, buffer, 256)
    yield "statfs", call("statfs", f, buffer)
    yield "inotify", call("inotify_init1", 0)
    yield "fanotify", call("fanotify_init", 0, 0)
    yield "name_to_handle_at", call("name_to_handle_at", AT_FDCWD, f, buffer, buffer, 0)
    yield "open_by_handle_at", call("open_by_handle_at", AT_FDCWD, buffer, 0)
    yield "open_tree", call("open_tree", AT_FDCWD, d, 1)
    yield "mount", call("mount", d, b"/", None, 0x1000, None)
    yield "umount2", call("umount2", b"/", 2)
    yield "pivot_root", call("pivot_root", d, d)
    yield "fsopen", call("fsopen", b"tmpfs", 0)
    yield "execve", call("execve", p, argv, None)
    yield "execveat", call("execveat", AT_FDCWD, p, argv, None, 0)


def stat_host(file):
    """What may stay visible in the landlock sandbox: that a file exists, its size, owner and times."""
    try:
        os.stat(file)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "visible"


def exec_attacks(root):
    """A second program: of the image itself, of memory, by the launcher's own trick."""
    python = os.fsencode(os.path.join(root, "bin/sh"))
    argv = (ctypes.c_char_p * 2)(python, None)
    yield "fork", call("fork")
    yield "vfork", call("vfork")
    for flags in (
        signal.SIGCHLD,
        0x100 | signal.SIGCHLD,
        0x10000000,
        0x3D0F00 | 0x10000000,
        0x3D0F00 & ~0x10000,
    ):
        yield f"clone {flags:#x}", call("clone", flags, 0, 0, 0, 0)
    yield "clone3", call("clone3", struct.pack("=11Q", 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
    for name in os.listdir(os.path.join(root, "usr")) if os.path.isdir(os.path.join(root, "usr")) else ():
        yield f"execve own {name}", call("execve", os.fsencode(os.path.join(root, "usr", name)), argv, None)
    own = os.open(os.path.join(root, LOADER.lstrip("/")), os.O_RDONLY)
    arguments = (ctypes.c_char_p * 2)(b"x", None)
    yield "execveat own fd", call("execveat", own, b"", arguments, None, 0x1000)
    for high in range(1000, 70000, 1000):
        with contextlib.suppress(OSError):
            os.dup2(own, high, False)
    limit = os.sysconf("SC_OPEN_MAX")
    for high in (limit - 1, limit, limit + 1, 4096, 4095):
        yield f"dup2 {high}", (-errno.EBADF if high >= limit else call_dup(own, high))
        yield f"execveat {high}", call("execveat", high, b"", arguments, None, 0x1000)
    yield "F_DUPFD at the limit", call("fcntl", own, 0, limit)
    yield "raise the limit", call("prlimit64", 0, 7, struct.pack("=QQ", 1 << 20, 1 << 20), None)
    yield "setrlimit", call("setrlimit", 7, struct.pack("=QQ", 1 << 20, 1 << 20))
    yield "memfd", call("memfd_create", b"x", 0)
    yield "memfd_secret", call("memfd_secret", 0)
    os.close(own)
    yield "mmap rwx", mapping(7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    yield "mmap anonymous rx", mapping(5, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    yield "mmap shared memory", mapping(3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    page = mapping_address(3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    yield "mprotect x", -abs(libc.mprotect(ctypes.c_void_p(page), 4096, 5)) * ctypes.get_errno()
    yield "pkey_mprotect x", call("pkey_mprotect", page, 4096, 5, -1)


LOADER = "/lib64/ld-linux-x86-64.so.2" if X86 else "/lib/ld-linux-aarch64.so.1"


def call_dup(own, high):
    """Not an attack by itself: any number below the limit may be taken."""
    try:
        os.dup2(own, high, False)
    except OSError as error:
        return -error.errno
    return -errno.EBADF


def mapping_address(prot, flags):
    libc.mmap.restype = ctypes.c_void_p
    return libc.mmap(None, ctypes.c_size_t(4096), prot, flags, -1, ctypes.c_long(0))


def mapping(prot, flags):
    ctypes.set_errno(0)
    address = mapping_address(prot, flags)
    return -ctypes.get_errno() if address in (None, ctypes.c_void_p(-1).value) else 1


def network_attacks(port, path, abstract):
    """Sockets of every family, and host sockets by every name."""
    for family in (*range(46), 40):
        for kind in (1, 2, 3, 5):
            yield f"socket {family} {kind}", call("socket", family, kind, 0)
            if family == 16:
                yield "netlink route", call("socket", family, kind | 0o2000000, 0)
    pair = array.array("i", (0, 0))
    address, _ = pair.buffer_info()
    for family, kind in ((1, 2), (1, 5), (1, 3), (2, 1), (16, 3), (30, 1), (40, 1), (1, 2 | 0o4000)):
        yield f"socketpair {family} {kind}", call("socketpair", family, kind, 0, address)
    left, right = socket.socketpair()
    names = [
        struct.pack("=H", 1) + os.fsencode(path) + b"\0",
        struct.pack("=H", 1) + b"\0" + abstract.encode(),
        struct.pack("=HHI", 2, socket.htons(port), socket.htonl(0x7F000001)) + bytes(8),
    ]
    for number_, name in enumerate(names):
        for what in ("connect", "bind"):
            yield f"{what} {number_}", call(what, left.fileno(), name, len(name))
        yield f"sendto {number_}", call("sendto", left.fileno(), b"x", 1, 0, name, len(name))
    yield "sendto broker", call("sendto", 3, b"x", 1, 0, names[0], len(names[0]))
    yield "sendmmsg", call("sendmmsg", left.fileno(), bytes(64), 1, 0)
    yield "listen", call("listen", left.fileno(), 1)
    yield "accept4", call("accept4", left.fileno(), None, None, 0)
    yield "SO_PEERPIDFD", call("getsockopt", 3, 1, 77, ctypes.create_string_buffer(4), struct.pack("=I", 4))
    yield "SO_PASSCRED", call("setsockopt", left.fileno(), 1, 16, struct.pack("=i", 1), 4)
    yield "SO_ATTACH_FILTER", call("setsockopt", left.fileno(), 1, 26, bytes(16), 16)
    yield "io_uring_setup", call("io_uring_setup", 8, ctypes.create_string_buffer(256))
    yield "io_setup", call("io_setup", 8, ctypes.create_string_buffer(8))
    left.close()
    right.close()


def process_attacks(pids):
    """Signals, debuggers and handles for each process id of the host."""
    buffer = ctypes.create_string_buffer(64)
    info = struct.pack("=iiii", 9, 0, -1, 0) + bytes(112)
    vector = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    for pid in (*pids, -1, 0, -pids[0]):
        for sig in (0, 15, 9):
            yield f"kill {pid} {sig}", call("kill", pid, sig)
    for pid in pids:
        yield f"tkill {pid}", call("tkill", pid, 9)
        yield f"tgkill {pid}", call("tgkill", pid, pid, 9)
        yield f"rt_sigqueueinfo {pid}", call("rt_sigqueueinfo", pid, 9, info)
        yield f"rt_tgsigqueueinfo {pid}", call("rt_tgsigqueueinfo", pid, pid, 9, info)
        yield f"pidfd_open {pid}", call("pidfd_open", pid, 0)
        yield f"ptrace attach {pid}", call("ptrace", 16, pid, 0, 0)
        yield f"ptrace seize {pid}", call("ptrace", 0x4206, pid, 0, 0)
        yield f"process_vm_readv {pid}", call("process_vm_readv", pid, vector, 1, vector, 1, 0)
        yield f"process_vm_writev {pid}", call("process_vm_writev", pid, vector, 1, vector, 1, 0)
        yield f"kcmp {pid}", call("kcmp", os.getpid(), pid, 0, 0, 0)
        yield f"prlimit {pid}", call("prlimit64", pid, 7, None, buffer)
        yield f"F_SETOWN {pid}", call("fcntl", 3, 8, pid)
        yield f"F_SETOWN_EX {pid}", call("fcntl", 3, 15, struct.pack("=ii", 1, pid))
        yield f"FIOSETOWN {pid}", call("ioctl", 3, 0x8901, struct.pack("=i", pid))
        yield f"sched_setaffinity {pid}", call("sched_setaffinity", pid, 8, struct.pack("=Q", 1))
        for name in ("mem", "environ", "maps", "cmdline", "fd", "root", "ns/net", "status"):
            yield f"/proc/{pid}/{name}", call("openat", AT_FDCWD, f"/proc/{pid}/{name}".encode(), 0, 0)
        for name in ("exe", "cwd", "root", "fd/0", "ns/net"):
            link = call("readlinkat", AT_FDCWD, f"/proc/{pid}/{name}".encode(), buffer, 64)
            yield f"readlink /proc/{pid}/{name}", link
    yield "pidfd_send_signal", call("pidfd_send_signal", 3, 9, None, 0)
    yield "pidfd_getfd", call("pidfd_getfd", 3, 0, 0)
    yield "O_ASYNC", call("fcntl", 3, 4, 0o20000)
    yield "F_SETSIG", call("fcntl", 3, 10, 9)
    yield "FIOASYNC", call("ioctl", 3, 0x5452, struct.pack("=i", 1))
    yield "TIOCSTI", call("ioctl", 0, 0x5412, b"x")
    yield "PDEATHSIG off", call("prctl", 1, 0, 0, 0, 0)
    yield "PR_SET_MM", call("prctl", 35, 1, 0, 0, 0)
    yield "PR_SET_PTRACER", call("prctl", 0x59616D61, -1, 0, 0, 0)
    yield "dumpable on", call("prctl", 4, 1, 0, 0, 0)


def privilege_attacks():
    """Namespaces, ids, keys and everything that only the kernel's owner should do."""
    for flag in (
        0x10000000,
        0x20000,
        0x40000000,
        0x20000000,
        0x8000000,
        0x4000000,
        0x2000000,
        0x80,
        0x400,
        0x200,
    ):
        yield f"unshare {flag:#x}", call("unshare", flag)
    yield "setns", call("setns", 3, 0)
    yield "setuid", call("setuid", 0)
    yield "setgid", call("setgid", 0)
    yield "setresuid", call("setresuid", 0, 0, 0)
    yield "setgroups", call("setgroups", 0, None)
    yield "capset", call("capset", struct.pack("=Ii", 0x20080522, 0), b"\xff" * 24)
    for name in PRIVILEGED:
        yield name, call(name, 0, 0, 0, 0, 0)


def write_everywhere(root):
    """Try to make a file in every folder of the image and to change every tenth of its files."""
    for count, (folder, _, files) in enumerate(os.walk(root)):
        yield (
            f"create in {folder}",
            call("openat", AT_FDCWD, os.fsencode(folder) + b"/new", os.O_CREAT | os.O_RDWR, 0o600),
        )
        for file in files[count % 10 :: 10]:
            yield (
                f"write {folder}/{file}",
                call("openat", AT_FDCWD, os.fsencode(os.path.join(folder, file)), os.O_RDWR, 0),
            )


def unlisted(allowed):
    """Every other number there is, with arguments that no call accepts.

    But x86's uretprobe and uprobe: the kernel passes them by seccomp, and ends a process that calls them itself.
    """
    for nr in range(1024):
        if nr not in allowed and not (X86 and nr in (335, 336)):
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(nr), *(ctypes.c_long(-1),) * 6)
            got = ctypes.get_errno()
            yield f"number {nr}", -got if result < 0 and got in (errno.EPERM, errno.ENOSYS) else 1


def descriptors():
    """Return what each open descriptor is, below the limit."""
    found = {}
    for fd in range(os.sysconf("SC_OPEN_MAX")):
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            found[fd] = f"{status.st_mode >> 12:o} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return found


# F_GETOWN and the like on our own sockets are not attacks; these results mean "nothing happened".
def run(target):
    """Return the outcome of every attack."""
    root = os.environ["GEUMGO_ROOT"]
    groups = {
        "file": file_attacks(target["file"], target["folder"], target["program"]),
        "exec": exec_attacks(root),
        "network": network_attacks(target["port"], target["socket"], target["abstract"]),
        "process": process_attacks(target["pids"]),
        "privilege": privilege_attacks(),
        "write": write_everywhere(root),
        "unlisted": unlisted(set(target["allowed"])),
    }
    return {f"{group}: {name}": verdict(got) for group, attacks in groups.items() for name, got in attacks}
