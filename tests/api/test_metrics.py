from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from geumgo.api import EdgeMetrics


def samples(metrics: EdgeMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_requests_are_counted_by_edge_route_and_code() -> None:
    metrics = EdgeMetrics()
    for code in ("ok", "ok", "busy"):
        metrics.observe("http", "operation", code, 0.01, 10, 20)
    metrics.observe("grpc", "call", "ok", 0.01, 1, 2)
    seen = samples(metrics)
    labels = (("code", "ok"), ("edge", "http"), ("route", "operation"))
    assert seen["geumgo_requests_total", labels] == 2
    labels = (("code", "busy"), ("edge", "http"), ("route", "operation"))
    assert seen["geumgo_requests_total", labels] == 1
    assert seen["geumgo_body_bytes_total", (("direction", "in"), ("edge", "http"))] == 30
    assert seen["geumgo_body_bytes_total", (("direction", "out"), ("edge", "grpc"))] == 2


def test_the_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    metrics = EdgeMetrics()
    for seconds in (0.0, 0.0005, 0.0006, 30.0, 31.0):
        metrics.observe("http", "operation", "ok", seconds, 0, 0)
    seen = samples(metrics)

    def bucket(bound: str) -> float:
        labels = (("edge", "http"), ("le", bound), ("route", "operation"))
        return seen["geumgo_request_seconds_bucket", labels]

    assert [bucket(bound) for bound in ("0.0005", "0.001", "10.0", "30.0", "+Inf")] == [2, 3, 3, 4, 5]
    labels = (("edge", "http"), ("route", "operation"))
    assert seen["geumgo_request_seconds_count", labels] == 5
    assert abs(seen["geumgo_request_seconds_sum", labels] - 61.0011) < 1e-9


def test_gauges_show_what_is_now() -> None:
    metrics = EdgeMetrics()
    now = [3, 7]
    metrics.watch("http", lambda: now[0], lambda: now[1])
    assert samples(metrics)["geumgo_requests_in_flight", (("edge", "http"),)] == 3
    now[:] = [0, 1]
    assert samples(metrics)["geumgo_requests_in_flight", (("edge", "http"),)] == 0
    assert samples(metrics)["geumgo_http_connections", ()] == 1
