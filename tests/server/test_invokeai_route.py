"""Pictures over HTTP from InvokeAI: with the operator's login, which nobody else gets to see."""

import json
from pathlib import Path

from appliance.upstream.health import probe
from tests.fakes.invokeai import Behaviour, FakeInvokeAI, open_fake_invokeai
from tests.house import open_house

USER, PASSWORD = "me@example.org", "s3cret word"


def settings(fake: FakeInvokeAI, **more: str) -> dict[str, str]:
    return {"IMAGES_BACKEND": "http_invokeai", "IMAGES_HTTP_BASE_URL": fake.base_url, **more}


async def test_a_picture_is_drawn_with_the_operators_login(tmp_path: Path) -> None:
    login = {"IMAGES_INVOKEAI_USER": USER, "IMAGES_INVOKEAI_PASSWORD": PASSWORD}
    async with open_fake_invokeai(Behaviour(step_s=0.001, users={USER: PASSWORD})) as fake:
        async with open_house(tmp_path, **settings(fake, **login)) as house:
            answer = await house.draw(model="tiny-sdxl", steps=2, seed=3)
            refused = await house.draw(model="nix")
    gateway = answer.json()["_gateway"]
    assert (gateway["backend"], gateway["seed"]) == ("http_invokeai", 3)
    assert gateway["request"].items() >= {"model": "tiny-sdxl", "steps": 2}.items()
    assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
    said = answer.body + refused.body + json.dumps([*house.logged], default=str).encode()
    assert PASSWORD.encode() not in said
    assert USER.encode() not in said
    assert b"token-1" not in said


async def test_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    async with open_fake_invokeai(Behaviour(max_queue_size=0)) as fake:
        async with open_house(tmp_path, **settings(fake)) as house:
            answer = await house.draw()
            assert house.inflight() == 0
    assert (answer.status, answer.header("retry-after")) == (429, "5")


async def test_the_login_goes_to_the_log_in_alone(tmp_path: Path) -> None:
    """A health check needs none, and what is sent with every one of them is soon in somebody's log."""
    login = {"IMAGES_INVOKEAI_USER": USER, "IMAGES_INVOKEAI_PASSWORD": PASSWORD}
    async with open_fake_invokeai(Behaviour(users={USER: PASSWORD})) as fake:
        async with open_house(tmp_path, **settings(fake, **login)) as house:
            one = house.components.configuration.backends.classes["gpu_heavy"]
            assert (await probe(one, house.components.dispatcher.upstream, 5)).healthy
    assert fake.asked == ["/api/v1/app/version"]
    assert fake.authorizations == [None]
