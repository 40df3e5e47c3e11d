"""What is measured, by name: a closed set, declared in one table, in Prometheus' conventions.

Each process has metrics of its own; nothing here is global. The names are an interface: the
dashboards, the alerts and other people's queries are written against them.

They are plain numbers while mail runs, and become Prometheus' text when somebody asks. One thread
writes them, that of the event loop; the monitor's only reads.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeAlias, cast

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


class Sample(NamedTuple):
    """A line of Prometheus' text: what its name ends with, its value, and the bucket it is of."""

    suffix: str
    value: float
    bound: float | None = None


class Counter:
    """A number that only grows."""

    __slots__ = ("_created", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._created = time.time()

    def inc(self, by: float = 1) -> None:
        """Add to it."""
        self._value += by

    def samples(self) -> Iterator[Sample]:
        """Yield its value, and since when it grows."""
        yield Sample("_total", self._value)
        yield Sample("_created", self._created)


class Gauge:
    """A number that goes up and down, or that is read when somebody asks for it."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        self.read: Callable[[], float] = float

    def set(self, value: float) -> None:
        """Make this its value."""
        self.read = lambda: value

    def samples(self) -> Iterator[Sample]:
        """Yield its value."""
        yield Sample("", self.read())


class Histogram:
    """How many observations fell into each bucket, and their sum.

    Args:
        bounds: the upper bound of each bucket, which belongs to it; one more takes the rest.
    """

    __slots__ = ("_bounds", "_counts", "_created", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._created = time.time()

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[Sample]:
        """Yield how many are at most each bound, how many there are, and their sum."""
        total = 0
        for bound, total in zip((*self._bounds, math.inf), accumulate(self._counts), strict=True):
            yield Sample("_bucket", total, bound)
        yield Sample("_count", total)
        yield Sample("_sum", self._sum)
        yield Sample("_created", self._created)


Number: TypeAlias = Counter | Gauge | Histogram
Family: TypeAlias = tuple[Metric, Sequence[tuple[tuple[str, ...], Number]]]
"""A metric, and its numbers with the values of their labels."""

_DECLARED: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}


def _new_number(metric: Metric) -> Number:
    match metric.kind:
        case "counter":
            return Counter()
        case "gauge":
            return Gauge()
        case "histogram":
            return Histogram(metric.buckets)


class Metrics:
    """The metrics of one process: numbers by the values of their labels, for each name."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[tuple[str, ...], Number]] = {m.name: {} for m in METRICS}
        for metric in METRICS:
            if not metric.labels:
                self._number(metric.name, ())  # shown from the start, as zero

    def _number(self, name: str, labels: tuple[str, ...]) -> Number:
        numbers, metric = self._numbers[name], _DECLARED[name]
        if labels not in numbers:
            if len(labels) != len(metric.labels):
                raise ValueError(f"{name} has the labels {metric.labels}, not {labels}")
            numbers[labels] = _new_number(metric)
        return numbers[labels]

    def counter(self, name: str, *labels: str) -> Counter:
        """Return the counter of this name, for these label values."""
        return cast(Counter, self._number(name, labels))

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return the histogram of this name, for these label values."""
        return cast(Histogram, self._number(name, labels))

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Return the gauge of this name, for these label values."""
        return cast(Gauge, self._number(name, labels))

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Let a gauge be read when somebody asks for it."""
        self.gauge(name, *labels).read = read

    def families(self) -> Sequence[Family]:
        """Return every metric with its numbers; from any thread."""
        # Copied at once: it is the monitor's thread that asks, and a label value may come up.
        return [(_DECLARED[name], list(of.items())) for name, of in self._numbers.items()]
