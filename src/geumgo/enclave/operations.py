"""The operations that every Geumgo image has: `deidentify`, `reidentify`, `decrypt`, `echo`.

Bodies are JSON in UTF-8. Tables are columns and rows of text or null; a row that can't be worked on is left
out of the answer and named in `rejected` by its number in the request, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from geumgo._base import GeumgoError
from geumgo.enclave._errors import Refused
from geumgo.enclave.app import Enclave
from geumgo.enclave.context import Context

if TYPE_CHECKING:
    from geumgo.deid import Result

__all__ = (
    "UNREADABLE",
    "Plaintexts",
    "Rejected",
    "Table",
    "TableResult",
    "Values",
    "app",
    "decrypt",
    "deidentify",
    "echo",
    "reidentify",
)

UNREADABLE = "envelope_unreadable"
"""Code of a rejected row whose encrypted field is no envelope, doesn't open, or holds no UTF-8."""

app = Enclave()
"""The program with these four operations."""


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """Records."""

    columns: list[str]
    rows: list[list[str | None]]


class Rejected(msgspec.Struct):
    """A row that is not in the answer: its number, the field that stopped it, and why."""

    row: int
    field: str
    code: str


class TableResult(msgspec.Struct):
    """Records, and what was left out."""

    columns: list[str]
    rows: list[list[str | None]]
    rejected: list[Rejected]


class Values(msgspec.Struct, forbid_unknown_fields=True):
    """Envelopes, base64 text."""

    values: list[str]


class Plaintexts(msgspec.Struct):
    """What the envelopes held, in order."""

    values: list[str]


@app.operation("echo", open=True, idempotent=True)
async def echo(request: bytes) -> bytes:
    """Return the body as it came."""
    return request


@app.operation("decrypt", idempotent=True)
async def decrypt(request: Values, context: Context) -> Plaintexts:
    """Return the plaintext of fields that an application encrypted."""
    plaintexts = []
    for index, plaintext in enumerate(await context.decrypt(request.values)):
        text = _text(plaintext)
        if text is None:
            raise Refused(
                "invalid_request",
                f"value {index} is no envelope, does not open, or holds no text",
                fix="Make envelopes with geumgo.keys.encrypt_field or geumgo.client.",
            )
        plaintexts.append(text)
    return Plaintexts(plaintexts)


@app.operation("deidentify", idempotent=True)
async def deidentify(request: Table, context: Context) -> TableResult:
    """De-identify records under the sealed policy; fields that came encrypted are opened first."""
    engine = await context.engine()
    rows, numbers, rejected = await _opened(request, context.policy.encrypted_fields, context)
    return await context.run(_apply, engine.deidentify, request.columns, rows, numbers, rejected)


@app.operation("reidentify", idempotent=True)
async def reidentify(request: Table, context: Context) -> TableResult:
    """Turn reversibly encrypted fields and tokens back, under the policy that made them."""
    engine = await context.engine()
    numbers = range(len(request.rows))
    return await context.run(_apply, engine.reidentify, request.columns, request.rows, numbers, [])


async def _opened(
    table: Table, encrypted: frozenset[str], context: Context
) -> tuple[Sequence[Sequence[str | None]], Sequence[int], list[Rejected]]:
    """Return rows with their encrypted fields opened, their numbers, and the rows that don't open."""
    places = [index for index, column in enumerate(table.columns) if column in encrypted]
    if not places:
        return table.rows, range(len(table.rows)), []
    width = len(table.columns)
    cells = [
        (number, index)
        for number, row in enumerate(table.rows)
        if len(row) == width  # the engine rejects the others
        for index in places
        if row[index] is not None
    ]
    plaintexts = await context.decrypt([table.rows[number][index] or "" for number, index in cells])
    unreadable: dict[int, int] = {}
    for (number, index), plaintext in zip(cells, plaintexts, strict=True):
        text = _text(plaintext)
        if text is None:
            unreadable.setdefault(number, index)
        else:
            table.rows[number][index] = text
    numbers = [number for number in range(len(table.rows)) if number not in unreadable]
    rejected = [Rejected(number, table.columns[index], UNREADABLE) for number, index in unreadable.items()]
    return [table.rows[number] for number in numbers], numbers, rejected


def _text(plaintext: bytes | None) -> str | None:
    try:
        return None if plaintext is None else plaintext.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _apply(
    work: Callable[[Sequence[str], Sequence[Sequence[str | None]]], Result],
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    numbers: Sequence[int],
    rejected: list[Rejected],
) -> TableResult:
    try:
        result = work(columns, rows)
    except GeumgoError as error:
        # The engine's own codes are not codes of the wire; its texts name fields, never values.
        raise Refused("invalid_request", error.diagnostics()) from None
    rejected += [Rejected(numbers[item.row], item.field, item.code) for item in result.rejected]
    rejected.sort(key=lambda item: item.row)
    return TableResult(list(result.columns), result.rows, rejected)
