"""Counters, times and gauges of the server, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rapid_jax.serving.jobs import Answered, Job
from rapid_jax.serving.worker import Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What has happened since the start.

    Args:
      worker: whose queue, rows and documents are shown.
    """

    def __init__(self, worker: Worker):
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"rapid_jax_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(f"rapid_jax_{name}_seconds", what, ["method"], registry=registry, buckets=_SECONDS)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"rapid_jax_{name}", what, registry=registry)

        self._requests = counter("requests", "HTTP requests by path and status", "path", "status")
        self._prompt = counter("prompt_tokens", "Tokens of prompts that were answered", "method")
        self._cached = counter("cached_prompt_tokens", "Of these, tokens that had been read before", "method")
        self._generated = counter("generated_tokens", "Tokens of answers", "method")
        self._steps = counter("steps", "Decoding steps of answers", "method")
        self._tested = counter("tested_tokens", "Drafted tokens that were tested", "method")
        self._accepted = counter("accepted_tokens", "Drafted tokens that were accepted", "method")
        self._first = seconds("first_token", "From a request's arrival to its first text")
        self._whole = seconds("answer", "From a request's arrival to the end of its answer")
        gauge("waiting_requests", "Requests without a row").set_function(lambda: worker.waiting)
        gauge("decoding_requests", "Requests whose answers are under way").set_function(lambda: worker.decoding)
        gauge("documents", "Uploaded documents").set_function(lambda: len(worker.library.listed()))
        gauge("document_bytes", "Keys and values of documents in memory").set_function(lambda: worker.library.nbytes)

    def requested(self, path: str, status: int) -> None:
        """Counts an HTTP request."""
        self._requests.labels(path, str(status)).inc()

    def answered(self, job: Job, event: Answered) -> None:
        """Counts an answer."""
        answer, method, now = event.answer, event.answer.method, time.monotonic()
        acceptance = answer.acceptance
        self._prompt.labels(method).inc(answer.target_tokens)
        self._cached.labels(method).inc(event.cached_tokens)
        self._generated.labels(method).inc(len(answer.token_ids))
        self._steps.labels(method).inc(acceptance.steps)
        self._tested.labels(method).inc(acceptance.tested)
        self._accepted.labels(method).inc(acceptance.accepted)
        self._first.labels(method).observe((job.first_piece or now) - job.arrived)
        self._whole.labels(method).observe(now - job.arrived)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
