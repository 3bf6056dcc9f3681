"""No core dumps."""

from __future__ import annotations

__all__ = ("forbid_core_dumps",)

_NONE = 1
"""Bytes. Too few for a core file; unlike 0 it keeps a core pattern that is a pipe from getting one (core(5))."""


def forbid_core_dumps() -> None:
    """Keep this process from dumping core, for good: it would put what passes through it on a disk."""
    import resource  # clients import this package too, and run where there is no such module

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # An ordinary user can't raise a limit that is lower already.
    limit = _NONE if hard == resource.RLIM_INFINITY else min(_NONE, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
