"""Health, readiness, metrics and status, as their readers see them."""

from pathlib import Path

from appliance.upstream.health import Health
from tests.house import open_house

BACKENDS = """backends:
  gpu_heavy: {base_url: "http://127.0.0.1:9", provider: a1111, supported_capabilities: [images], required: true}
  spare: {base_url: "http://127.0.0.1:8", provider: openai, supported_capabilities: [chat], required: false}
  later: {base_url: "", provider: openai, supported_capabilities: [chat], required: true}
"""


async def test_readiness_follows_the_required_classes_alone(tmp_path: Path) -> None:
    (tmp_path / "backends.yaml").write_text(BACKENDS)
    async with open_house(tmp_path, BACKENDS_CONFIG_PATH=str(tmp_path / "backends.yaml")) as house:
        board = house.components.health
        assert (await house.observe("/readyz")).status == 200, "before the first round a class counts as ready"
        board.record("spare", Health(required=False, healthy=False, ready=False, error="down"))
        assert (await house.observe("/readyz")).status == 200
        board.record("gpu_heavy", Health(required=True, healthy=True, ready=False, last_check=5.0, error="loading"))
        answer = await house.observe("/readyz")
        assert (answer.status, answer.json()["ok"], answer.json()["ready"]) == (503, False, False)
        assert answer.json()["backends"]["gpu_heavy"] == {
            "healthy": True,
            "ready": False,
            "required": True,
            "last_check": 5.0,
            "error": "loading",
        }
        found = (await house.observe("/health/upstreams")).json()
        assert found["ok"] is False
        assert set(found["upstreams"]) == {"gpu_heavy", "spare"}
        assert set(found["upstreams"]["spare"]) == {"ok", "status", "error", "latency_ms"}


async def test_a_draining_gateway_says_so(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        assert (await house.observe("/health")).json() == {"ok": True}
        house.components.lifecycle.begin_draining()
        answer = await house.observe("/health")
        assert (answer.status, answer.json()) == (503, {"ok": False, "draining": True})
        assert (await house.observe("/readyz")).status == 503


async def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    async with open_house(tmp_path, METRICS_ENABLED="false") as house:
        assert (await house.observe("/metrics")).status == 404


async def test_metrics_count_requests_by_template_and_refusals_by_reason(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.draw()
        await house.draw(n=9)
        page = (await house.observe("/metrics")).body.decode()
    assert 'gateway_requests_total{path="/v1/images/generations",status="200"} 1.0' in page
    assert 'gateway_request_duration_ms_sum{path="/v1/images/generations",status="400"}' in page
    assert 'gateway_refusals_total{reason="invalid_value"} 1.0' in page
    assert 'gateway_inflight{backend_class="gpu_heavy",capability="images"} 0.0' in page


async def test_status_has_version_and_uptime(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        status = (await house.ask("GET", "/v1/gateway/status")).json()
    assert set(status) == {"admission_control", "backend_health", "version", "uptime_s"}
    assert status["admission_control"]["ollama.chat"]["limit"] == 4
