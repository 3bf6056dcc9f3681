"""Tables as text: CSV (RFC 4180) and JSON Lines, read and written row by row.

Readers yield numbered rows and name what is wrong with a row instead of ending at it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from geumgo.client.errors import FileError

__all__ = ("MAX_CELL", "MAX_COLUMNS", "MAX_LINE", "BadRow", "Batch", "Row", "TableFormat", "format_of")

MAX_CELL = 1 << 20
"""Characters in one cell: room for a long memo, while one missing quote can't swallow a whole file."""
MAX_LINE = 4 << 20
"""Bytes in one line of JSON Lines."""
MAX_COLUMNS = 1024
"""Columns of a table."""

Cell = str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the file (1 is the first after a header) and its cells by column."""

    number: int
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be read as one: its number and a stable code."""

    number: int
    code: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows with the same columns, in the file's order, at most so many."""

    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]


class TableFormat(Protocol):
    """Reads and writes one format."""

    name: str

    def read(self, file: IO[str], source: Path) -> Iterator[Row | BadRow]:
        """Yield the rows of `file`."""
        ...

    def header(self, columns: Sequence[str]) -> str:
        """Return what stands before the first row."""
        ...

    def lines(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
        """Return `rows` as text."""
        ...


class _Text:
    """Collects the lines that csv.writer writes, one a call, and ends each with a plain newline.

    The writer is told CRLF, since only then does it quote a cell with a lone carriage return.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text.removesuffix("\r\n") + "\n")
        return len(text)


class Csv:
    """Comma-separated values with a header line. An empty cell is an empty string."""

    name = "csv"

    def read(self, file: IO[str], source: Path) -> Iterator[Row | BadRow]:
        csv.field_size_limit(MAX_CELL)
        reader = csv.reader(file, strict=True)
        number = 0
        try:
            columns = tuple(next(reader, ()))
            _check_columns(columns, source)
            for cells in reader:
                if not cells:
                    continue
                number += 1
                if len(cells) != len(columns):
                    yield BadRow(number, "wrong_number_of_cells")
                else:
                    yield Row(number, columns, tuple(cells))
        except csv.Error as error:
            raise FileError(
                f"{source}: line {reader.line_num} is not CSV ({error})",
                fix="A quote that isn't closed? Everything behind it would be one cell.",
                code="bad_csv",
            ) from None

    def header(self, columns: Sequence[str]) -> str:
        return self.lines(columns, [columns])

    def lines(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
        text = _Text()
        csv.writer(text, lineterminator="\r\n").writerows(
            ["" if cell is None else cell for cell in row] for row in rows
        )
        return "".join(text.parts)


class JsonLines:
    """One JSON object a line. Numbers and booleans become their JSON text; null stays null."""

    name = "jsonl"

    def read(self, file: IO[str], source: Path) -> Iterator[Row | BadRow]:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise FileError(
                    f"{source}: line {number + 1} is over {MAX_LINE} characters", code="too_large"
                )
            if not line.strip():
                continue
            number += 1
            yield _parse_object(line, number)

    def header(self, columns: Sequence[str]) -> str:
        return ""

    def lines(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
        return "".join(
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
        )


def format_of(path: Path, named: str | None = None) -> TableFormat:
    """Return the format that `named` names or the ending of `path` says."""
    key = (named or path.suffix.lstrip(".")).lower()
    found: dict[str, TableFormat] = {"csv": Csv(), "jsonl": JsonLines(), "ndjson": JsonLines()}
    if key not in found:
        raise FileError(
            f"{path.name}: the format is neither csv nor jsonl",
            fix="Name it with --format.",
            code="bad_format",
        )
    return found[key]


def _check_columns(columns: tuple[str, ...], source: Path) -> None:
    if not columns or any(not name for name in columns):
        raise FileError(
            f"{source}: the first line must name every column", fix="Add a header line.", code="bad_header"
        )
    if len(columns) > MAX_COLUMNS:
        raise FileError(f"{source}: {len(columns)} columns are over {MAX_COLUMNS}", code="too_large")
    if len(set(columns)) != len(columns):
        raise FileError(f"{source}: two columns have the same name", code="bad_header")


def _parse_object(line: str, number: int) -> Row | BadRow:
    try:
        value = json.loads(line, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return BadRow(number, "not_json")
    if not isinstance(value, _Pairs) or not value or len(value) > MAX_COLUMNS:
        return BadRow(number, "not_an_object")
    columns = tuple(name for name, _ in value)
    if len(set(columns)) != len(columns) or "" in columns:
        return BadRow(number, "duplicate_name")
    cells: list[Cell] = []
    for _, cell in value:
        if isinstance(cell, list):  # _Pairs is a list, too
            return BadRow(number, "nested_value")
        cells.append(cell if cell is None or isinstance(cell, str) else json.dumps(cell))
    return Row(number, columns, tuple(cells))


class _Pairs(list[tuple[str, object]]):
    """A JSON object as its pairs, so that a name that stands twice is seen."""
