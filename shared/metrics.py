"""What is measured, by name: a closed set, declared in one table, in Prometheus' conventions.

Each process has a registry of its own; nothing here is global. The names are an interface: the
dashboards, the alerts and other people's queries are written against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

EVENTS: Final = "pop3_connector_mail_events_total"
BYTES: Final = "pop3_connector_fetched_bytes_total"
HANDLING: Final = "pop3_connector_handling_seconds"
LATENCY: Final = "pop3_connector_fetched_to_delivered_seconds"
SPOOL: Final = "pop3_connector_spool_failures_total"
IN_HAND: Final = "pop3_connector_in_hand"
CONNECTED: Final = "pop3_connector_broker_connected"
BLOCKED: Final = "pop3_connector_broker_blocked"
BREAKER: Final = "pop3_connector_breaker_open"
BUILD: Final = "pop3_connector_build_info"

_SHORT: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300)
_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, kind, labels and meaning; the buckets in seconds for a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


METRICS: Final = (
    Metric(
        EVENTS,
        "counter",
        ("stage", "event"),
        "Mail events by stage: fetched, forwarded, delivered, suppressed, retrying, failed,"
        " quarantined, removed, polled, accounts_failed, crashed.",
    ),
    Metric(BYTES, "counter", (), "Bytes of the messages fetched."),
    Metric(HANDLING, "histogram", ("stage",), "Seconds a handler took for a message.", _SHORT),
    Metric(LATENCY, "histogram", (), "Seconds from fetched to delivered.", _LONG),
    Metric(
        SPOOL,
        "counter",
        ("stage", "what"),
        "Times that the spool failed: missing (the blob of a message is gone), unavailable.",
    ),
    Metric(IN_HAND, "gauge", ("stage",), "Deliveries that a stage has in hand."),
    Metric(CONNECTED, "gauge", (), "1 while the connections to the broker are open."),
    Metric(BLOCKED, "gauge", (), "1 while the broker takes no publishes (an alarm)."),
    Metric(BREAKER, "gauge", ("destination",), "1 while a destination's breaker is open."),
    Metric(BUILD, "gauge", ("version",), "1, for the version that runs."),
)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            self._declare(metric)

    def _declare(self, m: Metric) -> None:
        match m.kind:
            case "counter":
                self._counters[m.name] = Counter(
                    m.name, m.meaning, m.labels, registry=self._registry
                )
            case "gauge":
                self._gauges[m.name] = Gauge(m.name, m.meaning, m.labels, registry=self._registry)
            case "histogram":
                self._histograms[m.name] = Histogram(
                    m.name, m.meaning, m.labels, registry=self._registry, buckets=m.buckets
                )

    def counter(self, name: str, *labels: str) -> Counter:
        """Return the counter of this name, for these label values."""
        return self._counters[name].labels(*labels) if labels else self._counters[name]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return the histogram of this name, for these label values."""
        return self._histograms[name].labels(*labels) if labels else self._histograms[name]

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Return the gauge of this name, for these label values."""
        return self._gauges[name].labels(*labels) if labels else self._gauges[name]

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Let a gauge be read when somebody asks for it."""
        self.gauge(name, *labels).set_function(read)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
