"""The running gateway between real programs: the openai SDK in front, a real image server behind, Prometheus beside."""

import io
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
import trio
from PIL import Image

from tests.process import TOKEN, GatewayProcess, start_gateway
from tests.real.debian import NotAvailable, find_prometheus, find_promtool
from tests.real.sdserver import SdServer
from tests.real.sdserver.launch import free_port, open_sd_server

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("program")]

# promtool's one complaint is about names that the contract fixes.
FIXED_NAMES = ("gateway_request_duration_ms", "gateway_tool_runtime_ms")


@asynccontextmanager
async def open_gateway(tmp_path: Path, sd_server: SdServer, kind: str) -> AsyncIterator[GatewayProcess]:
    folder = tmp_path / "sd"
    folder.mkdir()
    async with open_sd_server(sd_server, folder) as running:
        settings = {"IMAGES_BACKEND": kind, "IMAGES_HTTP_BASE_URL": running.base_url, "IMAGES_A1111_STEPS": "2"}
        with start_gateway(tmp_path, settings) as gateway:
            yield gateway


def sdk(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0)


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


@pytest.mark.parametrize("kind", ["http_a1111", "http_openai_images"])
async def test_the_openai_sdk_draws_in_both_formats(tmp_path: Path, sd_server: SdServer, kind: str) -> None:
    def draw(gateway: GatewayProcess) -> None:
        with sdk(gateway) as client:
            raw = client.images.with_raw_response.generate(prompt="a lighthouse", size="64x64", n=2)  # type: ignore[arg-type]
            assert raw.headers["x-backend-used"] == "gpu_heavy"
            answer = raw.parse()
            assert answer.data is not None
            assert len(answer.data) == 2
            for item in answer.data:
                assert item.url is not None
                assert item.b64_json is None
                with urllib.request.urlopen(item.url) as response:
                    assert response.headers["content-type"] == "image/png"
                    data = response.read()
                assert size_of(data) == (64, 64)
                assert b"lighthouse" not in data, "the prompt is not handed out with the picture"
            answer = client.images.generate(prompt="a lighthouse", size="64x64", response_format="b64_json")  # type: ignore[arg-type]
            assert answer.data is not None
            assert answer.data[0].url is None
            with pytest.raises(openai.BadRequestError) as refused:
                client.images.generate(prompt="x", size="64")  # type: ignore[arg-type]
            assert refused.value.param == "size"
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="wrong").images.generate(prompt="x")

    async with open_gateway(tmp_path, sd_server, kind) as gateway:
        await trio.to_thread.run_sync(draw, gateway)


async def test_a_backend_that_dies_is_a_502_and_its_successor_serves(tmp_path: Path, sd_server: SdServer) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    port = free_port()
    settings = {"IMAGES_BACKEND": "http_openai_images", "IMAGES_HTTP_BASE_URL": f"http://127.0.0.1:{port}"}

    def draw(gateway: GatewayProcess) -> int:
        with gateway.client() as client:
            client.timeout = 60
            answer = client.post("/v1/images/generations", json={"prompt": "x", "size": "64x64"})
            slots = client.get("/v1/gateway/status").json()["admission_control"]
            assert slots["gpu_heavy.images"]["inflight"] == 0
            return answer.status_code

    with start_gateway(tmp_path, {**settings, "HEALTH_CHECK_INTERVAL_SEC": "0.2"}) as gateway:
        async with open_sd_server(sd_server, first, text_encoder=False, port=port):
            await trio.sleep(0.5)
            assert await trio.to_thread.run_sync(draw, gateway) == 502
            await trio.sleep(0.5)
            assert await trio.to_thread.run_sync(draw, gateway) == 503
        async with open_sd_server(sd_server, second, port=port):
            await trio.sleep(0.5)
            assert await trio.to_thread.run_sync(draw, gateway) == 200


def test_promtool_accepts_the_metrics_page(tmp_path: Path) -> None:
    try:
        promtool = find_promtool()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with start_gateway(tmp_path) as gateway, gateway.client() as client:
        client.post("/v1/images/generations", json={"prompt": "x", "size": "64x64"})
        client.get("/v1/nothing")
        page = client.get("/metrics").content
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    complaints = [line for line in checked.stderr.decode().splitlines() if line.strip()]
    assert all(line.startswith(FIXED_NAMES) and "abbreviated unit" in line for line in complaints), complaints


async def test_prometheus_scrapes_the_observability_listener(tmp_path: Path) -> None:
    try:
        prometheus = find_prometheus()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with start_gateway(tmp_path) as gateway:
        target = gateway.observability_url.removeprefix("http://")
        config = tmp_path / "prometheus.json"  # JSON is YAML
        job = {"job_name": "gateway", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        config.write_text(json.dumps({"scrape_configs": [job]}))
        port = free_port()
        command = [
            str(prometheus),
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = await trio.lowlevel.open_process(command, stdout=log, stderr=log)
        try:
            with trio.fail_after(60):
                while not await trio.to_thread.run_sync(_build_info, port):  # noqa: ASYNC110 -- another program's state
                    await trio.sleep(0.3)
        finally:
            process.kill()
            with trio.move_on_after(10, shield=True):
                await process.wait()


def _build_info(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/api/v1/query?query=gateway_build_info"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(json.load(response)["data"]["result"])
    except OSError:
        return False
