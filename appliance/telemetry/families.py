"""Families: what the gateway counts and measures, as it is now, for whoever writes the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Sample(NamedTuple):
    """One line: `suffix` is what follows the metric's name, such as `_sum`; `labels` are names with their values.

    A number in the place of a label's value is the bound of a bucket.
    """

    labels: Sequence[tuple[str, str | float]]
    value: float
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """All series of one name. A counter's name ends in `_total`."""

    kind: Literal["counter", "gauge", "summary", "histogram"]
    name: str
    text: str
    samples: Sequence[Sample]


def counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels."""
    return Metric("counter", name, text, [Sample((), value)])


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return Metric("gauge", name, text, [Sample((), value)])
