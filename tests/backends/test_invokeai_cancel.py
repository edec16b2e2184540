"""InvokeAI's jobs that nobody waits for: ended wherever they are, the slot back when the worker is free, nobody else hurt."""

from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from appliance.backends.base import ImageEdit
from appliance.backends.invokeai import InvokeAIBackend
from appliance.config.settings import Settings
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, image_call
from tests.fakes.http import open_server
from tests.fakes.invokeai import Behaviour, open_fake_invokeai
from tests.fakes.invokeai_items import told
from tests.fakes.pictures import png

PROMPT_S = 0.05  # from a client's leaving to the cancel call
BACK_S = 0.026  # from the worker's leaving to the slot, the answers' way not counted; issue 6: 0.1 in all


class Bench:
    def __init__(self, nursery, upstream, fake):
        self.nursery = nursery
        self.upstream = upstream
        self.fake = fake
        self.backend = InvokeAIBackend()

    def start(self, **changes):
        drawing = Drawing()
        call = image_call(self.fake.base_url, **changes)
        self.nursery.start_soon(drawing.run, self.backend, call, self.upstream)
        return drawing

    async def leave(self, drawing):
        """Cancel, and wait for the slot; how long that took."""
        left = trio.current_time()
        drawing.scope.cancel()
        with trio.fail_after(100):
            await drawing.slot_back.wait()
        return trio.current_time() - left

    def statuses(self):
        return [item.status for item in self.fake.items.values()]


@asynccontextmanager
async def open_bench(nursery, **behaviour):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(**behaviour)) as fake:
        yield Bench(nursery, upstream, fake)
        await fake.statistics.until_no_connections()
        assert "in_use=0" in repr(upstream)


async def test_a_running_picture_is_cancelled_at_once_and_holds_its_slot_until_the_worker_is_free(
    nursery, loopback_clock
):
    async with open_bench(nursery, step_s=1.0, lag_s=2.0) as bench:
        drawing = bench.start()
        await bench.fake.until_active()
        await trio.sleep(0.5)
        left = trio.current_time()
        took = await bench.leave(drawing)
        assert bench.fake.cancels[0][0] - left <= PROMPT_S
        assert bench.fake.is_idle
        assert 2.5 <= took <= 2.5 + BACK_S
        assert bench.statuses() == ["canceled"]


@pytest.mark.parametrize("lag_s", [0.013, 0.137, 0.4])
async def test_a_worker_that_leaves_soon_gives_the_slot_back_sooner(nursery, loopback_clock, lag_s):
    async with open_bench(nursery, step_s=0.05, lag_s=lag_s) as bench:
        drawing = bench.start()
        await bench.fake.until_active()
        drawing.scope.cancel()
        await bench.fake.until_idle()
        idle_at = trio.current_time()
        await drawing.slot_back.wait()
        assert trio.current_time() - idle_at <= 0.011


async def test_a_worker_that_draws_on_is_asked_less_often(nursery, loopback_clock):
    async with open_bench(nursery, step_s=5.5) as bench:
        drawing = bench.start()
        await bench.fake.until_active()
        await bench.leave(drawing)
        assert bench.fake.asked.count("/api/v1/queue/default/status") <= 50 + 5 * 40 + 2


async def test_a_pending_picture_is_cancelled_and_the_one_that_runs_is_not_waited_for(nursery, loopback_clock):
    async with open_bench(nursery, step_s=0.5) as bench:
        stayer = bench.start()
        await bench.fake.until_active()
        leaver = bench.start()
        await bench.fake.until_queued()
        await trio.sleep(0.2)
        assert await bench.leave(leaver) <= BACK_S
        assert bench.fake.working_on is not None
        await stayer.slot_back.wait()
        assert stayer.result is not None
        assert bench.statuses() == ["completed", "canceled"]


async def test_the_slot_is_back_when_the_worker_goes_on_to_another_clients_picture(nursery, loopback_clock):
    async with open_bench(nursery, step_s=1.0, lag_s=1.0) as bench:
        leaver = bench.start()
        await bench.fake.until_active()
        stayer = bench.start()
        await bench.fake.until_queued()
        took = await bench.leave(leaver)
        assert 1.9 <= took <= 2.0 + BACK_S
        assert bench.fake.working_on.item_id == 2
        await stayer.slot_back.wait()
        assert stayer.result is not None


async def test_a_paused_queue_gives_up_a_pending_picture(nursery, loopback_clock):
    async with open_bench(nursery) as bench:
        bench.fake.paused = True
        drawing = bench.start(n=3)
        await bench.fake.until_queued(3)
        await trio.sleep(0.2)
        assert await bench.leave(drawing) <= BACK_S
        bench.fake.resume()
        assert bench.fake.is_idle
        assert bench.statuses() == ["canceled"] * 3


async def test_all_pictures_of_a_call_are_cancelled_the_waiting_ones_first(nursery, loopback_clock):
    async with open_bench(nursery, step_s=0.5) as bench:
        drawing = bench.start(n=4)
        await bench.fake.until_active()
        await trio.sleep(0.2)
        await bench.leave(drawing)
        assert bench.fake.is_idle
        assert bench.statuses() == ["canceled"] * 4
        assert [what for _, what in bench.fake.cancels] == ["4", "3", "2", "1"]


async def test_pictures_that_were_drawn_before_the_client_left_are_removed(nursery, loopback_clock):
    async with open_bench(nursery, step_s=0.1) as bench:
        edit = ImageEdit(Image(png(8, 8), "png"), Image(png(8, 8), "png"))
        drawing = bench.start(n=2, edit=edit, options={"steps": 4})
        await bench.fake.changes.until(lambda: "completed" in bench.statuses())
        await trio.sleep(0.05)
        await bench.leave(drawing)
        assert bench.statuses() == ["completed", "canceled"]
        assert bench.fake.images == {}


@pytest.mark.parametrize("where", ["enqueueing_s", "answering_s"])
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.2, 0.29])
async def test_a_batch_whose_answer_was_never_heard_is_cancelled_by_its_destination(
    nursery, loopback_clock, where, after_s
):
    async with open_bench(nursery, step_s=1.0, **{where: 0.3}) as bench:
        drawing = bench.start(n=2)
        await bench.fake.changes.until(lambda: bool(bench.fake.batches))
        await trio.sleep(after_s)
        left = trio.current_time()
        await bench.leave(drawing)
        assert bench.fake.cancels[0][0] - left <= PROMPT_S
        assert bench.fake.is_idle
        assert bench.statuses() == ["canceled", "canceled"]
        assert {what for _, what in bench.fake.cancels} >= {bench.fake.batches[0]["destination"]}


async def test_a_batch_that_never_arrives_is_looked_for_no_longer_than_a_second(nursery, loopback_clock):
    async with open_bench(nursery, enqueueing_s=1000) as bench:
        drawing = bench.start()
        await bench.fake.changes.until(lambda: bool(bench.fake.batches))
        assert await bench.leave(drawing) <= 1.0 + BACK_S


async def test_a_call_that_had_enqueued_nothing_asks_nothing_more(nursery, loopback_clock):
    asked = []

    async def stall(request):
        asked.append(request.path)
        await request.hung_up()

    async with open_upstream(Settings()) as upstream, open_server(stall) as server:
        drawing = Drawing()
        nursery.start_soon(drawing.run, InvokeAIBackend(), image_call(server.base_url), upstream)
        await trio.sleep(1)
        drawing.scope.cancel()
        with trio.fail_after(0.05):
            await drawing.slot_back.wait()
    assert asked == ["/api/v2/models/"]


async def test_a_client_that_leaves_while_its_picture_is_fetched_leaves_nothing_there(nursery, loopback_clock):
    async with open_bench(nursery, fetching_s=1.0) as bench:
        drawing = bench.start()
        await bench.fake.changes.until(lambda: bool(bench.fake.items) and bench.fake.is_idle)
        await trio.sleep(0.5)
        assert any(path.endswith("/full") for path in bench.fake.asked)
        assert await bench.leave(drawing) <= BACK_S
        assert bench.fake.images == {}
        assert bench.fake.cancels == []


async def test_a_server_that_died_holds_no_slot(nursery, loopback_clock):
    async with open_bench(nursery, step_s=1.0) as bench:
        drawing = bench.start()
        await bench.fake.until_active()
        await trio.sleep(0.05)
        bench.fake.server.die()
        drawing.scope.cancel()
        with trio.fail_after(0.5):
            await drawing.slot_back.wait()


async def test_a_server_that_never_says_it_is_free_holds_the_slot_to_the_bound(nursery, loopback_clock):
    async with open_bench(nursery, step_s=0.1, lag_s=10_000) as bench:
        drawing = bench.start(cancel_timeout_s=7)
        await bench.fake.until_active()
        await trio.sleep(0.05)
        assert await bench.leave(drawing) == pytest.approx(7)


@pytest.mark.parametrize("answer", [b"x", b"[]", b"{}", b'{"processor":5,"queue":[]}'])
async def test_a_server_that_talks_nonsense_holds_the_slot_to_the_bound(nursery, loopback_clock, answer):
    async with open_bench(nursery, step_s=0.1) as bench:
        drawing = bench.start(cancel_timeout_s=2)
        await bench.fake.until_active()
        await trio.sleep(0.05)
        bench.fake.instead_of_status = answer
        assert await bench.leave(drawing) == pytest.approx(2)


@pytest.mark.parametrize("cancels", [40, pytest.param(500, marks=pytest.mark.real)])  # nothing real but its length
async def test_random_cancels_of_two_clients_hurt_nobody_and_lose_no_slot(nursery, loopback_clock, cancels):
    """Whoever is not cut off gets pictures; whoever is gives the slot back with none of its own left at work."""
    cut = served = 0

    async def keep_asking(bench, name):
        nonlocal cut, served
        random = Random(name)
        while cut < cancels:
            n = random.choice((1, 1, 2))
            edit = ImageEdit(Image(png(8, 8), "png")) if random.random() < 0.2 else None
            looks = (lambda *_: None) if random.random() < 0.3 else None
            options = {"steps": random.randint(1, 3)}
            drawing = bench.start(prompt=name, n=n, options=options, edit=edit, on_preview=looks)
            if random.random() < 0.15:
                await drawing.slot_back.wait()
                assert len(drawing.result.images) == n
                served += 1
                continue
            await trio.sleep(random.choice((0, 0.001, random.uniform(0, 0.4))))
            cut += not drawing.slot_back.is_set()
            await bench.leave(drawing)
            assert drawing.error is None
            mine = [item for item in bench.fake.items.values() if told(item)["prompt"] == name]
            assert all(item.is_over for item in mine)
            assert bench.fake.working_on not in mine

    async with open_bench(nursery, step_s=0.05, lag_s=0.02, answering_s=0.005) as bench:
        async with trio.open_nursery() as clients:
            clients.start_soon(keep_asking, bench, "one")
            clients.start_soon(keep_asking, bench, "other")
        assert bench.fake.is_idle
        assert bench.fake.images == {}
    assert served > cancels / 20
