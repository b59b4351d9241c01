"""What the service counts, in the text format of Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters of one service; threads may share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        made = {"registry": self._registry, "namespace": "retrieval"}
        self.requests = Counter("requests", "Requests, by route and status.", ["route", "code"], **made)
        self.steps = Histogram("step_seconds", "Time of a step.", ["step"], buckets=_SECONDS, **made)
        self.batches = Histogram(
            "batch_size", "Queries answered together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **made
        )
        self.waiting = Gauge("queue_length", "Queries that wait.", **made)
        self.refused = Counter("refused", "Queries refused, by reason.", ["reason"], **made)
        self.items = Gauge("items", "Items of the index.", **made)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count how long a `with` block takes as a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.steps.labels(step).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        return generate_latest(self._registry)
