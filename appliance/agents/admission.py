"""Admission of runs: so many at a time on each class, a short queue before them, and heavy runs that do not queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from appliance.config.classes import BackendClass, Backends
from appliance.config.settings import Settings
from appliance.protocol.errors import AgentsBusy

OTHERS = 4  # contract 7: runs at a time on classes that have no setting of their own
MLX = "local_mlx"
RETRY_AFTER_S = 5.0  # a run takes seconds to a minute


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """One class: runs that go on, and runs that wait for their turn."""

    backend_class: str
    limit: int
    running: int
    waiting: int


class RunAdmission:
    """A CapacityLimiter for each class; at most AGENT_QUEUE_MAX runs wait, over all classes."""

    def __init__(self, settings: Settings, backends: Backends) -> None:
        self._settings = settings
        self._limiters = {
            name: trio.CapacityLimiter(_limit(settings, one))
            for name, one in sorted(backends.classes.items())
            if "chat" in one.capabilities
        }
        self._waiting = 0

    def __repr__(self) -> str:
        parts = (f"{one.backend_class}={one.running}/{one.limit}" for one in self.statistics())
        return f"<RunAdmission {' '.join(parts)}, {self._waiting} waiting>"

    def statistics(self) -> tuple[RunStatistics, ...]:
        return tuple(
            RunStatistics(name, int(one.total_tokens), one.borrowed_tokens, one.statistics().tasks_waiting)
            for name, one in self._limiters.items()
        )

    @asynccontextmanager
    async def hold(self, run_id: str, backend_class: str, tier: int) -> AsyncIterator[None]:
        """A place among the runs of a class, until the context ends. Raises AgentsBusy."""
        limiter = self._limiters[backend_class]
        try:
            limiter.acquire_on_behalf_of_nowait(run_id)
        except trio.WouldBlock:
            await self._wait(limiter, run_id, tier)
        try:
            yield
        finally:
            limiter.release_on_behalf_of(run_id)

    async def _wait(self, limiter: trio.CapacityLimiter, run_id: str, tier: int) -> None:
        settings = self._settings
        if tier >= 1 and settings.agent_shed_heavy:
            raise _busy(
                "shed_heavy", "All places are taken, and a run of tier 1 or more does not wait (AGENT_SHED_HEAVY)"
            )
        if self._waiting >= settings.agent_queue_max:
            raise _busy("queue_full", f"{self._waiting} runs wait already (AGENT_QUEUE_MAX)")
        self._waiting += 1
        try:
            with trio.move_on_after(settings.agent_queue_timeout_sec) as waiting:
                await limiter.acquire_on_behalf_of(run_id)
        finally:
            self._waiting -= 1
        if waiting.cancelled_caught:
            waited = f"{settings.agent_queue_timeout_sec:g} s"
            raise _busy("queue_timeout", f"No run ended within {waited} (AGENT_QUEUE_TIMEOUT_SEC)")


def _limit(settings: Settings, one: BackendClass) -> int:
    if one.name == MLX:
        return settings.agent_backend_concurrency_mlx
    return settings.agent_backend_concurrency_ollama if one.provider == "ollama" else OTHERS


def _busy(code: str, why: str) -> AgentsBusy:
    return AgentsBusy(f"{why}: try again in a moment.", code=code, retry_after_s=RETRY_AFTER_S)
