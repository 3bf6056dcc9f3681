"""The demo, step by step. It uses only what a user has: the stack, the client, the policy compiler."""

from __future__ import annotations

import asyncio
import csv
import importlib.resources
import json
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from geumgo import attestation, image, keys
from geumgo._base import GeumgoError
from geumgo.cli import _output
from geumgo.cli._birth import building, check_sandbox
from geumgo.cli._exclusive import exclusive
from geumgo.cli._recorder import Recorder
from geumgo.cli.stack import runtime_folder
from geumgo.client import AsyncClient, FileResult, process_file
from geumgo.client.policy import compile_policy
from geumgo.deid import CompiledPolicy
from geumgo.testing.stack import REFUSED, PoolRecord, Stack, StackSettings

__all__ = ("Demo",)

STEPS = 7
CHANGED = "changed"
REIDENTIFIED = 10
REFUSAL_TIMEOUT = 30.0
"""Seconds within which the changed image has started, asked and been refused."""
OUTPUT = "customers.deidentified.csv"
SUMMARY = "summary.json"
THIS_MACHINE = "PCRs hold on this machine only"
"""What every table with a measurement says where the image was built from this machine's files."""


@dataclass(slots=True)
class Summary:
    """What `summary.json` says."""

    pcr0: str = ""
    records: int = 0
    records_per_second: float = 0.0
    seconds: float = 0.0
    sandbox: str = ""
    output: str = ""
    changed_image: str = ""
    reidentify_refused: str = ""
    enclaves: int = 0
    gateways: int = 0
    this_machine_only: bool = False
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of each step."""


class Demo:
    """One run.

    Args:
        output: folder of the results; the stack's keys and logs go below it, anew each time.
        keep: leave the stack running.
        sandbox: which sandbox of the process backend.
    """

    def __init__(self, output: Path, *, keep: bool, sandbox: str) -> None:
        self.output = output
        self.keep = keep
        self.summary = Summary()
        state = output.resolve() / "state"
        self.stack = Stack(StackSettings(state, runtime_folder(state), sandbox=sandbox))
        self._step = 0
        self._began = time.monotonic()
        self._step_began = self._began

    async def run(self) -> None:
        """Run all steps and write the summary; the stack is stopped at the end or after a failure.

        Raises:
            GeumgoError: a step failed, or another demo runs in this folder.
        """
        fix = "Wait until it has ended, or name another folder: geumgo demo --output FOLDER"
        with exclusive(self.output, "another demo", fix=fix):
            await asyncio.to_thread(self._clean)
            await check_sandbox(self.stack.settings)
            await self._run()

    async def _run(self) -> None:
        try:
            policy = self._policy()
            record = await self._step1_pool()
            built = await self._step2_image(record)
            names = await self._step3_launch()
            async with self._client("records") as client:
                await self._step4_evidence(client)
                result = await self._step5_records(client, policy)
            await self._step6_proof(built, policy)
            self._step7_summary(result, names)
        except BaseException:
            await asyncio.to_thread(self.stack.stop)
            raise
        if not self.keep:
            with _output.progress("stopping the stack"):
                await asyncio.to_thread(self.stack.stop)

    # 1: key service and pool

    async def _step1_pool(self) -> PoolRecord:
        self._head("The key service and the pool's keys")
        with _output.progress("starting the KMS emulator"):
            await asyncio.to_thread(self.stack.start_kms)
            record = await self.stack.pool.create()
        _output.pairs(
            {
                "key service": self.stack.pool.endpoint,
                "pool key": record.key_id,
                "wrapped under it": "the pool's seed and the key of each purpose; nobody has seen them",
                "configuration": f"{self.stack.pool.configuration_path} (goes into the image, so it is measured)",
            }
        )
        return record

    # 2: image, measurements, and only then the policy

    async def _step2_image(self, record: PoolRecord) -> image.BuiltImage:
        self._head("The enclave image and the key's policy")
        with building() as step:
            built = await self.stack.pool.build(step)
        pcrs = built.measurements
        self.summary.this_machine_only = built.this_machine_only
        _output.pairs({"PCR0": pcrs.pcr0, "PCR1": pcrs.pcr1, "PCR2": pcrs.pcr2, **self._note()})
        await self.stack.pool.release(record, pcrs)
        size = built.path.stat().st_size / 1e6
        notes = dict(zip(("note", "note also"), built.notes, strict=False))
        _output.pairs(
            {
                "image": f"{built.path}, {size:.1f} MB",
                **notes,
                "key policy": "Decrypt for an enclave with these PCRs; nobody can write another",
            }
        )
        self.summary.pcr0 = pcrs.pcr0
        return built

    # 3: two enclaves, two gateways

    async def _step3_launch(self) -> list[str]:
        self._head("Two enclaves under managers, two gateways on one port")
        with _output.progress("launching"):
            names = await asyncio.to_thread(self.stack.start_enclaves)
            await self.stack.wait_ready(names)
            gateways = await asyncio.to_thread(self.stack.start_gateways, names)
        statuses = [await self.stack.enclave_status(name) for name in names]
        rows = [
            (s["name"], s["enclave_state"], s["sandbox"], s["cid"], s["key_id"][:16] + "…") for s in statuses
        ]
        _output.table(("enclave", "state", "sandbox", "cid", "pool key"), rows)
        _output.pairs({"gateways": ", ".join(gateways), "address": self.stack.address})
        self.summary.sandbox = str(statuses[0]["sandbox"])
        self.summary.enclaves = len(names)
        self.summary.gateways = len(gateways)
        return names

    # 4: evidence

    async def _step4_evidence(self, client: AsyncClient) -> None:
        self._head("Evidence, verified by the caller with its own nonce")
        claims = await client.attest()
        assert claims.statement is not None
        _output.pairs(
            {
                "measured code": claims.measurements["pcr0"],
                **self._note(),
                "simulated": f"{claims.simulated} (software NSM; its root was passed in by name)",
                "debug": claims.debug,
                "pool key": claims.statement.key.hex(),
                "configuration": claims.statement.configuration.hex()[:32] + "…",
            }
        )

    # 5: the records

    async def _step5_records(self, client: AsyncClient, policy: CompiledPolicy) -> FileResult:
        self._head("10,000 records, sealed in batches")
        source = _example("customers.ko.csv")
        target = self.output / OUTPUT
        compiled = policy.to_bytes()
        began = time.monotonic()
        with _output.progress("de-identifying", total=source.stat().st_size) as bar:
            result = await process_file(
                client,
                "deidentify",
                source,
                target,
                policy=compiled,
                progress=lambda rows, size: bar.update(bar.task_ids[0], completed=size),
            )
            bar.update(bar.task_ids[0], completed=source.stat().st_size)
        seconds = time.monotonic() - began
        self.summary.records = result.written
        self.summary.records_per_second = round(result.read / seconds, 1)
        self.summary.output = str(target)
        before, after = _first_row(source), _first_row(target)
        names = list(dict.fromkeys([*before, *after]))
        _output.table(
            ("field", "before (caller only)", "after"),
            [(name, before.get(name, ""), after.get(name, "(suppressed)")) for name in names],
            title=f"{result.written} rows, {result.rejected_count} rejected, {result.read / seconds:,.0f} records/s",
        )
        await self._reidentify(source, target, policy)
        return result

    async def _reidentify(self, source: Path, target: Path, policy: CompiledPolicy) -> None:
        """Ten records go back for `dpo`, whom the image lists, and not for `records`, whom it doesn't."""
        originals, changed = _rows(source, REIDENTIFIED), _rows(target, REIDENTIFIED)
        columns = list(changed[0])
        body = json.dumps({"columns": columns, "rows": [list(row.values()) for row in changed]}).encode()
        async with self._client("dpo") as allowed:
            answer = json.loads(await allowed.call("reidentify", body, policy=policy.to_bytes()))
        rows = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
        restored = [
            name
            for name in columns
            if all(row[name] == original.get(name) for row, original in zip(rows, originals, strict=True))
            and any(row[name] != masked[name] for row, masked in zip(rows, changed, strict=True))
        ]
        if not restored:
            raise GeumgoError("re-identification gave nothing back", code="demo")
        async with self._client("records") as refused:
            self.summary.reidentify_refused = await _refusal(refused, body, policy.to_bytes())
        _output.pairs(
            {
                "re-identify as dpo": f"{len(rows)} records, {', '.join(restored)} are the originals again",
                "re-identify as records": f"refused: {self.summary.reidentify_refused}",
            }
        )

    # 6: the proof

    async def _step6_proof(self, built: image.BuiltImage, policy: CompiledPolicy) -> None:
        self._head("The proof: another image gets no key, the gateway sees ciphertext")
        changed = self.output / "state" / "changed.eif"
        other = await asyncio.to_thread(image.replace_byte, built.path, changed, file=image.BANNER)
        with _output.progress("launching the image with one byte changed"):
            await asyncio.to_thread(self.stack.start_enclave, CHANGED, changed)
            await self._await_refusal()
            await asyncio.to_thread(self.stack.stop, CHANGED)
        self.summary.changed_image = "AccessDenied"
        _output.table(
            ("image", "PCR0", "key service"),
            [
                ("as built", built.measurements.pcr0[:32] + "…", "key released"),
                (f"one byte of /{image.BANNER} changed", other.pcr0[:32] + "…", "AccessDenied"),
            ],
            title="".join(self._note().values()),
        )
        await self._show_gateway_view(policy)

    async def _await_refusal(self) -> None:
        """Wait until the changed enclave has asked for its key and was told no."""
        deadline = time.monotonic() + REFUSAL_TIMEOUT
        status: Mapping[str, Any] = {}
        while time.monotonic() < deadline:
            status = await self.stack.enclave_status(CHANGED)
            if status.get("enclave_state") == "ready":
                raise GeumgoError("the changed image got the key", why="That must never happen.", code="demo")
            if status.get("reason") == REFUSED:
                return
            await asyncio.sleep(0.05)
        raise GeumgoError(
            "the changed image did not ask for its key in time",
            why=f"state {status.get('state')}, reason {status.get('reason')}",
            fix=f"See {self.stack.process(CHANGED).log}",
            code="demo",
        )

    async def _show_gateway_view(self, policy: CompiledPolicy) -> None:
        """Send one record through a relay that keeps what the gateway gets, and look for the record in it."""
        row = _rows(_example("customers.ko.csv"), 1)[0]
        body = json.dumps({"columns": list(row), "rows": [list(row.values())]}, ensure_ascii=False).encode()
        async with Recorder("127.0.0.1", self.stack.port("http")) as recorder:
            async with self._client("records", recorder.address) as client:
                await client.call("deidentify", body, policy=policy.to_bytes())
            seen, sealed = bytes(recorder.seen), recorder.request_body()
        found = [name for name, value in row.items() if len(value) > 5 and value.encode() in seen]
        if found:
            raise GeumgoError(f"the gateway saw {', '.join(found)} in plaintext", code="demo")
        header = keys.RoutingHeader.parse(sealed)
        _output.pairs(
            {
                "in clear": f"operation {header.operation}, pool key {header.key_id.hex()[:16]}…, a deadline, an id",
                "the rest": escape(sealed[256:304].hex(" ", 4)) + " …",
                "searched for": f"each of the record's {len(row)} values: none found",
            },
            title=f"The gateway's view of one record ({len(seen)} bytes both ways)",
        )

    # 7: the summary

    def _step7_summary(self, result: FileResult, names: list[str]) -> None:
        self._head("Done")
        self.summary.seconds = round(time.monotonic() - self._began, 2)
        path = self.output / SUMMARY
        path.write_text(
            json.dumps({name: getattr(self.summary, name) for name in Summary.__slots__}, indent=2)
        )
        _output.pairs(
            {
                "records": f"{result.written} at {self.summary.records_per_second:,.0f}/s",
                "seconds": self.summary.seconds,
                **self._note(),
                "output": result.output,
                "summary": path,
            }
        )
        if self.keep:
            state = shlex.quote(str(self.stack.settings.state))
            _output.out.print(f"\nThe stack runs on {self.stack.address}.")
            _output.next_steps(
                f"ps --state {state}",
                f"call deidentify --stack {state} --policy P --in F --out G",
                f"down --state {state}",
            )
        else:
            _output.next_steps("up", "call deidentify --policy P --in F --out G")
            _output.out.print("or write an operation of your own: examples/hello")

    def _client(self, caller: str, address: str | None = None) -> AsyncClient:
        root = (self.stack.nsm_state / "root.pem").read_bytes()
        return AsyncClient(
            address or self.stack.address,
            roots=attestation.TrustRoots.from_pem(root, simulated=True),
            policy=attestation.Policy(
                measurements={"pcr0": frozenset({self.summary.pcr0})}, allow_simulated=True
            ),
            caller=self.stack.pool.caller(caller),
        )

    def _policy(self) -> CompiledPolicy:
        path = _example("policy.yaml")
        return compile_policy(path.read_text(encoding="utf-8"), source=path.name)

    def _note(self) -> dict[str, str]:
        return {"note": THIS_MACHINE} if self.summary.this_machine_only else {}

    def _clean(self) -> None:
        """Start from nothing: a stack that an earlier run left is stopped first. Other files stay."""
        state = self.stack.settings.state
        if (state / "stack.json").exists():
            Stack.load(state).stop()
        shutil.rmtree(state, ignore_errors=True)
        for name in (OUTPUT, SUMMARY):
            (self.output / name).unlink(missing_ok=True)

    def _head(self, title: str) -> None:
        now = time.monotonic()
        if self._step:
            self.summary.steps[str(self._step)] = round(now - self._step_began, 2)
        self._step_began = now
        self._step += 1
        _output.out.print(f"\n[bold]{self._step}/{STEPS} {title}[/]")


async def _refusal(client: AsyncClient, body: bytes, policy: bytes) -> str:
    """Return the code with which the enclave refuses; it must."""
    try:
        await client.call("reidentify", body, policy=policy)
    except GeumgoError as error:
        return error.code
    raise GeumgoError("a caller that may not re-identify was answered", code="demo")


def _example(name: str) -> Path:
    """Return an example file: from the checkout, or from the installed package."""
    checkout = Path(__file__).resolve().parents[3] / "examples" / "deid" / name
    if checkout.is_file():
        return checkout
    return Path(str(importlib.resources.files("geumgo.cli") / "examples" / name))


def _rows(path: Path, count: int) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


def _first_row(path: Path) -> dict[str, str]:
    return _rows(path, 1)[0]
