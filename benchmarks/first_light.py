"""The whole way beside a bare echo: ``python benchmarks/first_light.py [--seconds 3] [--json] [--output DIR]``.

The yardstick is the least that a request and its answer cost: a length-prefixed echo, asyncio protocols on a
Unix socket, uvloop on both sides, 1 KiB, 100 tasks that each write one frame and await their own answer by id.
Beside it, in the same run: the enclave program's `open` echo over the channel (unary, streams, and batches
counted in records), and through the gateway over HTTP and gRPC, each of which is also compared with the same
stack answering by itself. Sealed figures stand apart: they pay for HPKE and signatures, and the last one for
de-identification, on the local stack with its sandbox.

Absolute numbers say little on a shared machine; the ratios are what is meant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import edges

import channel
from geumgo import attestation, vsock
from geumgo.channel import Connection
from geumgo.client import AsyncClient, ClientSettings, process_file
from geumgo.client.policy import compile_policy
from geumgo.testing.stack import Stack, StackSettings

BATCH = 32
"""Records of 1 KiB in one message."""
TARGETS = {"unary": 0.4, "stream": 0.35, "batch": 0.35, "http": 0.5, "grpc": 0.5}
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "deid"
SEALED_AT_ONCE = 8


# ---- the enclave program's open echo, over the channel ------------------------------------------------------


def channel_figures(seconds: float, rounds: int) -> dict[str, channel.Figure]:
    """Return the best of each case: `yardstick`, `unary`, `stream`, `batch` (in records)."""
    best: dict[str, channel.Figure] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fl") as folder,
        edges._process(edges.__file__, "--part", "enclave", folder),
    ):
        address = vsock.Address.hybrid(Path(folder) / "v.sock", vsock.ENCLAVE_PORT)
        cases: dict[str, Callable[[float], channel.Figure]] = {
            "yardstick": channel.yardstick,
            **{
                mode: lambda s, mode=mode: _over_channel(address, mode, s)
                for mode in ("unary", "stream", "batch")
            },
        }
        for _ in range(rounds):
            for name, run in cases.items():
                figure = run(seconds / rounds)
                if name not in best or figure.per_second > best[name].per_second:
                    best[name] = figure
    return best


def _over_channel(address: vsock.Address, mode: str, seconds: float) -> channel.Figure:
    result: list[channel.Figure] = []

    async def measure() -> None:
        connection = await Connection.dial(await vsock.connect(address))
        metadata: dict[str, str | int | bool | bytes] = {"name": "echo", "sealed": False}
        payload = os.urandom(channel.PAYLOAD * (BATCH if mode == "batch" else 1))

        async def unary(index: int) -> Callable[[], Awaitable[object]]:
            return lambda: connection.call("operation", payload, metadata=metadata)

        async def stream(index: int) -> Callable[[], Awaitable[object]]:
            stream = await connection.open("operation", metadata=metadata)

            async def exchange() -> None:
                await stream.send(payload)
                await stream.receive()

            return exchange

        result.append(await channel._load(unary if mode == "unary" else stream, seconds))
        await connection.aclose()

    channel._run(measure(), "uvloop")
    figure = result[0]
    if mode != "batch":
        return figure
    return channel.Figure(figure.per_second * BATCH, figure.p50_us, figure.p99_us)


# ---- sealed, on the local stack ---------------------------------------------------------------------------------


async def sealed_figures(seconds: float) -> dict[str, Any]:
    """Return sealed echo (requests a second, latencies) and sealed de-identification (records and MB a second)."""
    folders = [Path(tempfile.mkdtemp(prefix=prefix)) for prefix in ("fl-state", "fl-run")]
    stack = Stack(StackSettings(*folders))
    try:
        await asyncio.to_thread(stack.start_kms)
        await stack.pool.open_or_build(lambda what, done, total: None)
        names = await asyncio.to_thread(stack.start_enclaves)
        await stack.wait_ready(names)
        await asyncio.to_thread(stack.start_gateways, names)
        async with _client(stack) as client:
            echo = await _sealed_echo(client, seconds)
            deidentify = await _sealed_file(client, folders[0])
        sandbox = str((await stack.enclave_status(names[0]))["sandbox"])
        return {"sealed unary": echo, "sealed de-identification": {**deidentify, "sandbox": sandbox}}
    finally:
        await asyncio.to_thread(stack.stop)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _client(stack: Stack) -> AsyncClient:
    roots = attestation.TrustRoots.from_pem((stack.nsm_state / "root.pem").read_bytes(), simulated=True)
    policy = attestation.Policy(
        measurements={"pcr0": frozenset({stack.pool.record().pcr0})}, allow_simulated=True
    )
    return AsyncClient(
        stack.address,
        roots=roots,
        policy=policy,
        caller=stack.pool.caller("records"),
        settings=ClientSettings(window=SEALED_AT_ONCE),
    )


async def _sealed_echo(client: AsyncClient, seconds: float) -> dict[str, float]:
    """One row through `deidentify` with a policy that keeps it: everything but the technique."""
    policy = compile_policy("version: 1\nname: keep\nfields:\n  value: keep\n").to_bytes()
    body = json.dumps({"columns": ["value"], "rows": [["x" * 900]]}).encode()
    await client.call("deidentify", body, policy=policy)
    samples: list[float] = []
    until = time.perf_counter() + seconds

    async def worker() -> None:
        while (begun := time.perf_counter()) < until:
            await client.call("deidentify", body, policy=policy)
            samples.append(time.perf_counter() - begun)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(SEALED_AT_ONCE)))
    rate = len(samples) / (time.perf_counter() - began)
    samples.sort()
    return {
        "per_second": rate,
        "p50_us": samples[len(samples) // 2] * 1e6,
        "p99_us": samples[len(samples) * 99 // 100] * 1e6,
    }


async def _sealed_file(client: AsyncClient, folder: Path) -> dict[str, float]:
    source = EXAMPLES / "customers.ko.csv"
    policy = compile_policy((EXAMPLES / "policy.yaml").read_text(encoding="utf-8")).to_bytes()
    best = 0.0
    for _ in range(2):
        began = time.perf_counter()
        result = await process_file(client, "deidentify", source, folder / "out.csv", policy=policy)
        best = max(best, result.read / (time.perf_counter() - began))
    size = source.stat().st_size
    return {"records_per_second": best, "mb_per_second": best * size / result.read / 1e6}


# ---- the table, the plot ------------------------------------------------------------------------------------------


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """Return every figure, and the ratios with their targets."""
    inner = channel_figures(seconds, rounds)
    outer = edges.measure(seconds, rounds)
    sealed = asyncio.run(sealed_figures(seconds))
    base = inner["yardstick"].per_second
    ratios = {name: inner[name].per_second / base for name in ("unary", "stream", "batch")} | edges.ratios(
        outer
    )
    return {
        "cases": {name: asdict(figure) for name, figure in (inner | outer).items()},
        "ratios": {name: {"ratio": ratio, "target": TARGETS[name]} for name, ratio in ratios.items()},
        "http_stack_to_yardstick": outer["http alone"].per_second / base,
        "sealed": sealed,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }


def plot(measured: dict[str, Any], path: Path) -> None:
    """Draw the ratios beside their targets."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(measured["ratios"])
    ratios = [measured["ratios"][name]["ratio"] for name in names]
    targets = [measured["ratios"][name]["target"] for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    axes.barh(names, [min(ratio, 2.0) for ratio in ratios], color="#3b6ea5")
    for row, (ratio, target) in enumerate(zip(ratios, targets, strict=True)):
        axes.plot([target, target], [row - 0.4, row + 0.4], color="#c0392b", linewidth=2)
        axes.text(min(ratio, 2.0) + 0.02, row, f"{ratio:.2f}", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 2.3)
    axes.set_xlabel("ratio: channel cases ÷ bare echo; edges ÷ the same stack by itself (red: target)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table, or JSON; write both and the plot to `--output`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of load a case, all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, help="folder for first_light.json and first_light.png")
    options = parser.parse_args()
    measured = measure(options.seconds, options.rounds)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "first_light.json").write_text(json.dumps(measured, indent=2))
        plot(measured, options.output / "first_light.png")
    if options.json:
        print(json.dumps(measured, indent=2))
        return
    print(f"{'case':28}{'per second':>12}{'p50 µs':>10}{'p99 µs':>10}")
    for name, figure in (measured["cases"] | {"sealed unary": measured["sealed"]["sealed unary"]}).items():
        print(f"{name:28}{figure['per_second']:12,.0f}{figure['p50_us']:10,.0f}{figure['p99_us']:10,.0f}")
    file = measured["sealed"]["sealed de-identification"]
    print(
        f"{'sealed de-identification':28}{file['records_per_second']:12,.0f} records/s, "
        f"{file['mb_per_second']:.2f} MB/s ({file['sandbox']})"
    )
    print()
    for name, ratio in measured["ratios"].items():
        print(f"{name:28}{ratio['ratio']:12.2f}  target {ratio['target']}")
    print(f"{'HTTP stack ÷ yardstick':28}{measured['http_stack_to_yardstick']:12.2f}")


if __name__ == "__main__":
    main()
