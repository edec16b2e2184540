"""The prober and its board: what counts as alive, and that no class delays another."""

from dataclasses import replace
from functools import partial

import pytest
import trio
from pydantic import SecretStr

from appliance.config.classes import BackendClass, HealthPaths, Login
from appliance.config.settings import Settings
from appliance.upstream.client import open_upstream
from appliance.upstream.health import HealthBoard, probe, run_prober
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.http import open_server


def one_class(name="gpu", base_url="http://127.0.0.1:1", *, exact=True, liveness="/healthz", required=True):
    return BackendClass(
        name=name,
        base_url=base_url,
        provider="openai_images",
        capabilities=frozenset({"images"}),
        limits={},
        health=HealthPaths(liveness, "/readyz", exact=exact),
        required=required,
    )


class Answers:
    """A backend that answers by path; 0 is silence."""

    def __init__(self, **by_path):
        self.by_path = {f"/{path}": status for path, status in by_path.items()}
        self.asked = []

    async def __call__(self, request):
        self.asked.append(request.path)
        status = self.by_path.get(request.path, 404)
        if status == 0:
            await request.hung_up()
            return
        await request.respond(status, b"")


async def look(answers, **how):
    async with open_upstream(Settings()) as upstream, open_server(answers) as server:
        return await probe(one_class(base_url=server.base_url, **how), upstream, 5)


@pytest.mark.parametrize(
    ("live", "ready", "exact", "expected"),
    [
        (200, 200, True, (True, True)),
        (200, 503, True, (True, False)),
        (503, 200, True, (False, False)),
        (404, 404, True, (False, False)),
        (204, 200, True, (False, False)),
        (404, 404, False, (True, True)),
        (401, 401, False, (True, True)),
        (200, 500, False, (True, False)),
        (200, 0, True, (True, False)),
        (0, 200, True, (False, False)),
    ],
)
async def test_liveness_then_readiness_decide(loopback_clock, live, ready, exact, expected):
    health = await look(Answers(healthz=live, readyz=ready), exact=exact)
    assert (health.healthy, health.ready) == expected
    assert (health.error is None) == health.ready


async def test_equal_paths_are_asked_once(loopback_clock):
    answers = Answers(readyz=200)
    assert (await look(answers, liveness="/readyz")).ready
    assert answers.asked == ["/readyz"]


async def test_one_v1_is_asked(loopback_clock):
    answers = Answers()
    async with open_upstream(Settings()) as upstream, open_server(answers) as server:
        await probe(one_class(base_url=server.base_url + "/v1", liveness="/v1/models"), upstream, 5)
    assert answers.asked == ["/v1/models"]


async def test_whole_probe_has_one_deadline(loopback_clock):
    async def handle(request):
        await trio.sleep(4)
        await request.respond(200, b"")

    started = trio.current_time()
    health = await look(handle)
    assert trio.current_time() - started < 5.5
    assert (health.healthy, health.ready, health.error) == (True, False, "no answer within 5 s")


async def test_secrets_of_the_address_are_in_no_error(loopback_clock):
    async with open_upstream(Settings()) as upstream:
        health = await probe(one_class(base_url="http://me:hunter2@127.0.0.1:1"), upstream, 5)
    assert not health.healthy
    assert "hunter2" not in health.error
    assert "127.0.0.1" not in health.error


def test_class_counts_as_ready_before_the_first_round():
    board = HealthBoard([one_class()])
    assert board.is_ready("gpu") == (True, "")
    assert board.all_required_ready()
    assert board.snapshot()["gpu"].last_check is None


def test_class_without_an_address_is_never_ready_and_never_blocks():
    board = HealthBoard([one_class(base_url="")])
    assert board.is_ready("gpu") == (False, "not configured")
    assert board.all_required_ready()


async def test_prober_marks_what_it_finds_and_looks_again(nursery, loopback_clock):
    answers = Answers(healthz=200, readyz=200)
    async with open_upstream(Settings()) as upstream, open_server(answers) as server:
        classes = [
            one_class("good", server.base_url),
            one_class("dead", required=False),
            one_class("off", ""),
        ]
        board = HealthBoard(classes)
        await nursery.start(partial(run_prober, board, classes, upstream, 30, 5, now=lambda: 1234.5))
        await trio.sleep(1)
        seen = board.snapshot()
        assert seen["good"].ready
        assert (seen["good"].status, seen["good"].last_check) == (200, 1234.5)
        assert not seen["dead"].healthy
        assert seen["off"].last_check is None
        assert board.all_required_ready()
        answers.by_path["/readyz"] = 503
        await trio.sleep(30)
        assert board.is_ready("good") == (False, "/readyz answered 503")
        assert not board.all_required_ready()
        nursery.cancel_scope.cancel()


async def test_class_that_hangs_delays_no_other(nursery, loopback_clock):
    slow, quick = Answers(healthz=0), Answers(healthz=200, readyz=200)
    async with open_upstream(Settings()) as upstream, open_server(slow) as one, open_server(quick) as other:
        classes = [one_class("slow", one.base_url), one_class("quick", other.base_url)]
        board = HealthBoard(classes)
        await nursery.start(partial(run_prober, board, classes, upstream, 4, 5))
        await trio.sleep(9)
        assert quick.asked.count("/healthz") == 3
        assert board.snapshot()["quick"].ready
        assert not board.snapshot()["slow"].healthy
        nursery.cancel_scope.cancel()


async def test_a_class_with_a_login_is_probed_with_it(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(credentials="me:secret")) as fake:
        one = replace(
            one_class(base_url=fake.base_url),
            health=HealthPaths("/sdapi/v1/samplers", "/sdapi/v1/samplers", exact=True),
        )
        assert not (await probe(one, upstream, 5)).healthy
        assert (await probe(replace(one, login=Login("me", SecretStr("secret"))), upstream, 5)).healthy
