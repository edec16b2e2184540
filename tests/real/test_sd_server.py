"""The real image server itself: that it draws, and the two behaviours the adapters are written around."""

import base64
import signal
from pathlib import Path

import httpx
import pytest
import trio

from tests.real.sdserver import SdServer, ServerNeverAnswered, open_sd_server
from tests.real.sdserver.launch import free_port

pytestmark = pytest.mark.real

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = {"prompt": "a lighthouse", "size": "64x64"}
SLOW = {"prompt": "a lighthouse", "width": 256, "height": 256}  # about a second


async def test_both_front_doors_answer_with_a_png(sd_server: SdServer, tmp_path: Path) -> None:
    async with open_sd_server(sd_server, tmp_path) as running, httpx.AsyncClient(base_url=running.base_url) as client:
        openai = (await client.post("/v1/images/generations", json=SMALL, timeout=60)).json()
        a1111 = (await client.post("/sdapi/v1/txt2img", json={**SLOW, "width": 64, "height": 64}, timeout=60)).json()
    assert base64.b64decode(openai["data"][0]["b64_json"]).startswith(PNG)
    assert base64.b64decode(a1111["images"][0]).startswith(PNG)
    assert a1111["info"] == ""  # A1111 itself puts JSON there


async def test_a_drawing_goes_on_when_its_client_has_left(sd_server: SdServer, tmp_path: Path) -> None:
    async with open_sd_server(sd_server, tmp_path) as running, httpx.AsyncClient(base_url=running.base_url) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/sdapi/v1/txt2img", json=SLOW, timeout=0.2)
        assert running.drawings() == (1, 0)
        with trio.fail_after(60):
            while running.drawings() != (1, 1):  # noqa: ASYNC110 - another process's log tells, no event
                await trio.sleep(0.05)


async def test_without_its_text_encoder_it_looks_healthy_and_dies_drawing(sd_server: SdServer, tmp_path: Path) -> None:
    async with (
        open_sd_server(sd_server, tmp_path, text_encoder=False) as running,
        httpx.AsyncClient(base_url=running.base_url) as client,
    ):
        assert (await client.get("/v1/models")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/images/generations", json=SMALL, timeout=60)
        with trio.fail_after(10):
            assert await running.process.wait() == -signal.SIGSEGV


async def test_a_server_that_cannot_start_is_reported_with_its_last_words(sd_server: SdServer, tmp_path: Path) -> None:
    without_weights = SdServer(program=sd_server.program, weights=tmp_path)
    with pytest.raises(ServerNeverAnswered, match="ended with 1"):
        async with open_sd_server(without_weights, tmp_path):
            pytest.fail("it has no weights to start with")


async def test_no_process_is_left_when_the_test_fails(sd_server: SdServer, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_sd_server(sd_server, tmp_path, port=free_port()) as running:
            raise ZeroDivisionError
    assert running.process.returncode == -signal.SIGKILL
