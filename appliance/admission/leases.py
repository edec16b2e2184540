"""Leases: the slots of each class and capability, who holds them, and their way back."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from appliance.config.classes import BackendClass, Capability
from appliance.protocol.errors import BackendOverloaded

RETRY_AFTER_S = 5.0  # contract 5: a picture takes seconds, not minutes


@dataclass(frozen=True, slots=True)
class Holder:
    """A request that holds a slot, and for how long it has."""

    request_id: str
    since_s: float


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """One class and capability: `limit` slots, of which `inflight` are held."""

    backend_class: str
    capability: Capability
    limit: int
    inflight: int
    holders: tuple[Holder, ...]

    @property
    def available(self) -> int:
        return self.limit - self.inflight


class Leases:
    """A CapacityLimiter for each class and capability; tokens are borrowed on behalf of request ids.

    A client never queues: a full class raises at once. Borrowing twice for one request raises RuntimeError, giving
    back what is not held is impossible, so a slot comes back exactly once.
    """

    def __init__(self, classes: Mapping[str, BackendClass]) -> None:
        self._limiters: dict[tuple[str, Capability], trio.CapacityLimiter] = {
            (name, capability): trio.CapacityLimiter(backend_class.limit(capability))
            for name, backend_class in sorted(classes.items())
            for capability in sorted(backend_class.capabilities)
        }
        self._since: dict[tuple[str, Capability, str], float] = {}

    def __repr__(self) -> str:
        slots = (
            f"{name}.{capability}={value.borrowed_tokens:g}/{value.total_tokens:g}"
            for (name, capability), value in self._limiters.items()
        )
        return f"<Leases {' '.join(slots)}>"

    def hold(self, request_id: str, backend_class: str, capability: Capability) -> AbstractContextManager[None]:
        """Hold a slot until the context ends. Entering raises BackendOverloaded at once when there is none."""
        return _Hold(self, request_id, backend_class, capability)

    @asynccontextmanager
    async def hold_within(
        self, timeout_s: float, request_id: str, backend_class: str, capability: Capability
    ) -> AsyncIterator[None]:
        """The same for what the gateway itself has begun and would have to give up: wait for a slot, so long at most."""
        with trio.move_on_after(timeout_s) as waiting:
            await self._limiters[backend_class, capability].acquire_on_behalf_of(request_id)
        if waiting.cancelled_caught:
            raise self._overloaded(backend_class, capability)
        self._since[backend_class, capability, request_id] = trio.current_time()
        try:
            yield
        finally:
            self.give_back(request_id, backend_class, capability)

    def take_nowait(self, request_id: str, backend_class: str, capability: Capability) -> None:
        """Take a slot that `give_back` gives back. Raises BackendOverloaded."""
        try:
            self._limiters[backend_class, capability].acquire_on_behalf_of_nowait(request_id)
        except trio.WouldBlock:
            raise self._overloaded(backend_class, capability) from None
        self._since[backend_class, capability, request_id] = trio.current_time()

    def give_back(self, request_id: str, backend_class: str, capability: Capability) -> None:
        """Give back what was taken, once: RuntimeError for what is not held."""
        self._since.pop((backend_class, capability, request_id), None)
        self._limiters[backend_class, capability].release_on_behalf_of(request_id)

    def _overloaded(self, backend_class: str, capability: Capability) -> BackendOverloaded:
        limit = int(self._limiters[backend_class, capability].total_tokens)
        return BackendOverloaded(
            backend_class=backend_class, route_kind=capability, limit=limit, retry_after_s=RETRY_AFTER_S
        )

    def statistics(self) -> tuple[SlotStatistics, ...]:
        """Every class and capability, sorted by name, with the holders as they are now."""
        now = trio.current_time()
        return tuple(
            self._slot(name, capability, limiter, now) for (name, capability), limiter in self._limiters.items()
        )

    def _slot(self, name: str, capability: Capability, limiter: trio.CapacityLimiter, now: float) -> SlotStatistics:
        holders = tuple(
            Holder(request_id, now - since)
            for (holder_class, holder_capability, request_id), since in self._since.items()
            if (holder_class, holder_capability) == (name, capability)
        )
        return SlotStatistics(name, capability, int(limiter.total_tokens), limiter.borrowed_tokens, holders)


class _Hold(AbstractContextManager[None]):
    """A class, because every request has one: a generator costs three times as much."""

    def __init__(self, leases: Leases, request_id: str, backend_class: str, capability: Capability) -> None:
        self._leases = leases
        self._slot = (request_id, backend_class, capability)

    def __enter__(self) -> None:
        self._leases.take_nowait(*self._slot)

    def __exit__(self, *_: object) -> None:
        self._leases.give_back(*self._slot)
