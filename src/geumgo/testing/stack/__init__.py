"""A whole Geumgo on this machine: KMS emulator, enclaves with their managers, gateways.

Each part is the production program in a process of its own; only the key service and the hardware are
simulated. `geumgo up` uses it, and so can a user's own tests.
"""

from geumgo.testing.stack._pool import PoolRecord, StackPool
from geumgo.testing.stack._process import Process, StackError
from geumgo.testing.stack._stack import REFUSED, Stack, StackSettings, default_state

__all__ = (
    "REFUSED",
    "PoolRecord",
    "Process",
    "Stack",
    "StackError",
    "StackPool",
    "StackSettings",
    "default_state",
)
