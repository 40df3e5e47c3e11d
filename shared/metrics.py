"""What is measured, by name: a closed set, declared in one table, in Prometheus' conventions.

Each process has metrics of its own; nothing here is global. The names are an interface: the
dashboards, the alerts and other people's queries are written against them.

Known limits: prometheus_client, which counts, heeds variables of its own
(PROMETHEUS_DISABLE_CREATED_SERIES, PROMETHEUS_MULTIPROC_DIR). The monitor's thread asks while mail
runs: numbers that belong together, as a histogram's sum and count, may be an observation apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.metrics import MetricWrapperBase

EVENTS: Final = "pop3_connector_mail_events_total"
BYTES: Final = "pop3_connector_fetched_bytes_total"
HANDLING: Final = "pop3_connector_handling_seconds"
LATENCY: Final = "pop3_connector_fetched_to_delivered_seconds"
SPOOL: Final = "pop3_connector_spool_failures_total"
IN_HAND: Final = "pop3_connector_in_hand"
CONNECTED: Final = "pop3_connector_broker_connected"
BLOCKED: Final = "pop3_connector_broker_blocked"
UNSUBSCRIBED: Final = "pop3_connector_broker_unsubscribed"
UNCONFIRMED: Final = "pop3_connector_broker_unconfirmed_seconds"
BREAKER: Final = "pop3_connector_breaker_open"
HELD: Final = "pop3_connector_accounts_held"
UNTRIED: Final = "pop3_connector_suspects_untried_seconds"
BUILD: Final = "pop3_connector_build_info"

_SHORT: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300)
_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)


class Metric(NamedTuple):
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
        "Mail events by stage: fetched, forwarded, delivered, suppressed, retrying, waiting,"
        " failed, quarantined, removed, polled, accounts_failed, left_undone, crashed.",
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
    Metric(UNSUBSCRIBED, "gauge", (), "Queues that it should consume, and has no subscription to."),
    Metric(
        UNCONFIRMED,
        "gauge",
        (),
        "Seconds for which the oldest message it has published waits for the broker's confirm.",
    ),
    Metric(BREAKER, "gauge", ("destination",), "1 while a destination's breaker is open."),
    Metric(
        HELD,
        "gauge",
        (),
        "Accounts that are not polled until somebody chooses: their ledger may be another one.",
    ),
    Metric(
        UNTRIED,
        "gauge",
        ("stage",),
        "Seconds for which no process has started that would try suspects; 0 while one does.",
    ),
    Metric(BUILD, "gauge", ("version",), "1, for the version that runs."),
)


def _ignore(_: float = 0) -> None:
    """Do nothing with it: nobody can ask."""


class Metrics:
    """The metrics of one process; those without labels are shown from the start, as zero.

    Args:
        served: whether anybody can ask for them. Where nobody can, nothing is counted, and the
            library is not loaded, which takes a part of a short run.
    """

    def __init__(self, *, served: bool = False) -> None:
        self._registry: CollectorRegistry | None = None
        self._families: dict[str, MetricWrapperBase] = {}
        if not served:
            return
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        self._registry = CollectorRegistry()
        for metric in METRICS:
            more = {"buckets": metric.buckets} if metric.buckets else {}
            self._families[metric.name] = kinds[metric.kind](
                metric.name, metric.meaning, metric.labels, registry=self._registry, **more
            )

    def counter(self, name: str, *labels: str) -> Callable[[float], None]:
        """Return what adds to the counter of this name, for these label values."""
        return cast("Counter", self._child(name, labels)).inc if self._families else _ignore

    def histogram(self, name: str, *labels: str) -> Callable[[float], None]:
        """Return what the histogram of this name observes by, for these label values."""
        return cast("Histogram", self._child(name, labels)).observe if self._families else _ignore

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Let a gauge be read when somebody asks for it."""
        if self._families:
            cast("Gauge", self._child(name, labels)).set_function(read)

    def text(self) -> bytes:
        """Return all metrics of a process in Prometheus' text format; from any thread."""
        if self._registry is None:
            return b""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def _child(self, name: str, labels: tuple[str, ...]) -> MetricWrapperBase:
        family = self._families[name]
        return family.labels(*labels) if labels else family
