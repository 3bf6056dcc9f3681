"""Launches one enclave for a test in a process of its own: as another user, or where something is refused.

`python driver.py ORDER` with a JSON order prints one JSON line; it ends the enclave when its input closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conftest import PORT, ask
from geumgo.backends import BackendError, EnclaveSpec
from geumgo.backends.process import ProcessLauncher


async def main(order: dict[str, Any]) -> None:
    folder = Path(order["folder"])
    launcher = ProcessLauncher(folder / "nsm", sandbox=order.get("sandbox", "auto"))
    spec = EnclaveSpec("one", Path(order["eif"]), None, 512, 1, False, folder / "run")
    try:
        enclave = await launcher.launch(spec)
    except BackendError as error:
        print(json.dumps({"failed": error.code, "text": error.diagnostics()}), flush=True)
        return
    told = {
        "sandbox": enclave.sandbox,
        "refused": enclave.refused,
        "pid": enclave.pid,
        "launcher": enclave._process.pid,
        "image": str((folder / "run" / "image").readlink()),
    }
    if "code" in order:
        told["result"] = await ask(enclave.address(PORT), order["code"], order["arguments"])
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await enclave.terminate(0)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
