"""Series: counters as plain numbers, found by one dictionary look-up and made into Prometheus's families when it asks.

The library's own take a lock and check their labels with every increment, a microsecond each, and a request has a dozen;
here one thread counts.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"  # the label of what is unknown, or one too many

_S = TypeVar("_S")


class Count:
    """A number that goes up; a gauge's goes down too."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Total:
    """How many were observed, and their sum."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.count += 1
        self.sum += value


class Buckets:
    """How many were observed up to each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


Make = Callable[[], _S]
"""Makes an empty series."""

Show = Callable[[str, str, Sequence[str], Iterable[tuple[Sequence[str], _S]]], Metric]
"""Makes a family of all series of one metric: its name, its text, its labels, the series by their labels' values."""


class Family(Collector, Generic[_S]):
    """The series of one metric by their labels' values; at most `max_series`, and one for all the others."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], *, make: Make[_S], show: Show[_S], max_series: int
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._make = make
        self._show = show
        self._max_series = max_series
        self._others = (OTHER,) * len(labels)
        self._series: dict[tuple[str, ...], _S] = {} if labels else {(): make()}

    def at(self, *labels: str) -> _S:
        """The series of these values. Raises ValueError for too many or too few."""
        series = self._series.get(labels)
        if series is not None:
            return series
        if len(labels) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {', '.join(self._labels) or '(none)'}")
        if len(self._series) >= self._max_series:
            labels = self._others
        return self._series.setdefault(labels, self._make())

    def collect(self) -> Iterable[Metric]:
        yield self._show(self._name, self._text, self._labels, self._series.items())

    def describe(self) -> Iterable[Metric]:
        yield self._show(self._name, self._text, self._labels, ())


def show_counter(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Count]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, one in series:
        family.add_metric(values, one.value)
    return family


def show_gauge(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Count]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, one in series:
        family.add_metric(values, one.value)
    return family


def show_summary(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Total]]) -> Metric:
    family = SummaryMetricFamily(name, text, labels=labels)
    for values, one in series:
        family.add_metric(values, count_value=one.count, sum_value=one.sum)
    return family


def show_histogram(
    name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Buckets]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, one in series:
        family.add_metric(values, buckets=one.cumulative(), sum_value=one.sum)
    return family
