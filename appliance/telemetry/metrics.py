"""Metrics: what the gateway counts and measures, and the page that Prometheus reads."""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar

from appliance.telemetry.families import Metric
from appliance.telemetry.readings import Readings, take_readings
from appliance.telemetry.series import (
    OTHER,
    Buckets,
    Count,
    Family,
    Make,
    Show,
    Total,
    show_counter,
    show_gauge,
    show_histogram,
    show_summary,
)

Direction = Literal["in", "out"]

MAX_SERIES = 512  # per family: 40 routes by the statuses they really answer; a counter takes 0.8 KB, a histogram 5
_S = TypeVar("_S")

_TOOL_RUNTIME_BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)  # contract 2
_RELEASE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 120)  # the promise is 0.05
_WAIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The families of one process. Recording costs microseconds and never fails.

    `routes` are the templates that may be a `path` label (`/v1/models/{id}`); any other path is counted as `other`,
    so that no client chooses a label. Readings are taken when the page is rendered.
    """

    def __init__(self, *, version: str, routes: Iterable[str], readings: Readings) -> None:
        self._families: list[Family[Any]] = []
        self._version = version
        self._readings = readings
        self._routes = frozenset(routes)
        self._requests = self._counter("gateway_requests_total", "Requests answered.", "path", "status")
        self._durations = self._summary(
            "gateway_request_duration_ms",
            "Time from a request's head to the end of its answer, in milliseconds.",
            "path",
            "status",
        )
        self._answered: dict[tuple[str, int], tuple[Count, Total]] = {}
        self._tools = self._counter("gateway_tool_invocations_total", "Tools run.", "tool", "status")
        self._tool_runtime = self._histogram(
            "gateway_tool_runtime_ms", "Time a tool ran, in milliseconds.", _TOOL_RUNTIME_BUCKETS_MS
        )
        self._runs = self._counter("gateway_agent_runs_total", "Runs of agents that ended.", "agent", "outcome")
        self._steps = self._counter("gateway_agent_steps_total", "Model calls and tools of those runs.", "agent")
        self._refusals = self._counter("gateway_refusals_total", "Requests refused, by error code.", "reason")
        self._releases = self._histogram(
            "gateway_disconnect_release_seconds",
            "Time from a client's disconnect to the return of its slot.",
            _RELEASE_BUCKETS_S,
        )
        self._first_bytes = self._histogram(
            "gateway_time_to_first_byte_seconds",
            "Time from a request's head to the first byte of its answer's body.",
            _WAIT_BUCKETS_S,
            "path",
            "backend_class",
        )
        self._upstreams = self._histogram(
            "gateway_upstream_latency_seconds",
            "Time from an upstream call to the head of its answer.",
            _WAIT_BUCKETS_S,
            "backend_class",
        )
        relayed = self._counter("gateway_relayed_bytes_total", "Body bytes relayed.", "direction")
        self._relayed: Mapping[Direction, Count] = {"in": relayed.at("in"), "out": relayed.at("out")}
        self._tokens = self._counter(
            "gateway_tokens_total", "Tokens, as the upstreams report them.", "backend_class", "direction"
        )
        self._connections = self._gauge("gateway_open_connections", "Connections open now.", "listener")
        self._accepted = self._counter("gateway_connections_accepted_total", "Connections accepted.", "listener")

    def note_request(self, path: str, status: int, duration_s: float) -> None:
        """A request ended: answered, or its client left (499)."""
        path = self._route(path)
        status = status if 100 <= status <= 599 else 0
        series = self._answered.get((path, status))
        if series is None:  # found once: every request would look twice, and write its status as a text
            labels = (path, str(status) if status else OTHER)
            series = self._answered[path, status] = self._requests.at(*labels), self._durations.at(*labels)
        requests, durations = series
        requests.inc()
        durations.observe(duration_s * 1000)

    def note_tool(self, tool: str, status: str, runtime_s: float) -> None:
        """A tool ended, one way or another."""
        self._tools.at(tool, status).inc()
        self._tool_runtime.at().observe(runtime_s * 1000)

    def note_run(self, agent: str, outcome: str, steps: int) -> None:
        """A run of an agent ended: `ok`, `failed`, or `cancelled` by its client."""
        self._runs.at(agent, outcome).inc()
        self._steps.at(agent).inc(steps)

    def note_refusal(self, reason: str) -> None:
        """A request was refused; `reason` is the error's code."""
        self._refusals.at(reason).inc()

    def note_release(self, seconds: float) -> None:
        """A slot came back, this long after its client had left."""
        self._releases.at().observe(seconds)

    def note_first_byte(self, path: str, backend_class: str, seconds: float) -> None:
        """The first byte of an answer's body was sent, this long after the request's head; class `none`: nobody was asked."""
        self._first_bytes.at(self._route(path), backend_class).observe(seconds)

    def note_upstream(self, backend_class: str, seconds: float) -> None:
        """An upstream sent the head of its answer after this time."""
        self._upstreams.at(backend_class).observe(seconds)

    def note_tokens(self, backend_class: str, prompt: int, completion: int) -> None:
        """An upstream reported what a call took in and gave out."""
        self._tokens.at(backend_class, "in").inc(prompt)
        self._tokens.at(backend_class, "out").inc(completion)

    def note_relayed(self, direction: Direction, size: int) -> None:
        """Body bytes went `in` from a client, or `out` to one."""
        self._relayed[direction].inc(size)

    def note_opened(self, listener: str) -> None:
        """A connection was accepted; `note_closed` follows."""
        self._connections.at(listener).inc()
        self._accepted.at(listener).inc()

    def note_closed(self, listener: str) -> None:
        """A connection that `note_opened` announced is gone."""
        self._connections.at(listener).inc(-1)

    def read(self) -> Iterable[Metric]:
        """All of it as it is now."""
        return chain((family.read() for family in self._families), take_readings(self._version, self._readings))

    def _counter(self, name: str, text: str, *labels: str) -> Family[Count]:
        return self._family(name, text, labels, Count, show_counter)

    def _gauge(self, name: str, text: str, *labels: str) -> Family[Count]:
        return self._family(name, text, labels, Count, show_gauge)

    def _summary(self, name: str, text: str, *labels: str) -> Family[Total]:
        return self._family(name, text, labels, Total, show_summary)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family[Buckets]:
        return self._family(name, text, labels, partial(Buckets, buckets), show_histogram)

    def _family(self, name: str, text: str, labels: tuple[str, ...], make: Make[_S], show: Show[_S]) -> Family[_S]:
        family = Family(name, text, labels, make=make, show=show, max_series=MAX_SERIES)
        self._families.append(family)
        return family

    def _route(self, path: str) -> str:
        return path if path in self._routes else OTHER
