"""Leases: a slot comes back exactly once, on every way out."""

import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import integers

from appliance.admission.leases import Leases
from appliance.config.classes import BackendClass, HealthPaths
from appliance.protocol.errors import BackendOverloaded


def make_class(name: str = "gpu_heavy", limit: int = 2) -> BackendClass:
    return BackendClass(
        name=name,
        base_url="http://127.0.0.1:1",
        provider="a1111",
        capabilities=frozenset({"images"}),
        limits={"images": limit},
        health=HealthPaths("/", "/", exact=False),
    )


async def test_the_third_is_refused_at_once_and_the_slots_name_their_holders(
    autojump_clock: trio.testing.MockClock,
) -> None:
    leases = Leases({"gpu_heavy": make_class()})
    with leases.hold("req-1", "gpu_heavy", "images"):
        await trio.sleep(3)
        with leases.hold("req-2", "gpu_heavy", "images"):
            with pytest.raises(BackendOverloaded) as refused, leases.hold("req-3", "gpu_heavy", "images"):
                pass
            assert refused.value.retry_after_s == 5
            [slot] = leases.statistics()
            assert (slot.limit, slot.available, slot.inflight) == (2, 0, 2)
            assert [(holder.request_id, holder.since_s) for holder in slot.holders] == [("req-1", 3), ("req-2", 0)]
    [slot] = leases.statistics()
    assert (slot.available, slot.holders) == (2, ())


async def test_a_request_cannot_hold_the_same_slot_twice() -> None:
    leases = Leases({"gpu_heavy": make_class()})
    with leases.hold("req-1", "gpu_heavy", "images"):
        with pytest.raises(RuntimeError), leases.hold("req-1", "gpu_heavy", "images"):
            pass
        assert leases.statistics()[0].inflight == 1
    assert leases.statistics()[0].inflight == 0


async def test_a_slot_comes_back_on_error_and_on_cancel() -> None:
    leases = Leases({"gpu_heavy": make_class()})
    with pytest.raises(KeyError), leases.hold("req-1", "gpu_heavy", "images"):
        raise KeyError
    with trio.CancelScope() as scope:
        scope.cancel()
        with leases.hold("req-2", "gpu_heavy", "images"):
            await trio.sleep_forever()
    assert leases.statistics()[0].inflight == 0
    assert repr(leases) == "<Leases gpu_heavy.images=0/2>"


async def test_a_capability_without_a_limit_takes_one_at_a_time() -> None:
    one = BackendClass("a", "http://x", "openai", frozenset({"chat"}), {}, HealthPaths("/", "/", exact=False))
    leases = Leases({"a": one})
    with leases.hold("req-1", "a", "chat"), pytest.raises(BackendOverloaded), leases.hold("req-2", "a", "chat"):
        pass


class AnyOrder(RuleBasedStateMachine):
    """Whatever is taken and given back in whatever order, the count is the number of holders."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases({"gpu_heavy": make_class(limit=3)})
        self.held: dict[int, object] = {}

    @rule(request=integers(0, 6))
    def take(self, request: int) -> None:
        if request in self.held:
            return
        context = self.leases.hold(f"req-{request}", "gpu_heavy", "images")
        try:
            trio.run(self._enter, context)
        except BackendOverloaded:
            assert len(self.held) == 3
            return
        self.held[request] = context

    @rule(request=integers(0, 6))
    def give_back(self, request: int) -> None:
        context = self.held.pop(request, None)
        if context is not None:
            context.__exit__(None, None, None)  # type: ignore[attr-defined]

    async def _enter(self, context: object) -> None:
        context.__enter__()  # type: ignore[attr-defined]

    @invariant()
    def counts_agree(self) -> None:
        async def read() -> int:
            return self.leases.statistics()[0].inflight

        assert trio.run(read) == len(self.held)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
