"""`geumgo pool`: the birth of a pool, its release to an image, and the audit of its key."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json as json_
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from geumgo import image, keys
from geumgo._base import GeumgoError, SystemClock
from geumgo.cli import _output
from geumgo.image.configured import check_configuration
from geumgo.keys import pool as birth

__all__ = ("app",)

app = typer.Typer(no_args_is_help=True, help="Pools: make the key, release it to an image, audit it.")

Admin = Annotated[str, typer.Option(help="ARN of the administrator (aws sts get-caller-identity).")]
Measured = Annotated[Path, typer.Option(help="The pool's measured configuration.")]
Eif = Annotated[Path, typer.Option(help="The image that was built around it.")]
Parents = Annotated[
    list[str] | None, typer.Option("--parent", help="ARN of the role of the enclaves' parents.")
]


@app.command()
def create(
    config: Annotated[Path, typer.Option(help="pool, purposes, operations, callers, kms (YAML).")],
    admin: Admin,
    output: Annotated[Path, typer.Option("--out", help="Where the measured configuration goes.")],
    json: _output.Json = False,
) -> None:
    """Make the pool's KMS key, have KMS make its seed and purpose keys, write the measured configuration.

    AWS credentials come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.

    Example: geumgo pool create --config pool.yaml --admin arn:aws:iam::123456789012:role/ops --out measured.json
    """
    wanted = _load(config)
    settings = _settings(wanted)
    try:
        operations = {name: keys.Operation(**entry) for name, entry in dict(wanted["operations"]).items()}
        callers = {name: _caller(entry) for name, entry in dict(wanted["callers"]).items()}
        pool, purposes = str(wanted["pool"]), [str(name) for name in wanted.get("purposes") or ()]
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise GeumgoError(
            f"{config} is not a pool's configuration ({type(error).__name__}: {error})",
            fix="docs/pools.md shows one.",
            code="bad_pool_file",
        ) from None
    material = asyncio.run(
        birth.create_pool(
            _kms(settings),
            pool=pool,
            purposes=purposes,
            operations=operations,
            callers=callers,
            kms_settings=settings,
            egress=[str(place) for place in wanted.get("egress") or ()],
            admin=admin,
        )
    )
    output.write_bytes(material.configuration.to_json())
    shown = {
        "key_id": material.key_id,
        "measured": str(output),
        "sha384": material.configuration.digest().hex(),
    }
    _show(shown, json=json)


@app.command()
def release(
    measured: Measured, eif: Eif, admin: Admin, parent: Parents = None, json: _output.Json = False
) -> None:
    """Write the key's last policy: Decrypt for this image alone. Nobody can write another afterwards.

    Example: geumgo pool release --measured measured.json --eif enclave.eif --admin ARN
    """
    source = _bytes(measured)
    configuration = keys.MeasuredConfiguration.from_json(source)
    if configuration.kms is None or configuration.pool_key is None:
        raise GeumgoError("this configuration names no key; there is nothing to release", code="no_pool_key")
    pcrs = _pcrs(eif, source)
    key_id = configuration.pool_key.key_id
    asyncio.run(birth.release(_kms(configuration.kms), key_id, pcrs, admin, parents=parent or ()))
    _show({"key_id": key_id, **pcrs}, json=json)


@app.command()
def audit(
    records: Annotated[
        list[Path], typer.Argument(help="Events in CloudTrail's form (JSON or JSON Lines), in order.")
    ],
    measured: Measured,
    admin: Admin,
    eif: Annotated[Path | None, typer.Option(help="The image that it was released to, if it was.")] = None,
    parent: Parents = None,
    json: _output.Json = False,
) -> None:
    """Compare what happened to the pool's key with what may happen to one. Exit status 1 if anything differs.

    Example: geumgo pool audit cloudtrail.json --measured measured.json --eif enclave.eif --admin ARN
    """
    source = _bytes(measured)
    configuration = keys.MeasuredConfiguration.from_json(source)
    if configuration.pool_key is None:
        raise GeumgoError("this configuration names no key; there is nothing to audit", code="no_pool_key")
    events = [event for path in records for event in _events(path)]
    findings = birth.audit(
        events,
        key_id=configuration.pool_key.key_id,
        admin=admin,
        pcrs=_pcrs(eif, source) if eif else None,
        parents=parent or (),
    )
    if json:
        _output.print_json([{"code": finding.code, "what": finding.what} for finding in findings])
    elif findings:
        _output.table(("code", "what"), [(finding.code, finding.what) for finding in findings])
    else:
        _output.out.print(f"{len(events)} events: the key was used as a pool's key may be")
    if findings:
        raise typer.Exit(1)


def _show(values: Mapping[str, object], *, json: bool) -> None:
    if json:
        _output.print_json(values)
    else:
        _output.pairs(values)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GeumgoError(f"{path} can't be read: {error.strerror}", code="file") from None


def _load(path: Path) -> Mapping[str, Any]:
    try:
        loaded = yaml.safe_load(_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise GeumgoError(f"{path} is not YAML", code="bad_pool_file") from None
    if not isinstance(loaded, dict):
        raise GeumgoError(f"{path} is not a pool's configuration", code="bad_pool_file")
    return loaded


def _settings(wanted: Mapping[str, Any]) -> keys.KmsSettings:
    try:
        kms = dict(wanted["kms"])
        ca = _bytes(Path(kms["ca_file"])).decode() if kms.get("ca_file") else ""
        return keys.KmsSettings(endpoint=str(kms["endpoint"]), region=str(kms["region"]), ca=ca)
    except (KeyError, TypeError, ValueError):
        raise GeumgoError("`kms` needs endpoint and region", code="bad_pool_file") from None


def _caller(entry: Mapping[str, Any]) -> keys.Caller:
    policies = entry.get("policies") or ()
    return keys.Caller(
        public_key=base64.b64decode(entry["public_key"], validate=True),
        purposes=tuple(entry.get("purposes") or ()),
        policies="any" if policies == "any" else tuple(policies),
        keys=tuple(
            keys.KeyGrant(grant["key_id"], dict(grant["context"])) for grant in entry.get("keys") or ()
        ),
    )


def _kms(settings: keys.KmsSettings) -> keys.KmsClient:
    async def credentials() -> keys.Credentials:
        try:
            return keys.Credentials(
                os.environ["AWS_ACCESS_KEY_ID"],
                os.environ["AWS_SECRET_ACCESS_KEY"],
                os.environ.get("AWS_SESSION_TOKEN") or None,
            )
        except KeyError as missing:
            raise GeumgoError(f"{missing.args[0]} is not set", code="no_credentials") from None

    return keys.KmsClient(
        endpoint=settings.endpoint,
        region=settings.region,
        ca_pem=settings.ca or None,
        credentials=credentials,
        dial=keys.tcp_dial,
        clock=SystemClock(),
    )


def _pcrs(path: Path, configuration: bytes) -> dict[str, str]:
    """Return the measurements of an image that holds this configuration and no other."""
    eif = image.read_eif(path)
    check_configuration(eif, configuration)
    measurements = image.measure(eif)
    return {"PCR0": measurements.pcr0, "PCR1": measurements.pcr1, "PCR2": measurements.pcr2}


def _events(path: Path) -> list[Mapping[str, Any]]:
    text = _bytes(path).decode("utf-8", "replace")
    try:
        whole = json_.loads(text)
        found = whole.get("Records", [whole]) if isinstance(whole, dict) else whole
    except ValueError:
        try:
            found = [json_.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise GeumgoError(f"{path} holds no events in JSON", code="file") from None
    return [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []
