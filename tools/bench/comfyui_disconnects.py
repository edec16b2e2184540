"""Disconnects at a ComfyUI: its own cancel goes out at once, the slot is back when it is idle, nobody else's job dies."""

import time
from dataclasses import dataclass, field

import trio

from tests.fakes.comfyui import Behaviour, FakeComfyUI
from tests.fakes.comfyui_routes import open_fake_comfyui
from tools.bench.clients import GOODBYES, open_asker
from tools.bench.common import Figure, at_most, exactly, percentile, told
from tools.bench.gateway_process import GatewayProcess, open_gateway

ROUNDS = 100
STEPS = 40
STEP_S = 0.02  # a job that nobody stops takes 0.8 s
# When a client leaves, in seconds after its job is on the server: starting, drawing, nearly done.
DELAYS_S = (0.0, 0.03, 0.2, 0.5)
PATIENCE_S = 10.0
GOAL_CANCEL_MS = 50.0
GOAL_SLOT_MS = 100.0


@dataclass(slots=True)
class Tally:
    """cancel_ms: from the client's close to the first control call. slot_ms: from the server being idle to the slot."""

    cancel_ms: list[float] = field(default_factory=list)
    slot_ms: list[float] = field(default_factory=list)
    late: int = 0


async def measure_comfyui() -> list[Figure]:
    """One client hangs up in each round, in turn while its job runs and while it waits behind another's."""
    tally = Tally()
    async with open_fake_comfyui(Behaviour(step_s=STEP_S)) as fake:
        environment = {"IMAGES_BACKEND": "http_comfyui", "IMAGES_HTTP_BASE_URL": fake.base_url}
        async with open_gateway(environment) as gateway:
            for number in range(ROUNDS):
                await _round(gateway, fake, tally, number)
            slots = await gateway.slots()
    counts = fake.counts
    return [
        told("ComfyUI: hang-ups", ROUNDS, ""),
        told("ComfyUI: jobs interrupted", counts.interrupted, ""),
        told("ComfyUI: jobs taken off the queue", counts.deleted, ""),
        told("ComfyUI: hang-up to its cancel call: p50", percentile(tally.cancel_ms, 50), "ms"),
        at_most("ComfyUI: hang-up to its cancel call: p99", percentile(tally.cancel_ms, 99), "ms", GOAL_CANCEL_MS),
        told("ComfyUI: idle to slot back: p50", percentile(tally.slot_ms, 50), "ms"),
        at_most("ComfyUI: idle to slot back: max", max(tally.slot_ms), "ms", GOAL_SLOT_MS),
        exactly("ComfyUI: slots not back in time", tally.late, "", 0),
        exactly("ComfyUI: strangers' jobs killed", counts.foreign_kills, "", 0),
        exactly("ComfyUI: slots free at the end", slots.available, "", slots.limit),
    ]


async def _round(gateway: GatewayProcess, fake: FakeComfyUI, tally: Tally, number: int) -> None:
    """Odd rounds: the one that leaves waits behind a job whose client stays for a while longer."""
    queued = bool(number % 2)
    before = await open_asker(gateway, f"before {number}", STEPS) if queued else None
    if before is not None:
        await before.send()
        await fake.until_active()
    asker = await open_asker(gateway, f"ours {number}", STEPS)
    await asker.send()
    await (fake.until_queued() if queued else fake.until_active())
    await trio.sleep(DELAYS_S[number // 2 % len(DELAYS_S)])
    controls = len(fake.counts.controls)
    left_s = asker.hang_up(GOODBYES[number // 4 % 2])
    with trio.move_on_after(PATIENCE_S):
        await fake.changes.until(lambda: len(fake.counts.controls) > controls)
    if len(fake.counts.controls) > controls:
        tally.cancel_ms.append((time.perf_counter() - left_s) * 1000)
    if before is not None:
        before.hang_up("FIN")
    with trio.move_on_after(PATIENCE_S):
        await fake.until_idle()
    idle_s = time.perf_counter()
    if await gateway.wait_for_inflight(0, PATIENCE_S):
        tally.slot_ms.append((time.perf_counter() - idle_s) * 1000)
    else:
        tally.late += 1
