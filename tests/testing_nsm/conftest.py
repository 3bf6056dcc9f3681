"""Fixtures of the software NSM's tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from geumgo.attestation import TrustRoots
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

START = 1_772_366_400_000  # 2026-03-01T12:00:00Z


@dataclass
class FakeClock:
    """A clock that tests set."""

    ms: int = START

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The reference fixtures, which live beside the repository."""
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (root / "fixtures").is_dir():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return root / "fixtures"


@pytest.fixture(scope="session")
def authority() -> NsmAuthority:
    return NsmAuthority.generate(clock=FakeClock())


@pytest.fixture(scope="session")
def roots(authority: NsmAuthority) -> TrustRoots:
    return TrustRoots.from_pem(authority.root_pem, simulated=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pcrs() -> dict[int, bytes]:
    return {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 8)}


@pytest.fixture
def nsm(authority: NsmAuthority, pcrs: dict[int, bytes], clock: FakeClock) -> SoftwareNsm:
    return SoftwareNsm(
        authority, pcrs, instance_id="i-1234567890abcdef0", region="ap-northeast-2", clock=clock
    )


@pytest.fixture
def client(nsm: SoftwareNsm) -> NsmClient:
    return NsmClient(nsm)
