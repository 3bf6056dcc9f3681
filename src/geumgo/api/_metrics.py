"""What the edges count, for Prometheus.

Counting a request with the client library's own objects takes 6 µs, of some 40 for the whole request, so the
edges add to plain numbers, and a collector turns them into metrics when someone asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ("EdgeMetrics",)

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From an echo on one machine to a large batch under load, in seconds."""

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use


class EdgeMetrics(Collector):
    """Counters of the HTTP and gRPC edges and the registry that a server adds its own to.

    Attributes:
        registry: what `GET /metrics` shows; servers register their own collectors here.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._requests: dict[tuple[str, str, str], int] = {}
        self._seconds: dict[tuple[str, str], _Seconds] = {}
        self._bytes = {(edge, way): 0 for edge in ("http", "grpc") for way in ("in", "out")}
        self._in_flight: dict[str, Callable[[], int]] = {}
        self._connections: Callable[[], int] | None = None
        self.registry.register(self)

    def watch(
        self, edge: str, in_flight: Callable[[], int], connections: Callable[[], int] | None = None
    ) -> None:
        """Show what these functions return for `edge` whenever someone asks."""
        self._in_flight[edge] = in_flight
        if connections is not None:
            self._connections = connections

    def observe(self, edge: str, route: str, code: str, seconds: float, size_in: int, size_out: int) -> None:
        """Count one answered request. `route` and `code` come from short lists of ours, never from a client."""
        request = edge, route, code
        self._requests[request] = self._requests.get(request, 0) + 1
        taken = self._seconds.get((edge, route))
        if taken is None:
            taken = self._seconds[edge, route] = _Seconds()
        taken.sum += seconds
        taken.counts[bisect_left(BUCKETS, seconds)] += 1
        self._bytes[edge, "in"] += size_in
        self._bytes[edge, "out"] += size_out

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted."""
        requests = CounterMetricFamily(
            "geumgo_requests",
            "Requests answered, by edge, route and code ('ok' or the problem's)",
            labels=("edge", "route", "code"),
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        histogram = HistogramMetricFamily(
            "geumgo_request_seconds", "From a request's head to its answer", labels=("edge", "route")
        )
        for route, taken in self._seconds.items():
            histogram.add_metric(route, taken.cumulative(), taken.sum)
        yield histogram
        sizes = CounterMetricFamily("geumgo_body_bytes", "Bytes of bodies", labels=("edge", "direction"))
        for direction, size in self._bytes.items():
            sizes.add_metric(direction, size)
        yield sizes
        flights = GaugeMetricFamily("geumgo_requests_in_flight", "Requests being answered", labels=("edge",))
        for edge, in_flight in self._in_flight.items():
            flights.add_metric((edge,), in_flight())
        yield flights
        if self._connections is not None:
            yield GaugeMetricFamily("geumgo_http_connections", "Open HTTP connections", self._connections())

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)


class _Seconds:
    """How long the requests of one route took."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each upper bound with the number of requests at or below it."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets
