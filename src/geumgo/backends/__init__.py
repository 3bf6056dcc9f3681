"""Launchers. All answer one protocol: :class:`Launcher` makes a :class:`RunningEnclave`.

`launcher("process", …)` returns one by name. This package alone imports no backend, so that a manager
pays only for the one that it uses.
"""

from geumgo.backends._api import (
    BackendError,
    EnclaveSpec,
    Exit,
    Launcher,
    LaunchFailed,
    RunningEnclave,
    SandboxUnavailable,
    UnknownBackend,
)
from geumgo.backends._factory import BACKENDS, launcher

__all__ = (
    "BACKENDS",
    "BackendError",
    "EnclaveSpec",
    "Exit",
    "LaunchFailed",
    "Launcher",
    "RunningEnclave",
    "SandboxUnavailable",
    "UnknownBackend",
    "launcher",
)
