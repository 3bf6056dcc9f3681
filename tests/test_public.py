"""What the package exports is what it says it exports."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import geumgo

SCRIPTS = {"__main__"}
GENERATED = ("geumgo.proto",)
BARE = {"geumgo.codec", "geumgo.testing"}
"""Packages that import nothing on purpose, so that one module of theirs costs only itself."""


def modules() -> list[str]:
    found = ["geumgo"]
    for info in pkgutil.walk_packages(geumgo.__path__, "geumgo."):
        parts = info.name.split(".")
        if any(part.startswith("_") for part in parts[1:] if part != "_base") or info.name.startswith(
            GENERATED
        ):
            continue
        found.append(info.name)
    return [name for name in found if name not in BARE]


@pytest.mark.parametrize("name", modules())
def test_all_is_there_and_true(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    assert isinstance(exported, tuple), "a public module says what it exports"
    assert len(set(exported)) == len(exported)
    for attribute in exported:
        assert hasattr(module, attribute), f"{attribute} is named and missing"


@pytest.mark.parametrize("name", modules())
def test_nothing_public_is_forgotten(name: str) -> None:
    """A class or function defined in a public module without an underscore is exported, or it should have one."""
    module = importlib.import_module(name)
    if name.startswith("geumgo.cli."):
        return  # commands are found by the decorator that registers them
    own = {
        attribute
        for attribute, value in vars(module).items()
        if not attribute.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", None) == name
        and (inspect.isclass(value) or inspect.isfunction(value))
    }
    assert own <= set(module.__all__), sorted(own - set(module.__all__))


@pytest.mark.parametrize("name", modules())
def test_public_things_have_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for attribute in module.__all__:
        value = getattr(module, attribute)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert getattr(value, "__doc__", None), f"{name}.{attribute} has no docstring"
