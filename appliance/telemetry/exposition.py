"""Exposition: the page that Prometheus reads, written by its library, which is imported when the first one asks.

It imports http.server, urllib and wsgiref besides itself: 4 MB for as long as we run.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from appliance.telemetry.families import Metric, Sample

_as_go: Callable[[float], str] = floatToGoString  # the library has no types for it


def write_page(metrics: Iterable[Metric]) -> tuple[bytes, str]:
    """The page and its content type: the Prometheus text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[PrometheusMetric]:
        return map(_family, self._metrics)

    def describe(self) -> Iterable[PrometheusMetric]:
        return ()  # or else registering it would collect


def _family(metric: Metric) -> PrometheusMetric:
    name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name  # it puts that back
    family = PrometheusMetric(name, metric.text, metric.kind)
    for sample in metric.samples:
        family.add_sample(metric.name + sample.suffix, _labels(sample), sample.value)
    return family


def _labels(sample: Sample) -> dict[str, str]:
    return {name: value if isinstance(value, str) else _as_go(value) for name, value in sample.labels}
