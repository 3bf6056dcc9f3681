"""`geumgo call`: an operation on a file, sealed to a verified enclave."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from geumgo._base import GeumgoError
from geumgo.cli import _output, _target
from geumgo.client import AsyncClient, FileResult, process_file
from geumgo.client.policy import compile_policy

__all__ = ("call",)

TABLES = frozenset({"deidentify", "reidentify"})
"""Operations that work on the rows of a table."""
SHOWN_REJECTS = 10


def call(
    operation: Annotated[
        str, typer.Argument(help="deidentify, reidentify, decrypt, echo, or one of your own.")
    ],
    source: Annotated[Path, typer.Option("--in", help="Input: CSV or JSON Lines; another operation's body.")],
    output: Annotated[Path | None, typer.Option("--out", help="Output; it is complete or absent.")] = None,
    policy: Annotated[Path | None, typer.Option(help="De-identification policy (YAML).")] = None,
    format: Annotated[
        str | None, typer.Option(help="csv or jsonl, where the file's ending doesn't say.")
    ] = None,
    rejects: Annotated[Path | None, typer.Option(help="List the rejected rows here (JSON Lines).")] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one sealed request.")] = 250,
    open_: Annotated[
        bool, typer.Option("--open", help="Unsealed: for operations that are open to all.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 30.0,
    caller: _target.Caller = "records",
    key: _target.CallerKeyFile = None,
    stack: _target.StackFolder = None,
    gateway: _target.Gateway = None,
    root: _target.Root = None,
    pcr0: _target.Pcr0 = None,
    json: _output.Json = False,
) -> None:
    """Call an operation: verify the enclave, seal the input to it, open the answer.

    Example: geumgo call deidentify --policy policy.yaml --in customers.csv --out safe.csv
    """
    client = _target.connect(caller=caller, key=key, stack=stack, gateways=gateway, root=root, pcr0=pcr0)
    compiled = compile_policy(_text(policy), source=str(policy)).to_bytes() if policy else b""
    if operation not in TABLES:
        asyncio.run(_body(client, operation, source, output, compiled, open_=open_, timeout=timeout))
        return
    if output is None or policy is None:
        raise GeumgoError(f"{operation} needs --policy and --out", code="usage")
    began = time.monotonic()
    with _output.progress(operation, total=source.stat().st_size if source.is_file() else None) as bar:

        async def run() -> FileResult:
            async with client:
                return await process_file(
                    client,
                    operation,
                    source,
                    output,
                    policy=compiled,
                    format=format,
                    rejects=rejects,
                    batch_rows=batch,
                    timeout=timeout,
                    progress=lambda rows, size: bar.update(bar.task_ids[0], completed=size),
                )

        result = asyncio.run(run())
        bar.update(bar.task_ids[0], total=1, completed=1)
    seconds = time.monotonic() - began
    show(result, seconds, json=json)


def show(result: FileResult, seconds: float, *, json: bool) -> None:
    """Print what became of a file."""
    if json:
        rejected = [{"row": r.row, "field": r.field, "code": r.code} for r in result.rejected]
        counts = {"read": result.read, "written": result.written, "rejected": result.rejected_count}
        _output.print_json(
            {**counts, "rows_rejected": rejected, "output": str(result.output), "seconds": seconds}
        )
        return
    _output.out.print(
        f"{result.written} of {result.read} rows written to {result.output} "
        f"({result.read / max(seconds, 1e-9):,.0f} rows/s)"
    )
    if result.rejected_count:
        _output.table(
            ("row", "field", "code"),
            [(r.row, r.field, r.code) for r in result.rejected[:SHOWN_REJECTS]],
            title=f"{result.rejected_count} rows rejected",
        )
        if result.rejected_count > SHOWN_REJECTS:
            _output.out.print("(the first ones; --rejects FILE lists all)")


async def _body(
    client: AsyncClient,
    operation: str,
    source: Path,
    output: Path | None,
    policy: bytes,
    *,
    open_: bool,
    timeout: float,
) -> None:
    try:
        body = source.read_bytes()
    except OSError as error:
        raise GeumgoError(f"{source} can't be read: {error.strerror}", code="file") from None
    async with client:
        if open_:
            answer = await client.call_open(operation, body, timeout=timeout)
        else:
            answer = await client.call(operation, body, policy=policy, timeout=timeout)
    if output is None:
        sys.stdout.buffer.write(answer)
        return
    _write(output, answer)


def _write(output: Path, answer: bytes) -> None:
    """Write an answer, which may be plaintext, for this user alone; the file is complete or as it was."""
    part = ""
    try:
        descriptor, part = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(answer)
        os.replace(part, output)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise GeumgoError(f"{output} can't be written: {error.strerror}", code="cannot_write") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GeumgoError(f"{path} can't be read ({type(error).__name__})", code="file") from None
