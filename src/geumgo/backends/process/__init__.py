"""The `process` backend: an EIF's program as a sandboxed process, for machines without enclave hardware.

* :class:`ProcessLauncher` starts enclaves.
* :func:`probe` says which sandbox this machine allows, and why not the other; :func:`require` insists on one.

`python -m geumgo.backends.process` is the launcher process that each enclave has; it holds the software NSM.
"""

from geumgo.backends.process._launcher import HEARTBEAT_TIMEOUT, ProcessEnclave, ProcessLauncher
from geumgo.backends.process._probe import probe, require

__all__ = ("HEARTBEAT_TIMEOUT", "ProcessEnclave", "ProcessLauncher", "probe", "require")
