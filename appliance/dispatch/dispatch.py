"""Dispatch: capability, readiness, slot; the one sequence that every routed call goes through, in this order."""

from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass

from appliance.admission.grace import Grace
from appliance.admission.leases import Leases
from appliance.admission.policy import decide_class, decide_readiness
from appliance.config.classes import BackendClass, Backends, Capability
from appliance.config.settings import Settings
from appliance.dispatch.routing import Router
from appliance.protocol.frozen import frozen
from appliance.upstream.client import UpstreamClient
from appliance.upstream.health import HealthBoard


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What a routed call needs: the rules, the classes, their health and slots, and the way to them."""

    settings: Settings
    backends: Backends
    health: HealthBoard
    leases: Leases
    upstream: UpstreamClient
    grace: Grace
    router: Router

    def decide(self, name: str, capability: Capability) -> BackendClass:
        """The class itself, if it does this at all. Raises BackendNotFound, CapabilityNotSupported."""
        return decide_class(self.backends, name, capability)

    def admit(self, request: "Caller", backend_class: BackendClass, capability: Capability, *, probed: bool) -> None:
        """Check readiness (unless nothing is probed: the mock), then take a slot until the request's stack closes.

        Raises BackendNotReady, BackendOverloaded.
        """
        self.check_readiness(backend_class, probed=probed)
        request.stack.enter_context(self.leases.hold(request.request_id, backend_class.name, capability))
        request.on_lease(backend_class.name)

    async def admit_within(
        self, timeout_s: float, request: "Caller", backend_class: BackendClass, capability: Capability, *, probed: bool
    ) -> None:
        """The same for a later call of what was already admitted: waits this long for a slot before it is refused."""
        self.check_readiness(backend_class, probed=probed)
        slot = self.leases.hold_within(timeout_s, request.request_id, backend_class.name, capability)
        await request.stack.enter_async_context(slot)
        request.on_lease(backend_class.name)

    def check_readiness(self, backend_class: BackendClass, *, probed: bool) -> None:
        """Raises BackendNotReady; a class that nothing probes, the mock's, is always ready."""
        if probed:
            ready, reason = self.health.is_ready(backend_class.name)
            decide_readiness(backend_class, ready=ready, reason=reason)

    def protect(self, backend_class: BackendClass, seconds: float) -> AbstractContextManager[object]:
        """`on_disconnect: finish`: what runs inside is not cut off by a client that leaves, for this long."""
        return self.grace.shield(seconds) if backend_class.on_disconnect == "finish" else nullcontext()


@frozen
class Caller:
    """The request on whose behalf something is dispatched. `stack` closes, shielded, after it ended in whatever way.

    `on_lease` is told the class whose slot was taken, for the journal and the metrics.
    """

    request_id: str
    stack: AsyncExitStack
    on_lease: Callable[[str], None]
