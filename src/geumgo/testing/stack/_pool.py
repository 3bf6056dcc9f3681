"""The stack's pool: its keys, its callers, its measured configuration, its image (design, "Birth of a pool")."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from geumgo import image, keys
from geumgo._base import SystemClock
from geumgo.keys import pool as birth
from geumgo.testing.stack._process import StackError

__all__ = ("CALLERS", "DATA_CONTEXT", "POOL", "PURPOSE", "REGION", "PoolRecord", "StackPool")

POOL = "local"
PURPOSE = "customers"
REGION = "ap-northeast-2"
DATA_CONTEXT = {"app": "crm"}
CALLERS = ("records", "dpo", "crm")
"""`records` de-identifies plain fields under any policy; `dpo` re-identifies; `crm` also hands in fields
that it encrypted under its own data key, and so only under the policies that the image lists."""
CANCEL_INTERVAL = 0.1
"""Seconds between two attempts to end what a cancelled build runs: after one program it may start another."""


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """What is remembered of a pool: its KMS keys and the image that its key is released to."""

    key_id: str
    data_key_id: str
    policies: tuple[str, ...]
    endpoint: str
    pcr0: str = ""


@dataclass(frozen=True, slots=True)
class StackPool:
    """A pool in the stack's state folder.

    Args:
        state: the folder.
        endpoint: the key service's address.
        policies: SHA-256 of each compiled policy that `crm` may bring, in hex.
    """

    state: Path
    endpoint: str
    policies: tuple[str, ...] = ()

    @property
    def configuration_path(self) -> Path:
        """The measured configuration, as it goes into the image."""
        return self.state / "measured.json"

    @property
    def eif(self) -> Path:
        """The enclave image."""
        return self.state / "enclave.eif"

    @property
    def ca(self) -> Path:
        """The key service's certificate authority."""
        return self.state / "kms" / "ca.pem"

    @property
    def credentials(self) -> Path:
        """AWS credentials of the enclaves' parents."""
        return self.state / "kms" / "credentials-parent.json"

    @property
    def admin(self) -> str:
        """ARN of the administrator, who creates the pool."""
        return str(self._admin_file()["principal"])

    def _admin_file(self) -> dict[str, str]:
        content: dict[str, str] = json.loads((self.state / "kms" / "credentials.json").read_bytes())
        return content

    def caller(self, name: str) -> keys.CallerKey:
        """Return the key of one of `CALLERS`, made at first use.

        Raises:
            StackError: the stack has no such caller.
        """
        if name not in CALLERS:
            raise StackError(f"the stack has no caller {name!r}", fix=f"Its callers: {', '.join(CALLERS)}")
        path = self.state / "callers" / f"{name}.pem"
        if not path.is_file():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(keys.CallerKey.generate(name).to_pem())
        return keys.CallerKey.from_pem(path.read_bytes(), name)

    def kms(self) -> keys.KmsClient:
        """Return a client of the key service with the administrator's credentials."""

        async def credentials() -> keys.Credentials:
            content = self._admin_file()
            return keys.Credentials(content["access_key_id"], content["secret_access_key"])

        return keys.KmsClient(
            endpoint=self.endpoint,
            region=REGION,
            ca_pem=self.ca.read_text(),
            credentials=credentials,
            dial=keys.tcp_dial,
            clock=SystemClock(),
        )

    def record(self) -> PoolRecord:
        """Return what is remembered.

        Raises:
            StackError: there is no pool yet.
        """
        try:
            content = json.loads((self.state / "pool.json").read_text())
            return PoolRecord(**{**content, "policies": tuple(content["policies"])})
        except (OSError, ValueError, TypeError, KeyError):
            raise StackError(f"there is no pool under {self.state}", fix="Start one: geumgo up") from None

    async def create(self) -> PoolRecord:
        """Make the pool's key under its first policy, the wrapped keys and the measured configuration."""
        kms = self.kms()
        data_key_id = await kms.create_key(
            _data_key_policy(self.admin), description="Fields that applications encrypt"
        )
        grant = keys.KeyGrant(data_key_id, DATA_CONTEXT)
        material = await birth.create_pool(
            kms,
            pool=POOL,
            purposes=[PURPOSE],
            operations={
                "deidentify": keys.Operation(callers=("records", "crm")),
                "reidentify": keys.Operation(callers=("dpo",)),
                "decrypt": keys.Operation(callers=("crm",)),
                "echo": keys.Operation(open=True),
            },
            callers={
                "records": keys.Caller(self.caller("records").public_bytes, (PURPOSE,), "any"),
                "dpo": keys.Caller(self.caller("dpo").public_bytes, (PURPOSE,), "any"),
                "crm": keys.Caller(self.caller("crm").public_bytes, (PURPOSE,), self.policies, (grant,)),
            },
            kms_settings=keys.KmsSettings(endpoint=self.endpoint, region=REGION, ca=self.ca.read_text()),
            admin=self.admin,
        )
        self.configuration_path.write_bytes(material.configuration.to_json())
        record = PoolRecord(material.key_id, data_key_id, self.policies, self.endpoint)
        self._remember(record)
        return record

    async def build(self, progress: Callable[[str, int, int], None]) -> image.BuiltImage:
        """Build the image around the measured configuration, in a thread.

        Cancelling ends it, with the programs that it runs, and waits until it has ended.
        """
        cancelled = False

        def step(what: str, done: int, total: int) -> None:
            if cancelled:
                raise StackError("the build was cancelled", code="cancelled")
            progress(what, done, total)

        def build() -> image.BuiltImage:
            return image.build_enclave_image(
                output=self.eif, configuration=self.configuration_path.read_bytes(), progress=step
            )

        building = asyncio.ensure_future(asyncio.to_thread(build))
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            cancelled = True
            while not building.done():
                image.end_programs()
                await asyncio.wait((building,), timeout=CANCEL_INTERVAL)
            if not building.cancelled():
                building.exception()  # it has one, or is done; either way nobody asks any more
            raise

    async def release(self, record: PoolRecord, measurements: image.Measurements) -> None:
        """Write the last policies: `Decrypt` for an enclave with these PCRs; nobody can write another."""
        pcrs = {"PCR0": measurements.pcr0, "PCR1": measurements.pcr1, "PCR2": measurements.pcr2}
        kms = self.kms()
        await birth.release(kms, record.key_id, pcrs, self.admin)
        await kms.put_key_policy(record.data_key_id, _data_key_policy(self.admin, measurements.pcr0))
        self._remember(
            PoolRecord(record.key_id, record.data_key_id, record.policies, record.endpoint, measurements.pcr0)
        )

    async def open_or_build(self, progress: Callable[[str, int, int], None]) -> image.BuiltImage:
        """Return the image of the pool that is there, or of a new pool.

        A pool is used again while the same code and configuration still make the image that its key is
        released to; after a change of either, only a new pool can have a key.
        """
        try:
            known = self.record()
        except StackError:
            known = None
        if known and known.pcr0 and known.policies == self.policies and known.endpoint == self.endpoint:
            built = await self.build(progress)
            if built.measurements.pcr0 == known.pcr0:
                return built
        record = await self.create()
        built = await self.build(progress)
        await self.release(record, built.measurements)
        return built

    def _remember(self, record: PoolRecord) -> None:
        part = self.state / "pool.json.part"
        part.write_text(json.dumps(asdict(record), indent=2))
        part.replace(self.state / "pool.json")


def _data_key_policy(admin: str, pcr0: str | None = None) -> str:
    """Applications make data keys under this key; only the image decrypts, once it has a measurement."""
    account = admin.rpartition(":")[0]
    statements: list[dict[str, object]] = [
        {
            "Sid": "Applications",
            "Effect": "Allow",
            "Principal": {"AWS": admin},
            "Action": ["kms:DescribeKey", "kms:GenerateDataKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"],
            "Resource": "*",
        }
    ]
    if pcr0:
        condition = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": pcr0}}
        statements.append(
            {
                "Sid": "Enclave",
                "Effect": "Allow",
                "Principal": {"AWS": f"{account}:root"},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": condition,
            }
        )
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
