"""Series: counters as plain numbers, found by one dictionary look-up and made into Prometheus's families when it asks.

Those of `prometheus_client` take a lock and check their labels with every increment, a microsecond each, and a request
has a dozen; here one thread counts.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from appliance.telemetry.families import Metric, Sample

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

    def cumulative(self) -> list[tuple[float, float]]:
        """Bounds, the last of them infinite, and how many there were up to each."""
        return list(zip([*self._bounds, math.inf], map(float, accumulate(self.counts)), strict=True))


Make = Callable[[], _S]
"""Makes an empty series."""

Show = Callable[[str, str, Sequence[str], Iterable[tuple[Sequence[str], _S]]], Metric]
"""Makes a family of all series of one metric: its name, its text, its labels, the series by their labels' values."""


class Family(Generic[_S]):
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

    def read(self) -> Metric:
        """All series as they are now."""
        return self._show(self._name, self._text, self._labels, self._series.items())


def show_counter(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Count]]) -> Metric:
    return Metric("counter", name, text, [Sample(_named(labels, values), one.value) for values, one in series])


def show_gauge(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Count]]) -> Metric:
    return Metric("gauge", name, text, [Sample(_named(labels, values), one.value) for values, one in series])


def show_summary(name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Total]]) -> Metric:
    samples: list[Sample] = []
    for values, one in series:
        where = _named(labels, values)
        samples += (Sample(where, one.count, "_count"), Sample(where, one.sum, "_sum"))
    return Metric("summary", name, text, samples)


def show_histogram(
    name: str, text: str, labels: Sequence[str], series: Iterable[tuple[Sequence[str], Buckets]]
) -> Metric:
    samples: list[Sample] = []
    for values, one in series:
        where = _named(labels, values)
        buckets = one.cumulative()
        samples += (Sample((*where, ("le", bound)), count, "_bucket") for bound, count in buckets)
        samples += (Sample(where, buckets[-1][1], "_count"), Sample(where, one.sum, "_sum"))
    return Metric("histogram", name, text, samples)


def _named(labels: Sequence[str], values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(labels, values, strict=True))
