"""The metrics of a process as Prometheus reads them; the only module that knows its library.

It is asked in the monitor's thread while mail runs: numbers that belong together, such as a
histogram's sum and count, may be an observation apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Exposed
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shared.metrics.registry import Metric, Metrics, Number


class _Collected(Collector):
    """What was collected already."""

    def __init__(self, families: Iterable[Exposed]) -> None:
        self._families = families

    def collect(self) -> Iterator[Exposed]:
        """Yield it."""
        return iter(self._families)


def text(metrics: Metrics) -> bytes:
    """Return all metrics of a process in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected([_exposed(*family) for family in metrics.families()]))
    return generate_latest(registry)


def _exposed(metric: Metric, numbers: Sequence[tuple[tuple[str, ...], Number]]) -> Exposed:
    name = metric.name.removesuffix("_total")
    exposed = Exposed(name, metric.meaning, metric.kind)
    for labels, number in numbers:
        named = dict(zip(metric.labels, labels, strict=True))
        for suffix, value, bound in number.samples():
            bucket = {} if bound is None else {"le": _bound(bound)}
            exposed.add_sample(name + suffix, named | bucket, value)
    return exposed


def _bound(seconds: float) -> str:
    """Return a bound as the library writes it, which gives its function no types."""
    return str(floatToGoString(seconds))  # type: ignore[no-untyped-call]
