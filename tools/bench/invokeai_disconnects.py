"""Disconnects at an InvokeAI: its own cancel goes out at once, the slot is back when its worker is, all others draw on."""

import time
from dataclasses import dataclass, field

import trio

from tests.fakes.invokeai import Behaviour, FakeInvokeAI, open_fake_invokeai
from tools.bench.clients import GOODBYES, open_asker
from tools.bench.common import Figure, at_most, exactly, percentile, told
from tools.bench.gateway_process import GatewayProcess, open_gateway

ROUNDS = 100
STEPS = 40
STEP_S = 0.02  # an item that nobody cancels takes 0.8 s
LAG_S = 0.05  # the worker is busy for a while after the step in which it heard of the cancel
# When a client leaves, in seconds after its item is in the queue: starting, drawing, nearly done.
DELAYS_S = (0.0, 0.03, 0.2, 0.5)
PATIENCE_S = 10.0
GOAL_CANCEL_MS = 50.0
GOAL_SLOT_MS = 100.0
STRANGER = {"id": "x", "type": "denoise_latents", "steps": 10, "scheduler": "euler", "cfg_scale": 7.5}
NOISE = {"id": "noise", "type": "noise", "seed": 1, "width": 64, "height": 64}


@dataclass(slots=True)
class Tally:
    """cancel_ms: from the client's close to the first cancel call. slot_ms: from the worker being free to the slot."""

    cancel_ms: list[float] = field(default_factory=list)
    slot_ms: list[float] = field(default_factory=list)
    late: int = 0
    left_drawing: int = 0


async def measure_invokeai() -> list[Figure]:
    """One client hangs up in each round, in turn while its item is drawn and while it waits behind a stranger's."""
    tally = Tally()
    async with open_fake_invokeai(Behaviour(step_s=STEP_S, lag_s=LAG_S)) as fake:
        environment = {"IMAGES_BACKEND": "http_invokeai", "IMAGES_HTTP_BASE_URL": fake.base_url}
        async with open_gateway(environment) as gateway:
            for number in range(ROUNDS):
                await _round(gateway, fake, tally, number)
            slots = await gateway.slots()
        strangers = [item.status for item in fake.items.values() if item.user == "stranger"]
    return [
        told("InvokeAI: hang-ups", ROUNDS, ""),
        told("InvokeAI: hang-up to its cancel call: p50", percentile(tally.cancel_ms, 50), "ms"),
        at_most("InvokeAI: hang-up to its cancel call: p99", percentile(tally.cancel_ms, 99), "ms", GOAL_CANCEL_MS),
        told("InvokeAI: worker free to slot back: p50", percentile(tally.slot_ms, 50), "ms"),
        at_most("InvokeAI: worker free to slot back: max", max(tally.slot_ms), "ms", GOAL_SLOT_MS),
        exactly("InvokeAI: slots not back in time", tally.late, "", 0),
        exactly("InvokeAI: items of ours still drawn when the slot was back", tally.left_drawing, "", 0),
        exactly("InvokeAI: strangers' items drawn", strangers.count("completed"), "", ROUNDS // 2),
        exactly("InvokeAI: slots free at the end", slots.available, "", slots.limit),
    ]


async def _round(gateway: GatewayProcess, fake: FakeInvokeAI, tally: Tally, number: int) -> None:
    """Odd rounds: the one that leaves waits behind a stranger's item, which is drawn to its end."""
    queued = bool(number % 2)
    if queued:
        fake.enqueue({"graph": {"nodes": {"noise": NOISE, "x": STRANGER}, "edges": []}}, "stranger")
        await fake.until_active()
    asker = await open_asker(gateway, f"ours {number}", STEPS)
    await asker.send()
    await (fake.until_queued() if queued else fake.until_active())
    await trio.sleep(DELAYS_S[number // 2 % len(DELAYS_S)])
    cancels = len(fake.cancels)
    left_s = asker.hang_up(GOODBYES[number // 4 % 2])
    with trio.move_on_after(PATIENCE_S):
        await fake.changes.until(lambda: len(fake.cancels) > cancels)
        tally.cancel_ms.append((time.perf_counter() - left_s) * 1000)
        await fake.changes.until(lambda: not _has_ours(fake))
    free_s = time.perf_counter()
    if await gateway.wait_for_inflight(0, PATIENCE_S):
        tally.slot_ms.append((time.perf_counter() - free_s) * 1000)
        tally.left_drawing += _has_ours(fake)
    else:
        tally.late += 1
    with trio.move_on_after(PATIENCE_S):
        await fake.until_idle()


def _has_ours(fake: FakeInvokeAI) -> bool:
    """Whether an item of the gateway's waits, or has the worker."""
    taken = [*fake.pending(), *([] if fake.working_on is None else [fake.working_on])]
    return any(item.user != "stranger" for item in taken)
