"""Limits and times of the gateway, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("GatewaySettings",)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What bounds the work in a gateway. Times in seconds.

    In the environment `GEUMGO_GATEWAY_MAX_QUEUE=64` sets `max_queue`, and so on.
    """

    enclave_in_flight: int = 256
    """Calls that one enclave of weight 1 gets at a time; a few CPUs gain nothing from more."""
    max_queue: int = 2048
    """Calls that wait for a place; more get `busy` at once, which is kinder than a late answer."""
    queue_wait: float = 5.0
    """How long a call waits for a place before it gets `busy`."""
    attempts: int = 3
    """Enclaves that one idempotent call may be given to."""
    poll: float = 0.2
    """How often the files of the managers are looked at; a dead connection is noticed without them."""
    dial_timeout: float = 5.0
    """From dialling an enclave to the end of the handshake."""
    redial_least: float = 0.1
    """Pause after a first failure to reach an enclave; doubled each time."""
    redial_most: float = 2.0
    """Longest such pause: an enclave that is back is in use within two seconds."""
    describe_starting: float = 0.2
    """How often an enclave that is not ready is asked whether it is."""
    describe_ready: float = 2.0
    """How often one that is ready is asked whether it still is."""
    describe_timeout: float = 3.0
    """Longest wait for a description."""
    describe_misses: int = 2
    """Descriptions in a row that may be missing before the enclave counts as hung and is dropped."""
    drain_delay: float = 3.0
    """After SIGTERM the gateway serves on this long while /readyz already fails, so that others stop sending."""
    drain_timeout: float = 20.0
    """Then what was begun may take this long. Both fit into a pod's 30 s."""
