"""Health: what is known of each backend class, and the prober that keeps it true."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import trio

from appliance.config.classes import BackendClass
from appliance.protocol.errors import GatewayError
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall, login_headers

NOT_CONFIGURED = "not configured"

# The one model that stable-diffusion.cpp's server lists: it draws to the end, whoever has left.
_UNSTOPPABLE = b'"sd-cpp-local"'
_PROBE_BODY_BYTES = 1024 * 1024  # a health page; ours is not to store it


@dataclass(frozen=True, slots=True)
class Health:
    """One class's state. `last_check`: Unix seconds, None before the first. `status`: of the last probe that answered.

    `unstoppable`: it was recognised as a server that cannot end a job.
    """

    required: bool
    healthy: bool = True
    ready: bool = True
    last_check: float | None = None
    error: str | None = None
    status: int | None = None
    latency_ms: float | None = None
    unstoppable: bool = False


class HealthBoard:
    """What the prober last saw of every class. Before the first round a class counts as ready.

    A class with an empty base_url is never ready and never blocks `all_required_ready`.
    """

    def __init__(self, classes: Iterable[BackendClass]) -> None:
        self._health = {one.name: _before_the_first_round(one) for one in classes}

    def snapshot(self) -> Mapping[str, Health]:
        return dict(self._health)

    def is_ready(self, name: str) -> tuple[bool, str]:
        """Say whether a class is ready, and if not, why. Raises KeyError for a class that is not configured."""
        health = self._health[name]
        return health.ready, "" if health.ready else health.error or "the last health check failed"

    def all_required_ready(self) -> bool:
        return all(health.ready for health in self._health.values() if health.required)

    def is_unstoppable(self, name: str) -> bool:
        """Whether a cut-off job is known to go on. Raises KeyError for a class that is not configured."""
        return self._health[name].unstoppable

    def record(self, name: str, health: Health) -> None:
        self._health[name] = health


def _before_the_first_round(one: BackendClass) -> Health:
    if not one.configured:
        return Health(required=False, healthy=False, ready=False, error=NOT_CONFIGURED)
    return Health(required=one.required)


async def run_prober(
    board: HealthBoard,
    classes: Iterable[BackendClass],
    upstream: UpstreamClient,
    interval_s: float,
    timeout_s: float,
    *,
    now: Callable[[], float] = time.time,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Probe every configured class every `interval_s`, for ever, each on its own: one that hangs delays no other."""
    async with trio.open_nursery() as nursery:
        for one in classes:
            if one.base_url:
                nursery.start_soon(
                    _keep_probing, board, one.name, partial(probe, one, upstream, timeout_s), interval_s, now
                )
        task_status.started()
        await trio.sleep_forever()


async def _keep_probing(
    board: HealthBoard, name: str, look: Callable[[], Awaitable[Health]], interval_s: float, now: Callable[[], float]
) -> None:
    while True:
        next_round = trio.current_time() + interval_s
        health = await look()
        board.record(name, replace(health, last_check=now()))
        await trio.sleep_until(next_round)


async def probe(one: BackendClass, upstream: UpstreamClient, timeout_s: float) -> Health:
    """Ask a class once: liveness, then readiness, within `timeout_s` together. Never raises for what it finds."""
    down = Health(required=one.required, healthy=False, ready=False)
    started = trio.current_time()
    alive = down
    with trio.move_on_after(timeout_s):
        try:
            alive = await _ask(one, upstream, one.health.liveness, timeout_s)
            if not alive.healthy or one.health.readiness == one.health.liveness:
                return alive
            ready = await _ask(one, upstream, one.health.readiness, timeout_s)
            return replace(ready, healthy=True, latency_ms=alive.latency_ms)
        except GatewayError as error:
            return replace(down, healthy=alive.healthy, error=error.message, latency_ms=_ms(started))
    return replace(down, healthy=alive.healthy, error=f"no answer within {timeout_s:g} s", latency_ms=_ms(started))


async def _ask(one: BackendClass, upstream: UpstreamClient, path: str, timeout_s: float) -> Health:
    answer = await upstream.exchange(
        UpstreamCall(
            backend_class=one.name,
            method="GET",
            url=_probe_url(one.base_url, path),
            first_byte_s=timeout_s,
            idle_s=timeout_s,
            max_body_bytes=_PROBE_BODY_BYTES,
            headers=login_headers(one),
        )
    )
    ok = _counts(answer, exact=one.health.exact)
    return Health(
        required=one.required,
        healthy=ok,
        ready=ok,
        error=None if ok else f"{path} answered {answer.status}",
        status=answer.status,
        latency_ms=round(answer.latency_s * 1000, 1),
        unstoppable=_UNSTOPPABLE in answer.body,
    )


def _probe_url(base_url: str, path: str) -> str:
    """One `/v1`, where both have it."""
    base = base_url.rstrip("/")
    path = "/" + path.lstrip("/")
    return (base.removesuffix("/v1") if path.startswith("/v1/") else base) + path


def _counts(answer: UpstreamAnswer, *, exact: bool) -> bool:
    """Only 200 on a path the operator chose; on one that we guessed, any answer of a living server."""
    return answer.status == 200 if exact else answer.status < 500


def _ms(started: float) -> float:
    return round((trio.current_time() - started) * 1000, 1)
