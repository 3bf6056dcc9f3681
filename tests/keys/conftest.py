"""Fixtures of the keys tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geumgo.keys import CallerKey, PoolKeyPair


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """The reference fixtures, which live beside the repository."""
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (root / "fixtures").is_dir():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return root / "fixtures"


@pytest.fixture(scope="session")
def pair() -> PoolKeyPair:
    return PoolKeyPair.from_seed(bytes(range(32)))


@pytest.fixture(scope="session")
def caller() -> CallerKey:
    return CallerKey.generate("records")


@pytest.fixture(scope="session")
def callers(caller: CallerKey) -> dict[str, bytes]:
    return {caller.name: caller.public_bytes, "other": CallerKey.generate("other").public_bytes}
