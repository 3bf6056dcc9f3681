"""What a pod pays: memory of the sidecar, size of the image, memory of the enclave."""

from __future__ import annotations

import json
from pathlib import Path

from geumgo.client import process_file

MANAGER_RSS_MB = 48
EIF_MB = 80
ENCLAVE_MB = 512


def memory_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {field} of process {pid}")


async def test_after_a_file_went_through(stack, connect, policy, customers, tmp_path):
    await process_file(connect(), "deidentify", customers, tmp_path / "out.csv", policy=policy.to_bytes())
    for name in ("enclave-1", "enclave-2"):
        assert memory_mb(stack.process(name).pid, "VmHWM") <= MANAGER_RSS_MB
        state = json.loads((stack.settings.runtime / name / "enclave.json").read_text())
        assert memory_mb(state["pid"], "VmHWM") <= ENCLAVE_MB


def test_the_image(stack):
    assert stack.pool.eif.stat().st_size <= EIF_MB * 1_000_000
