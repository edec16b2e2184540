"""Pictures over HTTP: the contract's answer, the store behind it, and every refusal without a slot."""

import base64
import hashlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.host.heap import QUIET_S
from appliance.upstream.health import Health
from tests.allocator import AllocatorRecorder
from tests.asgi import call, open_call
from tests.gated_backend import PNG, GatedBackend
from tests.house import AUTH, GENERATIONS, open_house

JSON_AUTH = {**AUTH, "content-type": "application/json"}


async def test_the_mock_draws_the_same_bytes_for_the_same_words(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        first, second = await house.draw(), await house.draw(prompt="  a cat \n")
        other = await house.draw(prompt="a dog")
    hashes = [answer.json()["_gateway"]["sha256"] for answer in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    gateway = first.json()["_gateway"]
    assert (gateway["backend"], gateway["backend_class"], gateway["mime"]) == ("mock", "gpu_heavy", "image/svg+xml")
    assert first.header("x-backend-used") == "gpu_heavy"
    assert first.header("x-router-reason")


async def test_a_url_hands_the_picture_out_without_a_token_until_it_is_changed(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer = (await house.draw(n=2)).json()
        assert len(answer["data"]) == 2
        assert all(set(item) == {"url"} for item in answer["data"])
        url = answer["data"][0]["url"]
        assert url.startswith("http://localhost/ui/images/")
        target = url.removeprefix("http://localhost")
        picture = await house.ask("GET", target, headers={})
        assert picture.status == 200
        assert hashlib.sha256(picture.body).hexdigest() == answer["_gateway"]["sha256"][0]
        assert ElementTree.fromstring(picture.body).tag.endswith("svg")
        assert picture.header("content-type") == "image/svg+xml"
        assert picture.header("x-content-type-options") == "nosniff"
        assert "sandbox" in (picture.header("content-security-policy") or "")
        assert (picture.header("content-disposition") or "").startswith("attachment")
        name = target.partition("?")[0]
        assert (await house.ask("GET", name, headers={})).status == 401
        assert (await house.ask("GET", target + "0", headers={})).status == 401
        assert (await house.ask("GET", target.replace("exp=1", "exp=2"), headers={})).status == 401
        assert (await house.ask("GET", name)).status == 200, "any valid bearer"
        assert (await house.ask("GET", target, headers={"authorization": "Bearer nobody"})).status == 401
        assert (await house.ask("GET", "/ui/images/" + "0" * 64 + ".svg")).status == 404
        assert (await house.ask("GET", "/ui/images/..%2f..%2ftoken")).status == 404
        assert (await house.ask("GET", name.replace(".svg", ".png"))).status == 404
        assert (await house.ask("POST", name)).status == 405


async def test_base64_is_handed_out_alone_and_nothing_is_stored_for_it(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house:
        answer = (await house.draw(response_format="b64_json", n=3)).json()
        assert house.components.images.statistics().items == 0
    assert [set(item) for item in answer["data"]] == [{"b64_json"}] * 3
    assert base64.b64decode(answer["data"][0]["b64_json"]) == PNG
    gateway = answer["_gateway"]
    assert gateway["seed"] == 7
    assert gateway["sha256"] == [hashlib.sha256(PNG).hexdigest()] * 3
    assert gateway["backend"] == "http_a1111"


async def test_absolute_urls_begin_with_the_public_address(tmp_path: Path) -> None:
    async with open_house(tmp_path, PUBLIC_BASE_URL="https://gw.example") as house:
        answer = await house.draw()
    assert answer.json()["data"][0]["url"].startswith("https://gw.example/ui/images/")


async def test_the_third_picture_is_refused_at_once_and_says_when_to_come_back(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    body = json.dumps({"prompt": "a cat", "size": "64x48", "response_format": "b64_json"}).encode()
    async with open_house(tmp_path, **drawing) as house:
        first = open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=body)
        second = open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=body)
        async with first as one, second as two:
            await trio.testing.wait_all_tasks_blocked()
            refused = await house.draw()
            assert refused.status == 429
            assert (refused.header("retry-after"), refused.header("retry-after-ms")) == ("5", "5000")
            error = refused.json()["error"]
            expected = {"code": "backend_overloaded", "backend_class": "gpu_heavy", "route_kind": "images", "limit": 2}
            assert expected.items() <= error.items()
            status = (await house.ask("GET", "/v1/gateway/status")).json()["admission_control"]["gpu_heavy.images"]
            assert (status["limit"], status["available"], status["inflight"]) == (2, 0, 2)
            backend.gate.set()
            await one.started()
            await two.started()
            holders = {holder["request_id"] for holder in status["holders"]}
            assert holders == {one.header("x-request-id"), two.header("x-request-id")}
            await one.body()
            await two.body()
        assert house.inflight() == 0
        assert (await house.draw(response_format="b64_json")).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 5}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"size": "9999x9999"}, "size"),
        ({"stream": True, "n": 2}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
    ],
)
async def test_a_bad_field_takes_no_slot_and_reaches_no_backend(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], fields: dict[str, object], param: str
) -> None:
    async with open_house(tmp_path, **drawing) as house:
        answer = await house.draw(**fields)
        assert (answer.status, answer.json()["error"]["param"]) == (400, param)
        assert (house.inflight(), backend.calls) == (0, [])


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"[]", 400),
        ("application/json; charset=utf-8", b'{"prompt":"x","size":"8x8"}', 200),
        ("application/json; charset=latin-1", b'{"prompt":"x"}', 415),
        ("text/plain", b'{"prompt":"x"}', 415),
        ("application/x-www-form-urlencoded", b"prompt=x", 415),
        ("", b'{"prompt":"x"}', 415),
    ],
)
async def test_only_json_that_says_so_is_read(tmp_path: Path, content_type: str, body: bytes, status: int) -> None:
    headers = {**AUTH, "content-type": content_type} if content_type else AUTH
    async with open_house(tmp_path) as house:
        answer = await house.ask("POST", GENERATIONS, headers=headers, body=body)
    assert answer.status == status


async def test_the_header_chooses_the_class_and_wrong_ones_are_explained(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        unknown = (await house.draw(headers={"x-backend": "gpu_haevy"})).json()["error"]
        unable = (await house.draw(headers={"x-backend": "ollama"})).json()["error"]
        chosen = await house.draw(headers={"x-backend": "gpu_heavy"})
        evil = await house.draw(backend_class="ollama", base_url="http://evil")
    assert unknown["code"] == "backend_not_found"
    assert unable["code"] == "capability_not_supported"
    assert unable["available_backends"] == ["gpu_heavy"]
    assert set(unable["supported_capabilities"]) == {"chat", "embeddings"}
    assert (chosen.status, chosen.header("x-router-reason")) == (200, "override:x-backend")
    assert (evil.status, evil.header("x-backend-used")) == (200, "gpu_heavy")


async def test_a_class_that_is_down_is_503_and_the_mock_needs_none(tmp_path: Path, backend: GatedBackend) -> None:
    backend.gate.set()
    down = Health(required=True, healthy=False, ready=False, error="gpu_heavy cannot be reached")
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house:
        house.components.health.record("gpu_heavy", down)
        answer = await house.draw()
        assert answer.status == 503
        assert answer.header("retry-after") == "30"
        assert answer.json()["error"]["code"] == "backend_not_ready"
        assert (house.inflight(), backend.calls) == (0, [])
    async with open_house(tmp_path) as house:
        house.components.health.record("gpu_heavy", down)
        assert (await house.draw()).status == 200


async def test_a_class_may_forbid_base64(tmp_path: Path) -> None:
    (tmp_path / "backends.yaml").write_text(
        "backends:\n  gpu_heavy:\n    base_url: http://127.0.0.1:9\n    provider: a1111\n"
        "    supported_capabilities: [images]\n    payload_policy: {images_allow_base64: false}\n"
    )
    async with open_house(tmp_path, BACKENDS_CONFIG_PATH=str(tmp_path / "backends.yaml")) as house:
        refused = await house.draw(response_format="b64_json")
        fine = await house.draw()
    assert (refused.status, refused.json()["error"]["code"]) == (400, "payload_policy_violation")
    assert fine.status == 200


async def test_a_picture_over_the_stores_limit_is_507_and_nothing_stays(tmp_path: Path) -> None:
    async with open_house(tmp_path, UI_IMAGE_MAX_BYTES="10") as house:
        answer = await house.draw()
        assert (answer.status, answer.json()["error"]["code"]) == (507, "storage_full")
        assert answer.header("retry-after") is not None
        assert (house.inflight(), house.components.images.statistics().items) == (0, 0)
        assert (await house.draw(response_format="b64_json")).status == 200


async def test_tls_and_a_trusted_proxy_decide_the_scheme_of_urls(tmp_path: Path) -> None:
    body = json.dumps({"prompt": "x", "size": "8x8"}).encode()

    async def url(house: object, scheme: str, peer: str) -> str:
        headers = {**JSON_AUTH, "x-forwarded-proto": "https"}
        answer = await call(
            house.site.api, "POST", GENERATIONS, headers=headers, body=body, scheme=scheme, client=(peer, 1)
        )  # type: ignore[attr-defined]
        return str(answer.json()["data"][0]["url"])

    async with open_house(tmp_path, TRUST_PROXY_CIDRS="10.0.0.0/8") as house:
        assert (await url(house, "https", "127.0.0.1")).startswith("https://localhost/")
        assert (await url(house, "http", "127.0.0.1")).startswith("http://localhost/")
        assert (await url(house, "http", "10.0.0.1")).startswith("https://localhost/")


async def test_a_server_that_is_known_to_draw_to_the_end_is_asked_to_be_held(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house:
        await house.draw(response_format="b64_json")
        house.components.health.record("gpu_heavy", Health(required=False, unstoppable=True))
        await house.draw(response_format="b64_json")
    assert [call.unstoppable for call in backend.calls] == [False, True]


async def test_memory_is_kept_for_pictures_and_given_back_in_the_pause(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = AllocatorRecorder()
    monkeypatch.setattr("appliance.components.find_allocator", lambda: allocator)
    async with open_house(tmp_path) as house:
        await nursery.start(house.components.heap.run)
        await house.ask("GET", "/health")
        assert allocator.kept == 0
        assert (await house.draw()).status == 200
        assert allocator.kept == 1
        assert allocator.given_back == []
        await trio.sleep(3 * QUIET_S)
        assert len(allocator.given_back) == 1
        nursery.cancel_scope.cancel()
