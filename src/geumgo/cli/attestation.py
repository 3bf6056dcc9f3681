"""`geumgo attestation`: look at evidence in a file, and verify it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from geumgo._base import GeumgoError, SystemClock
from geumgo.attestation import Claims, Evidence, Statement, TrustRoots, Use, verify, verify_standalone
from geumgo.cli import _output
from geumgo.nitro import AttestationDocument

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="Evidence of enclaves: show what it says, verify it.")

_File = Annotated[
    Path,
    typer.Argument(
        help="What GET /v1/attestation answered (JSON), the same in CBOR, or a bare Nitro document."
    ),
]


@app.command()
def show(file: _File, json: _output.Json = False) -> None:
    """Print what evidence says, without verifying anything.

    Example: geumgo attestation show evidence.json
    """
    evidence = _read(file)
    document = AttestationDocument.parse(evidence.document)
    statement = None if evidence.statement is None else Statement.parse(evidence.statement)
    shown: dict[str, Any] = {
        "verified": False,
        "kind": evidence.kind,
        "module_id": document.module_id,
        "issued": _iso(document.timestamp_ms),
        "algorithm": document.cose.algorithm,
        **{f"pcr{i}": pcr.hex() for i, pcr in sorted(document.pcrs.items()) if i < 3 or any(pcr)},
        "nonce": _hex(document.nonce),
        "public_key": _hex(document.public_key),
        "user_data": _hex(document.user_data),
        "use": statement and statement.use.value,
        "suite": statement and statement.suite,
        "pool": statement and statement.pool,
        "configuration": statement and statement.configuration.hex(),
        "certificates": 1 + len(document.cabundle),
    }
    if json:
        _output.print_json(shown)
    else:
        _output.pairs(shown, title="NOT VERIFIED")


@app.command("verify")
def verify_command(
    file: _File,
    root: Annotated[
        Path | None, typer.Option(help="Trust this root certificate (PEM) in place of AWS's.")
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="The root is a simulator's.")] = False,
    at: Annotated[
        str,
        typer.Option(help='Time of the check: "now", "document" (its own), or like 2022-11-09T22:52:00Z.'),
    ] = "now",
    use: Annotated[
        Use | None, typer.Option(help="What the key is wanted for; by default what the statement says.")
    ] = None,
    nonce: Annotated[str | None, typer.Option(help="The nonce that was asked with, in hex.")] = None,
    max_age: Annotated[int, typer.Option(help="Seconds that the evidence may be old.", min=1)] = 300,
    json: _output.Json = False,
) -> None:
    """Verify evidence and print its claims; exit code 1 and the reason if it does not verify.

    Example: geumgo attestation verify document.cbor --at document
    """
    if simulated and root is None:
        raise typer.BadParameter("--simulated says what the root of --root is; give both")
    evidence = _read(file)
    roots = (
        TrustRoots.aws_nitro()
        if root is None
        else TrustRoots.from_pem(_read_bytes(root), simulated=simulated)
    )
    now_ms = _time(at, evidence)
    wanted = None if nonce is None else _from_hex(nonce)
    if evidence.statement is None and use is None:
        claims = verify_standalone(
            evidence.document, roots, now_ms=now_ms, nonce=wanted, max_age_ms=max_age * 1000
        )
    else:
        claims = verify(
            evidence,
            roots,
            now_ms=now_ms,
            nonce=wanted,
            use=use or Statement.parse(evidence.statement or b"").use,
            max_age_ms=max_age * 1000,
        )
    if json:
        _output.print_json({"verified": True, **claims.to_mapping()})
    else:
        _print_claims(claims)


def _print_claims(claims: Claims) -> None:
    values = claims.to_mapping()
    measurements = {
        name: value
        for name, value in values.pop("measurements").items()
        if name in ("pcr0", "pcr1", "pcr2") or value.strip("0")
    }
    statement = values.pop("statement") or {}
    statement.pop("key", None)  # it is `public_key`
    issued = {"issued": _iso(values.pop("issued_ms"))}
    _output.pairs({**values, **issued, **measurements, **statement}, title="verified")
    if claims.debug:
        _output.err.print("[bold yellow]debug[/] PCR0, 1 or 2 is zero: nothing is known about the code")
    if claims.simulated:
        _output.err.print("[bold yellow]simulated[/] no hardware stands behind this evidence")


def _read(file: Path) -> Evidence:
    return Evidence.from_bytes(_read_bytes(file))


def _read_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(1 << 20)  # more than evidence may have; it says so itself
    except OSError as error:
        raise GeumgoError(f"{file} can't be read: {error.strerror}", code="file") from None


def _time(text: str, evidence: Evidence) -> int:
    if text == "now":
        return SystemClock().now_ms()
    if text == "document":
        return AttestationDocument.parse(evidence.document).timestamp_ms
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("--at is now, document, or a time like 2022-11-09T22:52:00Z") from None
    zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)
    return round(zoned.timestamp() * 1000)


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise typer.BadParameter("--nonce is not hex") from None


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _iso(milliseconds: int) -> str:
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms after 1970"
