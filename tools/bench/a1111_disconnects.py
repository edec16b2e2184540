"""Disconnects at an A1111: it goes on drawing, so the slot stays until it is done, and nobody else's job dies."""

import time
from dataclasses import dataclass, field

import trio

from tests.fakes.a1111 import Behaviour, FakeA1111, open_fake_a1111
from tools.bench.clients import GOODBYES, Goodbye, open_asker
from tools.bench.common import Figure, exactly, fetch, percentile, told
from tools.bench.gateway_process import GatewayProcess, open_gateway

ROUNDS = 24
STEPS = 60
STRANGERS_STEPS = 15
STEP_S = 0.02  # a job of ours that nobody stops takes 1.2 s, a stranger's 0.3 s
REGISTERING_S = 0.02  # from the whole request to its place in the queue: the gap where a cancel finds nothing
# When a client leaves, in seconds after its request: unregistered, queued behind another, active, nearly done.
DELAYS_S = (0.0, 0.005, 0.015, 0.03, 0.3, 0.7, 1.1)
SLOT_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Tally:
    """release_ms: from the second client's close to both slots free."""

    release_ms: list[float] = field(default_factory=list)
    early: int = 0
    late: int = 0
    foreign_lost: int = 0


async def measure_a1111() -> list[Figure]:
    """Two clients of ours hang up in each round, while a stranger's job waits or runs on the same server."""
    tally = Tally()
    async with open_fake_a1111(Behaviour(step_s=STEP_S, registering_s=REGISTERING_S)) as fake:
        environment = {"IMAGES_BACKEND": "http_a1111", "IMAGES_HTTP_BASE_URL": fake.base_url}
        async with open_gateway(environment) as gateway:
            for number in range(ROUNDS):
                await _round(gateway, fake, tally, number)
            slots = await gateway.slots()
    counts = fake.counts
    return [
        told("A1111: hang-ups", 2 * ROUNDS, ""),
        told("A1111: jobs started, strangers' included", counts.started, ""),
        told("A1111: jobs interrupted", counts.interrupted, ""),
        told("A1111: both slots back after the second hang-up: p50", percentile(tally.release_ms, 50), "ms"),
        told("A1111: both slots back after the second hang-up: max", max(tally.release_ms), "ms"),
        exactly("A1111: slots back while it still drew for us", tally.early, "", 0),
        exactly("A1111: slots not back in time", tally.late, "", 0),
        exactly("A1111: strangers' jobs killed", counts.foreign_kills + tally.foreign_lost, "", 0),
        exactly("A1111: slots free at the end", slots.available, "", slots.limit),
    ]


async def _round(gateway: GatewayProcess, fake: FakeA1111, tally: Tally, number: int) -> None:
    fake.payloads.clear()
    async with trio.open_nursery() as nursery:
        if number % 2:  # the stranger goes first: ours are queued behind it
            nursery.start_soon(_stranger, fake, tally)
            await trio.sleep(REGISTERING_S * 1.5)
        async with trio.open_nursery() as ours:
            for which in range(2):
                delay_s = DELAYS_S[(number + 3 * which) % len(DELAYS_S)]
                ours.start_soon(_hang_up, gateway, f"ours {number} {which}", delay_s, GOODBYES[(number + which) % 2])
            if not number % 2:
                nursery.start_soon(_stranger, fake, tally)
        await _watch_slots(gateway, fake, tally)


async def _hang_up(gateway: GatewayProcess, prompt: str, delay_s: float, goodbye: Goodbye) -> None:
    asker = await open_asker(gateway, prompt, STEPS)
    await asker.send()
    await trio.sleep(delay_s)
    asker.hang_up(goodbye)


async def _watch_slots(gateway: GatewayProcess, fake: FakeA1111, tally: Tally) -> None:
    """Look at slots and server until both slots are back. A look at the server after the answer cannot accuse wrongly:
    nobody asks any more, so what is busy then was busy when the gateway counted."""
    left_s = time.perf_counter()
    with trio.move_on_after(SLOT_TIMEOUT_S):
        while True:
            inflight = (await gateway.slots()).inflight
            if inflight < _busy(fake):
                tally.early += 1
            if inflight == 0 and _busy(fake) == 0:
                tally.release_ms.append((time.perf_counter() - left_s) * 1000)
                return
            await trio.sleep(0.002)
    tally.late += 1


def _busy(fake: FakeA1111) -> int:
    """Our jobs of this round that the server has taken and not finished, registered or not."""
    tasks = {payload["force_task_id"] for payload in fake.payloads if payload["prompt"].startswith("ours ")}
    return len(tasks - set(fake.finished))


async def _stranger(fake: FakeA1111, tally: Tally) -> None:
    body = {
        "prompt": "a stranger's",
        "steps": STEPS,
        "width": 64,
        "height": 64,
        "force_task_id": f"task({time.time()})",
    }
    port = int(fake.base_url.rpartition(":")[2])
    status, _ = await fetch(port, "POST", "/sdapi/v1/txt2img", None, body, timeout_s=SLOT_TIMEOUT_S)
    tally.foreign_lost += status != 200
