"""The ComfyUI backend against the real server, and one probe that asks fake and real the same."""

import base64
import io
import json
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
import trio
from PIL import Image as Pillow

from appliance.backends.base import ImageEdit
from appliance.backends.comfyui import ComfyUIBackend
from appliance.config.comfyui_workflow import load_workflows
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.comfyui import Behaviour
from tests.fakes.comfyui_routes import open_fake_comfyui
from tests.real.comfyui import CannotInstall, ensure_comfyui, open_comfyui
from tests.real.comfyui.probe import ask, probe
from tools.bench.gateway_process import open_gateway

pytestmark = pytest.mark.real

BACKEND = ComfyUIBackend()
PATIENCE_S = 300.0  # a step takes 40 ms on two quiet cores, and seconds beside seven other suites
SMALL = {"size": (64, 64), "options": {"steps": 2, "seed": 5}}
LONG = {"size": (256, 256), "options": {"steps": 150}}
MODEL_FREE = {
    "generate": {
        "workflow": {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "gateway"}},
        },
        # No node of it takes a text: the prompt names the file, which the client never sees.
        "inputs": {
            "prompt": "2.filename_prefix",
            "width": "1.width",
            "height": "1.height",
            "batch": "1.batch_size",
            "seed": "1.color",
        },
    }
}


@pytest.fixture(scope="module")
def comfyui():
    try:
        return ensure_comfyui()
    except CannotInstall as reason:
        pytest.skip(str(reason))


@asynccontextmanager
async def open_real(server, folder, **how):
    async with open_upstream(Settings()) as upstream, open_comfyui(server, folder, **how) as running:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            yield upstream, running


def sizes(result):
    return [Pillow.open(io.BytesIO(image.data)).size for image in result.images]


def workflows(tmp_path: Path, value=MODEL_FREE):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(value))
    return load_workflows(path)


async def queue(upstream, base_url):
    said = json.loads((await ask(upstream, base_url, "/queue")).body)
    return [one[1] for one in said["queue_running"]], [one[1] for one in said["queue_pending"]]


async def until(upstream, base_url, predicate):
    while not predicate(*await queue(upstream, base_url)):  # noqa: ASYNC110 - another process's queue has no event
        await trio.sleep(0.02)


async def test_pictures_by_the_operators_workflow_without_any_model(comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (upstream, running):
        call = image_call(
            running.base_url, workflows=workflows(tmp_path), n=2, size=(40, 30), options={"seed": 0xFF0000}
        )
        result = await draw(BACKEND, call, upstream)
        again = await draw(BACKEND, call, upstream)  # an identical graph, which the server has cached
    assert sizes(result) == sizes(again) == [(40, 30)] * 2
    assert Pillow.open(io.BytesIO(result.images[0].data)).convert("RGB").getpixel((1, 1)) == (255, 0, 0)
    assert all(b"EmptyImage" not in image.data and b"lighthouse" not in image.data for image in result.images)


async def test_pictures_previews_and_edits_on_a_checkpoint_of_sdxl(comfyui, tmp_path):
    """The graph for SDXL, on a checkpoint that ComfyUI itself takes for one."""
    shown = []
    async with open_real(comfyui, tmp_path, sdxl=True) as (upstream, running):

        def call(**changes):
            how = {"size": (72, 64), "options": {"steps": 2, "seed": 5, "negative_prompt": "fog"}, **changes}
            return image_call(running.base_url, model="tiny_xl", **how)

        first = await draw(BACKEND, call(n=2, on_preview=lambda image, _: shown.append(image.type)), upstream)
        same = await draw(BACKEND, call(n=2), upstream)
        other = await draw(BACKEND, call(prompt="a fox", n=2), upstream)
        edit = ImageEdit(_red(72, 64), _left_half_clear(72, 64))
        painted = await draw(BACKEND, call(edit=edit), upstream)
        changed = await draw(BACKEND, call(edit=ImageEdit(_red(72, 64), None, 0.5)), upstream)
        log = running.log.read_text(errors="replace")
    assert "Requested to load SDXL\n" in log
    assert (first.model, sizes(first)) == ("tiny_xl.safetensors", [(72, 64)] * 2)
    assert first.images == same.images
    assert first.images != other.images, "the prompt counts"
    assert shown == ["jpeg"] * 2
    assert sizes(painted) == sizes(changed) == [(72, 64)]
    assert Pillow.open(io.BytesIO(painted.images[0].data)).convert("RGB").getpixel((70, 5)) == (200, 30, 30)


async def test_pictures_previews_and_edits_on_a_checkpoint(comfyui, tmp_path):
    """One server for all: it takes ten seconds to start, and as many to load the model."""
    shown = []
    async with open_real(comfyui, tmp_path) as (upstream, running):
        url = running.base_url
        first = await draw(
            BACKEND,
            image_call(url, n=2, on_preview=lambda image, progress: shown.append((image.type, progress)), **SMALL),
            upstream,
        )
        same = await draw(BACKEND, image_call(url, n=2, **SMALL), upstream)
        odd = await draw(BACKEND, image_call(url, size=(100, 68), options={"steps": 1, "sampler": "Euler a"}), upstream)
        base, mask = _red(100, 68), _left_half_clear(100, 68)
        call = image_call(url, edit=ImageEdit(base, mask), size=(100, 68), options={"steps": 1}, n=2)
        painted = await draw(BACKEND, call, upstream)
        changed = await draw(BACKEND, image_call(url, edit=ImageEdit(base, None, 0.5), **SMALL), upstream)
    assert sizes(first) == [(64, 64)] * 2
    assert (first.model, first.seed) == ("tiny.safetensors", 5)
    assert first.images == same.images
    assert first.images[0] != first.images[1]
    assert all(b"lighthouse" not in image.data and b"KSampler" not in image.data for image in first.images)
    assert shown == [("jpeg", 0.5), ("jpeg", 1.0)]
    assert sizes(odd) == [(100, 68)]
    assert sizes(painted) == [(100, 68)] * 2
    for image in painted.images:
        pixels = Pillow.open(io.BytesIO(image.data)).convert("RGB")
        assert pixels.getpixel((95, 30)) == (200, 30, 30)
        assert pixels.getpixel((10, 30)) != (200, 30, 30)
    assert sizes(changed) == [(64, 64)]


def _red(width, height):
    return _image(Pillow.new("RGB", (width, height), (200, 30, 30)))


def _left_half_clear(width, height):
    mask = Pillow.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return _image(mask)


def _image(picture):
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return Image(sink.getvalue(), "png")


async def test_each_error_of_the_real_server_has_its_answer(comfyui, tmp_path):
    unknown_node = {
        **MODEL_FREE["generate"]["workflow"],
        "1": {"class_type": "Nope", "inputs": {"width": 1, "height": 1}},
    }
    inputs = {"prompt": "2.filename_prefix", "width": "1.width"}
    lost = workflows(tmp_path, {"generate": {"workflow": unknown_node, "inputs": inputs}})
    async with open_real(comfyui, tmp_path) as (upstream, running):
        url = running.base_url
        with pytest.raises(InvalidRequest, match="sampler: Value not in list") as caught:
            await draw(BACKEND, image_call(url, options={"sampler": "nope"}), upstream)
        assert caught.value.param == "sampler"
        with pytest.raises(InvalidRequest, match="no checkpoint 'nope'"):
            await draw(BACKEND, image_call(url, model="nope"), upstream)
        with pytest.raises(UpstreamFailed, match="does not know the class Nope, node 1"):
            await draw(BACKEND, image_call(url, workflows=lost), upstream)
        with pytest.raises(UpstreamFailed, match=r"node image \(LoadImage\)|failed to draw") as broken:
            await draw(BACKEND, image_call(url, edit=ImageEdit(Image(b"no picture", "png")), **SMALL), upstream)
        said = broken.value.message + str(broken.value.extra)
        assert str(comfyui.program) not in said
        assert "Traceback" not in said
        assert await queue(upstream, url) == ([], [])


async def test_jobs_are_ended_while_they_wait_and_while_they_run_and_nobody_elses_is(nursery, comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (upstream, running):
        url = running.base_url
        drawings = [Drawing() for _ in range(3)]
        for number, drawing in enumerate(drawings):
            nursery.start_soon(drawing.run, BACKEND, image_call(url, **(SMALL if number == 2 else LONG)), upstream)
            await until(upstream, url, lambda runs, waits, number=number: len(runs) + len(waits) == number + 1)
        (first,), (second, third) = await queue(upstream, url)
        drawings[1].scope.cancel()
        with trio.fail_after(20):
            await drawings[1].slot_back.wait()
        assert await queue(upstream, url) == ([first], [third])
        assert json.loads((await ask(upstream, url, f"/history/{second}")).body) == {}
        drawings[0].scope.cancel()
        await drawings[0].slot_back.wait()
        runs, waits = await queue(upstream, url)
        assert first not in runs + waits
        ended = json.loads((await ask(upstream, url, f"/history/{first}")).body)[first]["status"]
        assert (ended["status_str"], ended["messages"][-1][0]) == ("error", "execution_interrupted")
        await drawings[2].slot_back.wait()
    assert sizes(drawings[2].result) == [(64, 64)]


async def test_job_cut_off_while_it_is_submitted_leaves_nothing_behind(nursery, comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (upstream, running):
        for after_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
            drawing = Drawing()
            nursery.start_soon(drawing.run, BACKEND, image_call(running.base_url, **LONG), upstream)
            await trio.sleep(after_s)
            drawing.scope.cancel()
            await drawing.slot_back.wait()
            assert await queue(upstream, running.base_url) == ([], [])


async def test_death_in_the_middle_is_502_and_the_slot_comes_back(nursery, comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (upstream, running):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(running.base_url, **LONG), upstream)
        await until(upstream, running.base_url, lambda runs, waits: bool(runs))
        running.process.kill()
        with trio.fail_after(10):
            await drawing.slot_back.wait()
    assert isinstance(drawing.error, UpstreamFailed)
    assert drawing.error.status == 502


async def test_fake_and_real_answer_the_same_probe_in_the_same_shapes(comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (upstream, running):
        real = await probe(MODEL_FREE["generate"]["workflow"], upstream, running.base_url)
        async with open_fake_comfyui(Behaviour(step_s=0.01)) as fake:
            faked = await probe(MODEL_FREE["generate"]["workflow"], upstream, fake.base_url)
    for name, seen in real.items():
        assert faked[name] == seen, name


async def test_the_openai_sdk_edits_and_streams_through_the_gateway(comfyui, tmp_path):
    async with open_real(comfyui, tmp_path) as (_, running):
        environment = {
            "IMAGES_BACKEND": "http_comfyui",
            "IMAGES_HTTP_BASE_URL": running.base_url,
            "IMAGES_A1111_STEPS": "4",
        }
        async with open_gateway(environment) as gateway:
            edited, events = await trio.to_thread.run_sync(_use_the_sdk, gateway.port, gateway.token)
    pixels = Pillow.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json))).convert("RGB")
    assert pixels.size == (64, 64)
    assert pixels.getpixel((60, 30)) == (200, 30, 30)
    assert pixels.getpixel((5, 30)) != (200, 30, 30)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def _use_the_sdk(port, token):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=token, max_retries=0) as client:
        files = [(f"{name}.png", image.data) for name, image in (("a", _red(64, 64)), ("b", _left_half_clear(64, 64)))]
        edited = client.images.edit(
            image=files[0], mask=files[1], prompt="a lighthouse", size="64x64", response_format="b64_json"
        )
        events = client.images.generate(
            prompt="a lighthouse", size="64x64", stream=True, partial_images=2, model="tiny"
        )
        return edited, list(events)
