"""A launcher by its name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from geumgo.backends._api import Launcher, UnknownBackend

__all__ = ("BACKENDS", "launcher")

BACKENDS = {"process": ("geumgo.backends.process", "ProcessLauncher")}
"""Name to (module, class). Imported when asked for: a backend may need packages that others don't."""


def launcher(name: str, **options: Any) -> Launcher:
    """Return the launcher called `name`, made with `options`.

    Raises:
        UnknownBackend: there is none, or it does not take these options.
    """
    if name not in BACKENDS:
        raise UnknownBackend(
            f"there is no backend {name!r}", fix=f"Use one of: {', '.join(sorted(BACKENDS))}."
        )
    module, attribute = BACKENDS[name]
    factory = getattr(importlib.import_module(module), attribute)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise UnknownBackend(f"the backend {name!r} does not take these options: {error}") from None
    return cast(Launcher, factory(**options))
