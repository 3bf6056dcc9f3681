"""The lock file of the enclave image's base: which packages and wheels, each with its SHA-256."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from geumgo.image._errors import LockError
from geumgo.image._layout import Architecture

__all__ = ("Lock", "Locked", "read_lock")

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9.+:~_-]+", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Locked:
    """One file that goes into the image: its name and version in its archive, and its SHA-256 in hex."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """The base for one architecture.

    Attributes:
        architecture: what it runs on.
        suite: release of Debian.
        component: part of its archive; `main`, since files of the security archive vanish.
        python: version of the interpreter, "3.11".
        packages: Debian packages.
        wheels: Python wheels.
    """

    architecture: Architecture
    suite: str
    component: str
    python: str
    packages: tuple[Locked, ...]
    wheels: tuple[Locked, ...]

    @property
    def debian_architecture(self) -> str:
        """Return Debian's name of the architecture."""
        return {Architecture.X86_64: "amd64", Architecture.AARCH64: "arm64"}[self.architecture]


def read_lock(architecture: Architecture, text: str | None = None) -> Lock:
    """Return the base for `architecture`; of the lock file that comes with Geumgo where `text` is None.

    Raises:
        LockError: malformed, or nothing for this architecture.
    """
    if text is None:
        text = resources.files("geumgo.image").joinpath("enclave.lock").read_text(encoding="utf-8")
    try:
        table = tomllib.loads(text)
        if table["version"] != 1:
            raise LockError(f"the lock file is of version {table['version']!r}; 1 is known")
        base, chosen = table["base"], table.get(architecture.machine)
        if chosen is None:
            raise LockError(f"the lock file has nothing for {architecture.machine}")
        return Lock(
            architecture=architecture,
            suite=_text(base["suite"], _NAME),
            component=_text(base["component"], _NAME),
            python=_text(base["python"], _VERSION),
            packages=tuple(_locked(item) for item in chosen["packages"]),
            wheels=tuple(_locked(item) for item in chosen["wheels"]),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LockError(f"the lock file is malformed ({type(error).__name__}: {error})") from None


def _locked(item: Any) -> Locked:
    if set(item) != {"name", "version", "sha256"}:
        raise LockError("an entry of the lock file has name, version and sha256, no more and no less")
    return Locked(_text(item["name"], _NAME), _text(item["version"], _VERSION), _text(item["sha256"], _HASH))


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    # These end up in command lines.
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise LockError(f"the lock file has {value!r} where something like {pattern.pattern} belongs")
    return value
