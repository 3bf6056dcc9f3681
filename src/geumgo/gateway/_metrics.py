"""What the gateway shows of its enclaves and its queue."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from geumgo.gateway._balancer import Balancer
from geumgo.gateway._member import MemberState

__all__ = ("GatewayMetrics",)


class GatewayMetrics(Collector):
    """Reads the balancer's state when it is asked; counts retries itself.

    Args:
        balancer: whose state is shown.
        registry: where it is shown.
    """

    def __init__(self, balancer: Balancer, registry: CollectorRegistry) -> None:
        self._balancer = balancer
        self.retries = Counter(
            "geumgo_gateway_retries",
            "Calls that were given to another enclave, by the code of the first",
            ("code",),
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        members = list(self._balancer.members.values())
        states = GaugeMetricFamily("geumgo_gateway_enclaves", "Enclaves by state", labels=("state",))
        for state in MemberState:
            if state is not MemberState.GONE:
                states.add_metric((state.value,), sum(member.state is state for member in members))
        yield states
        flights = GaugeMetricFamily(
            "geumgo_gateway_enclave_in_flight", "Calls that an enclave has", labels=("enclave",)
        )
        for member in members:
            flights.add_metric((member.name,), member.in_flight)
        yield flights
        yield GaugeMetricFamily("geumgo_gateway_queue", "Calls that wait for a place", self._balancer.queued)
