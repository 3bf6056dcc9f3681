"""Keys, randomness, policies and Korean numbers for the tests of this room."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from geumgo.client.policy import compile_policy
from geumgo.deid import CompiledPolicy, Engine, Result

EXAMPLES = Path(__file__).parents[2] / "examples" / "deid"


class Keys:
    """Derives a key from its names and remembers what was asked for."""

    def __init__(self, seed: bytes = b"") -> None:
        self.seed = seed
        self.asked: list[tuple[str, str]] = []

    def __call__(self, purpose: str, use: str) -> bytes:
        self.asked.append((purpose, use))
        return hashlib.sha256(self.seed + f"{purpose}/{use}".encode()).digest()


class Random:
    """Reproducible random bytes."""

    def __init__(self, seed: bytes = b"random") -> None:
        self.seed = seed
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return hashlib.shake_128(self.seed + self.count.to_bytes(8, "big")).digest(size)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def random() -> Random:
    return Random()


def make_policy(fields: Mapping[str, Any], **top: Any) -> CompiledPolicy:
    return CompiledPolicy.from_map({"version": 1, "name": "test", "fields": fields} | top)


@pytest.fixture
def policy() -> Callable[..., CompiledPolicy]:
    return make_policy


@pytest.fixture
def engine(keys: Keys, random: Random) -> Callable[..., Engine]:
    """Makes an engine of `fields`."""
    return lambda fields, **top: Engine(make_policy(fields, **top), keys, random=random)


@pytest.fixture
def column(engine: Callable[..., Engine]) -> Callable[..., list[str | None]]:
    """De-identifies values of one field with one rule; a rejected value comes back as its code."""

    def run(rule: Mapping[str, Any], values: Sequence[str | None], **top: Any) -> list[str | None]:
        result: Result = engine({"x": rule}, **top).deidentify(["x"], [[value] for value in values])
        rejected = {item.row: item.code for item in result.rejected}
        rows = iter(result.rows)
        return [rejected[i] if i in rejected else next(rows)[0] for i in range(len(values))]

    return run


@pytest.fixture(scope="session")
def demo_policy() -> CompiledPolicy:
    return compile_policy((EXAMPLES / "policy.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """The example's generator, as a module."""
    spec = importlib.util.spec_from_file_location("make_customers", EXAMPLES / "make_customers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def customers() -> tuple[list[str], list[list[str]]]:
    """Header and rows of the example."""
    with (EXAMPLES / "customers.ko.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def with_rrn_check(first: str) -> str:
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    base = 13 if first[6] in "5678" else 11
    return first + str((base - sum(int(d) * w for d, w in zip(first, weights, strict=True)) % 11) % 10)


def with_luhn(first: str) -> str:
    total = 0
    for place, d in enumerate(reversed(first)):
        n = int(d) * (2 if place % 2 == 0 else 1)
        total += n - 9 if n > 9 else n
    return first + str(-total % 10)


def with_brn_check(first: str) -> str:
    weights = (1, 3, 7, 1, 3, 7, 1, 3, 5)
    total = sum(int(d) * w for d, w in zip(first, weights, strict=True)) + int(first[8]) * 5 // 10
    return first + str(-total % 10)


def with_crn_check(first: str) -> str:
    total = sum(int(d) * (2 if i % 2 else 1) for i, d in enumerate(first))
    return first + str(-total % 10)


@pytest.fixture(scope="session")
def check() -> dict[str, Callable[[str], str]]:
    """Functions that append a check digit, written apart from the code under test."""
    return {"rrn": with_rrn_check, "card": with_luhn, "brn": with_brn_check, "crn": with_crn_check}
