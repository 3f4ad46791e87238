"""What Prometheus is told. Labels have few values: no path, key or text of a client is among them."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, *, places: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def make(kind: Callable, name: str, help: str, labels: tuple[str, ...] = (), **options: object):
            return kind(f"anchortrain_{name}", help, labels, registry=self.registry, **options)

        self.requests = make(Counter, "requests", "Answered requests", ("endpoint", "status"))
        self.tokens = make(Counter, "tokens", "Tokens read and drawn", ("stage",))
        self.samples = make(Counter, "samples", "Samples by how they ended", ("finish_reason",))
        self.cancelled = make(Counter, "cancelled", "Requests given up before their end", ("reason",))
        self.running = make(Gauge, "requests_running", "Requests being answered", ("endpoint",))
        self.queue = make(Gauge, "queue_samples", "Samples that wait for a place")
        self.in_use = make(Gauge, "places_in_use", "Samples that are being drawn")
        make(Gauge, "places", "Samples that can be drawn together").set(places)
        self.first = make(
            Histogram, "time_to_first_token_seconds", "From arrival to the first text", ("endpoint",), buckets=_SECONDS
        )
        self.duration = make(
            Histogram, "request_seconds", "From arrival to the end of the answer", ("endpoint",), buckets=_SECONDS
        )
        for stage in ("prompt", "annotation", "response"):
            self.tokens.labels(stage)
        for reason in ("client", "timeout", "failure"):
            self.cancelled.labels(reason)

    def on_state(self, in_flight: int, waiting: int) -> None:
        """Takes what the worker says after each step."""
        self.in_use.set(in_flight)
        self.queue.set(waiting)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
