"""Metrics: what the gateway counts and measures, and the page that Prometheus reads."""

from collections.abc import Iterable
from typing import Generic, Literal, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from appliance.telemetry.readings import Readings, ReadingsCollector

Direction = Literal["in", "out"]

OTHER = "other"  # the label of what is unknown, or one too many
MAX_SERIES = 512  # per family: 40 routes by the statuses they really answer; each series costs about 1 KB
_TOOL_RUNTIME_BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)  # contract 2
_RELEASE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 120)  # the promise is 0.05
_WAIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

_M = TypeVar("_M", bound=MetricWrapperBase)


class _Family(Generic[_M]):
    """The series of one metric, found by one dictionary look-up; at most MAX_SERIES and one for all the others."""

    def __init__(self, metric: _M, label_count: int) -> None:
        self._metric = metric
        self._others = (OTHER,) * label_count
        self._series: dict[tuple[str, ...], _M] = {}

    def at(self, *labels: str) -> _M:
        series = self._series.get(labels)
        if series is not None:
            return series
        if len(self._series) >= MAX_SERIES:
            labels = self._others
        series = self._series[labels] = self._metric.labels(*labels)
        return series


class Metrics:
    """The families of one process, in a registry of their own. Recording costs microseconds and never fails.

    `routes` are the templates that may be a `path` label (`/v1/models/{id}`); any other path is counted as `other`,
    so that no client chooses a label. Readings are taken when the page is rendered.
    """

    def __init__(self, *, version: str, routes: Iterable[str], readings: Readings) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._routes = frozenset(routes)
        self._requests = _Family(
            Counter("gateway_requests_total", "Requests answered.", ["path", "status"], registry=registry), 2
        )
        self._durations = _Family(
            Summary(
                "gateway_request_duration_ms",
                "Time from a request's head to the end of its answer, in milliseconds.",
                ["path", "status"],
                registry=registry,
            ),
            2,
        )
        self._tools = _Family(
            Counter("gateway_tool_invocations_total", "Tools run.", ["tool", "status"], registry=registry), 2
        )
        self._tool_runtime = Histogram(
            "gateway_tool_runtime_ms",
            "Time a tool ran, in milliseconds.",
            buckets=_TOOL_RUNTIME_BUCKETS_MS,
            registry=registry,
        )
        self._refusals = _Family(
            Counter("gateway_refusals_total", "Requests refused, by error code.", ["reason"], registry=registry), 1
        )
        self._releases = Histogram(
            "gateway_disconnect_release_seconds",
            "Time from a client's disconnect to the return of its slot.",
            buckets=_RELEASE_BUCKETS_S,
            registry=registry,
        )
        self._first_bytes = _Family(
            Histogram(
                "gateway_time_to_first_byte_seconds",
                "Time from a request's head to the first byte of its answer's body.",
                ["path"],
                buckets=_WAIT_BUCKETS_S,
                registry=registry,
            ),
            1,
        )
        self._upstreams = _Family(
            Histogram(
                "gateway_upstream_latency_seconds",
                "Time from an upstream call to the head of its answer.",
                ["backend_class"],
                buckets=_WAIT_BUCKETS_S,
                registry=registry,
            ),
            1,
        )
        self._relayed = _Family(
            Counter("gateway_relayed_bytes_total", "Body bytes relayed.", ["direction"], registry=registry), 1
        )
        self._connections = _Family(
            Gauge("gateway_open_connections", "Connections open now.", ["listener"], registry=registry), 1
        )
        self._accepted = _Family(
            Counter("gateway_connections_accepted_total", "Connections accepted.", ["listener"], registry=registry), 1
        )
        registry.register(ReadingsCollector(version, readings))

    def note_request(self, path: str, status: int, duration_s: float) -> None:
        """A request ended: answered, or its client left (499)."""
        labels = (self._route(path), str(status) if 100 <= status <= 599 else OTHER)
        self._requests.at(*labels).inc()
        self._durations.at(*labels).observe(duration_s * 1000)

    def note_tool(self, tool: str, status: str, runtime_s: float) -> None:
        """A tool ended, one way or another."""
        self._tools.at(tool, status).inc()
        self._tool_runtime.observe(runtime_s * 1000)

    def note_refusal(self, reason: str) -> None:
        """A request was refused; `reason` is the error's code."""
        self._refusals.at(reason).inc()

    def note_release(self, seconds: float) -> None:
        """A slot came back, this long after its client had left."""
        self._releases.observe(seconds)

    def note_first_byte(self, path: str, seconds: float) -> None:
        """The first byte of an answer's body was sent, this long after the request's head."""
        self._first_bytes.at(self._route(path)).observe(seconds)

    def note_upstream(self, backend_class: str, seconds: float) -> None:
        """An upstream sent the head of its answer after this time."""
        self._upstreams.at(backend_class).observe(seconds)

    def note_relayed(self, direction: Direction, size: int) -> None:
        """Body bytes went `in` from a client, or `out` to one."""
        self._relayed.at(direction).inc(size)

    def note_opened(self, listener: str) -> None:
        """A connection was accepted; `note_closed` follows."""
        self._connections.at(listener).inc()
        self._accepted.at(listener).inc()

    def note_closed(self, listener: str) -> None:
        """A connection that `note_opened` announced is gone."""
        self._connections.at(listener).dec()

    def render(self) -> tuple[bytes, str]:
        """The page and its content type: the Prometheus text format 0.0.4."""
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE_PLAIN_0_0_4

    def _route(self, path: str) -> str:
        return path if path in self._routes else OTHER


class _WithoutCreated(Collector):
    """A registry without the `_created` series: two thirds more lines that nobody asks for.

    The library's own switch for that belongs to the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
