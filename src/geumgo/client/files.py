"""A whole file through an operation: bounded memory, the output complete or absent."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from geumgo.client._async import AsyncClient
from geumgo.client._tables import BadRow, Batch, Cell, Row, format_of
from geumgo.client.errors import AnswerRejected, FileError

__all__ = ("BATCH_BYTES", "BATCH_ROWS", "MAX_NAMED_REJECTS", "FileResult", "RejectedRow", "process_file")

BATCH_ROWS = 250
"""Rows of one sealed request: sealing costs little beside the work, and progress stays smooth."""
BATCH_BYTES = 1 << 20
"""Characters of one sealed request, where rows are long."""
MAX_NAMED_REJECTS = 10_000
"""Rejected rows that a result names one by one; more are counted, and all stand in the rejects file."""


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not in the output: its number in the input, the column if one is to blame, a code."""

    row: int
    field: str
    code: str


@dataclass(slots=True)
class FileResult:
    """What became of a file."""

    output: Path
    read: int = 0
    written: int = 0
    rejected_count: int = 0
    rejected: list[RejectedRow] = field(default_factory=list)


class _Answer(msgspec.Struct):
    columns: list[str]
    rows: list[list[str | None]]
    rejected: list[_AnswerRejection]


class _AnswerRejection(msgspec.Struct):
    row: int
    field: str
    code: str


_NOT_A_TABLE = "Name an operation that takes a table and gives one, as `deidentify` does."
_decode = msgspec.json.Decoder(_Answer).decode


async def process_file(
    client: AsyncClient,
    operation: str,
    source: Path,
    output: Path,
    *,
    policy: bytes,
    format: str | None = None,
    rejects: Path | None = None,
    batch_rows: int = BATCH_ROWS,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FileResult:
    """Send the table in `source` through `operation` and write the answer to `output`.

    `output` appears when it is whole; before that, and after any failure, there is none (an older file
    of that name stays untouched). Rejected rows are left out of it and named in the result, and in
    `rejects` (JSON Lines: row, field, code) if given.

    Args:
        client: calls the pool.
        operation: `deidentify` or `reidentify`, or another with their request and response.
        source: CSV with a header, or JSON Lines.
        output: the file to make, in the format of `source`.
        policy: the compiled policy; every request carries it inside its seal.
        format: `csv` or `jsonl` where the file's ending doesn't say.
        rejects: where to list the rejected rows.
        batch_rows: rows of one request.
        timeout: seconds for each request.
        progress: called with rows and bytes of the input that are done.

    Raises:
        FileError: the input can't be read or the output can't be written (disk full, no permission).
        ClientError: see :meth:`AsyncClient.call`.
    """
    table = format_of(source, format)
    result = FileResult(output)
    sent: list[Batch] = []
    with _opened(source) as file, _complete_or_absent(output) as out, _maybe(rejects) as rejected_out:
        size = os.fstat(file.fileno()).st_size

        def reject(row: int, name: str, code: str) -> None:
            result.rejected_count += 1
            if len(result.rejected) < MAX_NAMED_REJECTS:
                result.rejected.append(RejectedRow(row, name, code))
            if rejected_out:
                _write(rejected_out, rejects or output, _rejected_line(row, name, code))

        def bodies() -> Iterator[bytes]:
            for item in _batches(table.read(file, source), batch_rows):
                if isinstance(item, BadRow):
                    result.read += 1
                    reject(item.number, "", item.code)
                    continue
                result.read += len(item.rows)
                sent.append(item)
                yield msgspec.json.encode({"columns": item.columns, "rows": item.rows})

        header: tuple[str, ...] | None = None
        answers: AsyncIterator[bytes] = client.stream(
            operation, _guarded(bodies(), source), policy=policy, timeout=timeout
        )
        async for answer in answers:
            batch = sent.pop(0)
            columns, rows, lost = _checked(answer, batch)
            if header is None:
                _write(out, output, table.header(columns))
                header = columns
            elif table.name == "csv" and columns != header:
                raise AnswerRejected(
                    "two answers have different columns",
                    fix="Write JSON Lines, where rows may differ.",
                    code="malformed",
                )
            _write(out, output, table.lines(columns, rows))
            for index, name, code in lost:
                reject(batch.numbers[index], name, code)
            result.written += len(rows)
            if progress:
                progress(result.written + result.rejected_count, min(size, file.buffer.tell()))  # type: ignore[attr-defined]
    return result


def _batches(rows: Iterator[Row | BadRow], most: int) -> Iterator[Batch | BadRow]:
    """Group rows with the same columns; bad rows pass at once, since only their number matters."""
    held: list[Row] = []
    size = 0
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        if held and (row.columns != held[0].columns or len(held) >= most or size >= BATCH_BYTES):
            yield _batch(held)
            held, size = [], 0
        held.append(row)
        size += sum(len(cell) for cell in row.cells if cell)
    if held:
        yield _batch(held)


def _batch(rows: list[Row]) -> Batch:
    return Batch(rows[0].columns, tuple(row.number for row in rows), tuple(row.cells for row in rows))


def _checked(
    answer: bytes, batch: Batch
) -> tuple[tuple[str, ...], list[list[Cell]], list[tuple[int, str, str]]]:
    """Return columns, rows and rejections of an answer that accounts for every row of its batch."""
    try:
        parsed = _decode(answer)
    except (msgspec.DecodeError, ValueError):
        raise AnswerRejected(
            "the operation's answer is not a table", fix=_NOT_A_TABLE, code="malformed"
        ) from None
    lost = {rejection.row for rejection in parsed.rejected}
    whole = (
        len(lost) == len(parsed.rejected)
        and all(0 <= row < len(batch.rows) for row in lost)
        and len(parsed.rows) + len(lost) == len(batch.rows)
        and all(len(row) == len(parsed.columns) for row in parsed.rows)
    )
    if not whole:
        raise AnswerRejected(
            "the operation's answer does not account for every row", fix=_NOT_A_TABLE, code="malformed"
        )
    return tuple(parsed.columns), parsed.rows, [(r.row, r.field, r.code) for r in parsed.rejected]


def _rejected_line(row: int, name: str, code: str) -> str:
    return msgspec.json.encode({"row": row, "field": name, "code": code}).decode() + "\n"


def _guarded(bodies: Iterator[bytes], source: Path) -> Iterator[bytes]:
    """Map what reading raises."""
    try:
        yield from bodies
    except UnicodeDecodeError:
        raise FileError(
            f"{source} is not UTF-8", fix="Convert it, for example: iconv -f cp949 -t utf-8", code="not_utf8"
        ) from None
    except OSError as error:
        raise FileError(f"{source} can't be read: {error.strerror}") from None


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[IO[str]]:
    try:
        file = source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise FileError(f"{source} can't be read: {error.strerror}", fix="Does the file exist?") from None
    with file:
        yield file


@contextlib.contextmanager
def _complete_or_absent(output: Path) -> Iterator[IO[str]]:
    """Write beside `output` and rename at the end, so that a reader never meets half a file."""
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.", suffix=".part")
    except OSError as error:
        raise FileError(
            f"{output} can't be written: {error.strerror}", fix="Does its folder exist?"
        ) from None
    part = Path(name)
    try:
        # A full disk is often met only when the buffer is flushed, so that belongs to the guarded part.
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            _sync(file, output)
        part.chmod(0o600)
        part.replace(output)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _cannot_write(output, error) from None
        raise


def _sync(file: IO[str], output: Path) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(output, error) from None


def _write(file: IO[str], output: Path, text: str) -> None:
    try:
        file.write(text)
    except OSError as error:
        raise _cannot_write(output, error) from None


def _cannot_write(output: Path, error: OSError) -> FileError:
    return FileError(
        f"{output} can't be written: {error.strerror}",
        why="The output is complete or absent: nothing was left behind.",
        fix="Free some space or choose another folder, and run the same command again.",
        code="cannot_write",
    )


@contextlib.contextmanager
def _maybe(path: Path | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    with _complete_or_absent(path) as file:
        yield file
