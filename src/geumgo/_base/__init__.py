"""What every room may use: errors with diagnostics, error codes, clocks, folders. Standard library only."""

from geumgo._base.clock import Clock, SystemClock
from geumgo._base.codes import CODES, Code
from geumgo._base.core import forbid_core_dumps
from geumgo._base.errors import GeumgoError
from geumgo._base.folders import private_folder, user_folder

__all__ = (
    "CODES",
    "Clock",
    "Code",
    "GeumgoError",
    "SystemClock",
    "forbid_core_dumps",
    "private_folder",
    "user_folder",
)
