"""JSON lines on stderr: one object a line, an event name with typed fields, never a body.

Written here and not taken from structlog: that costs 11 MB and half a second in a sidecar that may use
48 MB, and 17 µs a line where a whole request takes about 40 (docs/adr/0032-server-logs.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import stat
import sys
import time
import traceback

__all__ = ("JsonLog", "configure_logging")

MAX_PENDING = 1 << 20
"""Bytes of log kept while nobody reads stderr; more is dropped and counted, the server goes on."""

PIPE_CHUNK = select.PIPE_BUF
"""What a pipe takes in one write without blocking once poll says that it is writable."""

FILE_CHUNK = 256 << 10
"""And what is written to a file at once: it never blocks for a reader."""

FLUSH_SECONDS = 0.05
"""Lines are gathered this long: one system call serves many requests."""

_LEVELS = ("debug", "info", "warning", "error")


class JsonLog:
    """Writes events as JSON lines to a descriptor without ever blocking the loop.

    Args:
        fd: where to, stderr by default.
        level: the least level that is written.
        fields: what every line carries, such as the server's name.
    """

    def __init__(self, fd: int = 2, *, level: str = "info", **fields: object) -> None:
        self._fd = fd
        self._least = _LEVELS.index(level)
        self._fields = fields
        self._pending = bytearray()
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._chunk = FILE_CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else PIPE_CHUNK
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._constant = "".join(f"{json.dumps(key)}:{json.dumps(value)}," for key, value in fields.items())
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

    def debug(self, event: str, **fields: object) -> None:
        """Write `event` for a developer."""
        self._write(0, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write `event`: something happened as it should."""
        self._write(1, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write `event`: someone may have to look."""
        self._write(2, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write `event`: something that should not happen."""
        self._write(3, event, fields)

    def request(
        self,
        *,
        edge: str,
        request_id: str,
        route: str,
        operation: str,
        code: str,
        seconds: float,
        size_in: int,
        size_out: int,
    ) -> None:
        """Write one line about an answered request; made by hand, since there is one for each.

        `request_id` and `operation` must have been checked: nothing here is escaped.
        """
        level = "error" if code == "internal" else "info"
        if _LEVELS.index(level) < self._least:
            return
        self._append(
            f'{{"t":{time.time():.3f},"level":"{level}","event":"request",{self._constant}"edge":"{edge}",'
            f'"request_id":"{request_id}","route":"{route}","operation":"{operation}","code":"{code}",'
            f'"ms":{seconds * 1000:.3f},"bytes_in":{size_in},"bytes_out":{size_out}}}'.encode()
        )

    def flush(self) -> None:
        """Write out what is pending, as far as the reader takes it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending = self._pending
        try:
            while pending and self._poll.poll(0):
                del pending[: os.write(self._fd, pending[: self._chunk])]
        except OSError:
            pending.clear()  # nobody will ever read stderr again

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if level < self._least:
            return
        line = {"t": round(time.time(), 3), "level": _LEVELS[level], "event": event, **self._fields, **fields}
        self._append(self._encode(line).encode(errors="replace"))
        if level >= 2:
            self.flush()

    def _append(self, line: bytes) -> None:
        if len(self._pending) + len(line) > MAX_PENDING:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._write(2, "log_dropped", {"lines": dropped})
        self._pending += line
        self._pending += b"\n"
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._expired)
            except RuntimeError:
                self.flush()

    def _expired(self) -> None:
        self._timer = None
        self.flush()


class _Forward(logging.Handler):
    """Sends what libraries log with the standard module to a :class:`JsonLog`, without its arguments.

    asyncio quotes the arguments of a failing callback, which can be received bytes; so a message is cut
    at its first bracket or quote, and of an exception only its type and place are kept.
    """

    def __init__(self, log: JsonLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = str(record.msg)
        for mark in "(\n'\"<:":
            message = message.partition(mark)[0]
        fields: dict[str, object] = {"logger": record.name, "message": message[:120].strip()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = type(record.exc_info[1]).__name__
            frames = traceback.extract_tb(record.exc_info[2])
            if frames:
                fields["at"] = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", **fields)


def configure_logging(server: str, *, level: str = "info", fd: int | None = None) -> JsonLog:
    """Return the log of this server's process; what libraries log goes there too.

    Args:
        server: "manager" or "gateway", a field of every line.
        level: the least level written: debug, info, warning or error.
        fd: the descriptor; stderr where None.
    """
    log = JsonLog(sys.stderr.fileno() if fd is None else fd, level=level, server=server)
    root = logging.getLogger()
    root.handlers[:] = [_Forward(log)]
    root.setLevel(logging.WARNING)
    return log
