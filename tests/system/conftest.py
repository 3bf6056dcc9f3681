"""A whole stack in processes of its own, started once for all tests of this ring."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from geumgo import attestation, keys
from geumgo.client import AsyncClient, ClientSettings
from geumgo.client.policy import compile_policy
from geumgo.deid import CompiledPolicy
from geumgo.testing.stack import Stack, StackSettings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "deid"

ENCRYPTED_POLICY = """
version: 1
name: crm-intake
unlisted: suppress
fields:
  id: keep
  phone:
    encrypted: true
    technique: mask
    keep_last: 4
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def policy() -> CompiledPolicy:
    path = EXAMPLES / "policy.yaml"
    return compile_policy(path.read_text(encoding="utf-8"), source=path.name)


@pytest.fixture(scope="session")
def encrypted_policy() -> CompiledPolicy:
    return compile_policy(ENCRYPTED_POLICY, source="crm.yaml")


@pytest.fixture(scope="session")
def stack(encrypted_policy: CompiledPolicy) -> Iterator[Stack]:
    """Key service, two enclaves, two gateways; `crm` may bring `encrypted_policy`."""
    state = Path(tempfile.mkdtemp(prefix="geumgo-test-"))
    runtime = Path(tempfile.mkdtemp(prefix="gr-"))
    stack = Stack(StackSettings(state, runtime), policies=(encrypted_policy.digest.hex(),))
    try:

        async def start() -> None:
            stack.start_kms()
            await stack.pool.open_or_build(lambda what, done, total: None)
            names = stack.start_enclaves()
            await stack.wait_ready(names)
            stack.start_gateways(names)

        asyncio.run(start())
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
async def connect(stack: Stack) -> AsyncIterator[Callable[..., AsyncClient]]:
    """Return a client of the stack for a caller."""
    clients: list[AsyncClient] = []

    def make(caller: str = "records", *, address: str | None = None, **settings: object) -> AsyncClient:
        root = (stack.nsm_state / "root.pem").read_bytes()
        client = AsyncClient(
            address or stack.address,
            roots=attestation.TrustRoots.from_pem(root, simulated=True),
            policy=attestation.Policy(
                measurements={"pcr0": frozenset({stack.pool.record().pcr0})}, allow_simulated=True
            ),
            caller=stack.pool.caller(caller) if caller else None,
            settings=ClientSettings(**settings),  # type: ignore[arg-type]
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture(scope="session")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 2,000 of the example's customers."""
    path = tmp_path_factory.mktemp("data") / "customers.csv"
    with (EXAMPLES / "customers.ko.csv").open(encoding="utf-8") as file:
        path.write_text("".join(itertools.islice(file, 2001)), encoding="utf-8")
    return path


@pytest.fixture
def caller_key(stack: Stack) -> Callable[[str], keys.CallerKey]:
    return stack.pool.caller
