"""What the edges count, for Prometheus."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ("EdgeMetrics",)

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From an echo on one machine to a large batch under load, in seconds."""

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use


class EdgeMetrics:
    """Counters of the HTTP and gRPC edges and the registry that a server adds its own to.

    Attributes:
        registry: what `GET /metrics` shows; servers register their own collectors here.
        in_flight: gauge of requests that are being answered, by edge.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._requests = Counter(
            "geumgo_requests",
            "Requests answered, by edge, route and code ('ok' or the problem's)",
            ("edge", "route", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "geumgo_request_seconds",
            "From a request's head to its answer",
            ("edge", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._bytes = Counter(
            "geumgo_body_bytes", "Bytes of bodies", ("edge", "direction"), registry=self.registry
        )
        self.in_flight = Gauge(
            "geumgo_requests_in_flight", "Requests being answered", ("edge",), registry=self.registry
        )
        self.connections = Gauge("geumgo_http_connections", "Open HTTP connections", registry=self.registry)
        self._by_code: dict[tuple[str, str, str], Counter] = {}
        self._by_route: dict[tuple[str, str], Histogram] = {}
        self._by_edge = {
            edge: (self._bytes.labels(edge, "in"), self._bytes.labels(edge, "out"))
            for edge in ("http", "grpc")
        }

    def observe(self, edge: str, route: str, code: str, seconds: float, size_in: int, size_out: int) -> None:
        """Count one answered request. `route` and `code` come from short lists of ours, never from a client."""
        counter = self._by_code.get((edge, route, code))
        if counter is None:
            counter = self._by_code[edge, route, code] = self._requests.labels(edge, route, code)
        counter.inc()
        histogram = self._by_route.get((edge, route))
        if histogram is None:
            histogram = self._by_route[edge, route] = self._seconds.labels(edge, route)
        histogram.observe(seconds)
        into, out = self._by_edge[edge]
        if size_in:
            into.inc(size_in)
        if size_out:
            out.inc(size_out)

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)
