"""The ComfyUI backend against its fake: graphs and values, answers, previews, and the operator's own workflows."""

import io
import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from appliance.backends.base import ImageEdit
from appliance.backends.comfyui import ComfyUIBackend
from appliance.backends.comfyui_events import Listener, Preview
from appliance.backends.comfyui_graphs import family_of, is_distilled
from appliance.backends.comfyui_values import asked_values
from appliance.config.comfyui_workflow import Target, Workflow, Workflows
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from appliance.upstream.exchange import UpstreamCall
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.comfyui import Behaviour, jpeg
from tests.fakes.comfyui_routes import open_fake_comfyui
from tests.fakes.http import open_server
from tests.fakes.pictures import png

BACKEND = ComfyUIBackend()
SDXL = Behaviour(checkpoints=("sub/paint_xl.safetensors",))

# Seen to draw on a real server without any model.
EMPTY_IMAGE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "gw"}},
    "9": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["8", 1]}},
    "8": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
}


def own(graph=EMPTY_IMAGE, output=None, **inputs):
    places = {"prompt": ["9.text"], "width": ["1.width"], "height": ["1.height"], **inputs}
    targets = {name: tuple(Target(*one.split(".")) for one in places[name]) for name in places}
    return Workflow(graph, targets, output)


async def drawn(behaviour=None, **changes):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(behaviour) as fake:
        drawing = Drawing()
        await drawing.run(BACKEND, image_call(fake.base_url, **changes), upstream)
        assert fake.is_idle
    if drawing.error is not None:
        raise drawing.error
    return drawing.result, fake


def sizes(result):
    return [Pillow.open(io.BytesIO(image.data)).size for image in result.images]


# Graphs and values


async def test_pictures_have_the_size_that_was_asked_for_and_no_text(loopback_clock):
    result, fake = await drawn(n=3, size=(100, 60), options={"seed": 7})
    assert sizes(result) == [(100, 60)] * 3
    assert len(set(result.images)) == 3
    assert all(b"lighthouse" not in image.data and b"KSampler" not in image.data for image in result.images)
    assert (result.seed, result.model) == (7, "base.safetensors")
    assert fake.graphs[0]["latent"]["inputs"] == {"width": 104, "height": 64, "batch_size": 3}


async def test_what_was_sent_is_told_under_the_names_that_clients_use(loopback_clock):
    result, _ = await drawn(options={"seed": 7, "sampler": "Euler a", "negative": "fog"})
    assert result.request == {
        "width": 64,
        "height": 48,
        "n": 1,
        "steps": 20,
        "cfg_scale": 7.0,
        "negative_prompt": "fog",
        "sampler": "euler_ancestral",
        "scheduler": "normal",
        "seed": 7,
    }


@pytest.mark.parametrize("seed", [None, -1])
async def test_a_seed_is_chosen_where_none_was_asked_for_and_told(loopback_clock, seed):
    backend = ComfyUIBackend(new_seed=lambda: 4242)
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        result = await draw(backend, image_call(fake.base_url, options={"seed": seed}), upstream)
    assert result.seed == fake.graphs[0]["sampler"]["inputs"]["seed"] == 4242


def test_chosen_seeds_differ():
    assert len({BACKEND.new_seed() for _ in range(100)}) == 100


async def test_sdxl_is_told_the_size_in_its_text_encoders(loopback_clock):
    _, fake = await drawn(SDXL, size=(100, 60), options={"negative_prompt": "fog"})
    for side, text in (("positive", "a red lighthouse"), ("negative", "fog")):
        node = fake.graphs[0][side]
        assert node["class_type"] == "CLIPTextEncodeSDXL"
        assert (node["inputs"]["text_g"], node["inputs"]["text_l"]) == (text, text)
        assert [node["inputs"][name] for name in ("width", "height", "target_width", "target_height")] == [100, 60] * 2


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("v1-5-pruned-emaonly.safetensors", "sd"),
        ("sd_xl_base_1.0.safetensors", "sdxl"),
        ("juggernautXL_v9.safetensors", "sdxl"),
        ("animagineXLV31.safetensors", "sdxl"),
        ("sub/dir_sdxl/paint.safetensors", "sdxl"),
        ("ponyDiffusionV6.safetensors", "sdxl"),
        ("noobaiXLNAIXL.safetensors", "sdxl"),
        ("pixlrStyle.ckpt", "sd"),
    ],
)
def test_family_is_guessed_from_the_name(name, family):
    assert family_of(name) == family


@pytest.mark.parametrize(("name", "distilled"), [("sdxl_lightning_4step", True), ("sd-Turbo", True), ("base", False)])
async def test_distilled_models_draw_without_guidance_unless_it_is_asked_for(loopback_clock, name, distilled):
    assert is_distilled(name) == distilled
    _, fake = await drawn(Behaviour(checkpoints=(name,)))
    assert fake.payloads[0]["cfg_scale"] == (1.0 if distilled else 7.0)
    _, fake = await drawn(Behaviour(checkpoints=(name,)), options={"guidance": 3.0})
    assert fake.payloads[0]["cfg_scale"] == 3.0


@pytest.mark.parametrize("model", ["turbo.safetensors", "turbo", "TURBO"])
async def test_model_is_found_with_and_without_its_ending(loopback_clock, model):
    result, fake = await drawn(model=model)
    assert result.model == fake.graphs[0]["loader"]["inputs"]["ckpt_name"] == "turbo.safetensors"


async def test_unknown_model_is_404_before_anything_is_submitted(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        with pytest.raises(InvalidRequest, match="no checkpoint 'nope'") as caught:
            await draw(BACKEND, image_call(fake.base_url, model="nope"), upstream)
        assert not fake.graphs
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


async def test_server_without_checkpoints_is_told_what_it_lacks(loopback_clock):
    with pytest.raises(UpstreamFailed, match="gpu_heavy has no checkpoints: put one into") as caught:
        await drawn(Behaviour(checkpoints=()))
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Euler a", "euler_ancestral"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("dpmpp_2m", "dpmpp_2m"),
        ("Res Multistep", "res_multistep"),
    ],
)
def test_samplers_of_a1111_are_translated(given, sent):
    assert asked_values(image_call(options={"sampler": given}))["sampler"] == sent


@pytest.mark.parametrize(
    ("given", "sent"), [("Karras", "karras"), ("Automatic", "normal"), ("SGM Uniform", "sgm_uniform")]
)
def test_schedulers_of_a1111_are_translated(given, sent):
    assert asked_values(image_call(options={"scheduler": given}))["scheduler"] == sent


@pytest.mark.parametrize("name", ["workflow", "prompt_id", "client_id", "extra_data"])
async def test_unknown_field_is_refused_by_name(loopback_clock, name):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        with pytest.raises(InvalidRequest) as caught:
            await draw(BACKEND, image_call(fake.base_url, extra={"user": "me", "blank": " ", name: {"a": 1}}), upstream)
        assert not fake.requests
    assert caught.value.param == name


# Edits


async def edited(edit, **changes):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        result = await draw(BACKEND, image_call(fake.base_url, edit=edit, **changes), upstream)
    return result, fake, fake.graphs[0]


PICTURE = Image(png(32, 32), "png")
MASK = Image(png(32, 32, shade=1), "png")


async def test_a_picture_is_uploaded_and_changed_as_far_as_was_asked(loopback_clock):
    result, fake, graph = await edited(ImageEdit(PICTURE, strength=0.3), n=2, size=(100, 60))
    name = graph["image"]["inputs"]["image"]
    assert name.startswith("appliance/")
    assert name.endswith(".png [temp]")
    assert fake.uploads == {name: PICTURE.data}
    assert graph["encoded"]["class_type"] == "VAEEncode"
    assert graph["sampler"]["inputs"]["denoise"] == 0.3
    assert graph["latent"] == {
        "class_type": "RepeatLatentBatch",
        "inputs": {"samples": ["encoded", 0], "amount": 2},
    }
    assert sizes(result) == [(100, 60)] * 2
    assert result.request["strength"] == 0.3


async def test_a_picture_without_a_mask_keeps_something_where_no_strength_was_asked_for(loopback_clock):
    _, _, graph = await edited(ImageEdit(PICTURE))
    assert graph["sampler"]["inputs"]["denoise"] == 0.75


@pytest.mark.parametrize(
    ("strength", "node", "denoise"),
    [(None, "VAEEncodeForInpaint", 1.0), (1.0, "VAEEncodeForInpaint", 1.0), (0.5, "SetLatentNoiseMask", 0.5)],
)
async def test_a_mask_is_painted_anew_and_nothing_else(loopback_clock, strength, node, denoise):
    _, fake, graph = await edited(ImageEdit(PICTURE, MASK, strength))
    assert fake.uploads[graph["mask"]["inputs"]["image"]] == MASK.data
    assert graph["encoded"]["class_type"] == node
    assert graph["sampler"]["inputs"]["denoise"] == denoise
    assert graph["cropped"]["inputs"]["image"] == ["composed", 0]
    assert graph["composed"]["inputs"]["mask"] == graph["encoded"]["inputs"]["mask"]


async def test_refused_upload_keeps_its_status(loopback_clock):
    async def handle(request):
        if request.path == "/models/checkpoints":
            await request.respond_json(200, ["a.safetensors"])
        else:
            await request.respond(413, b"too large")

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(server.base_url, edit=ImageEdit(PICTURE)), upstream)
    assert caught.value.status == 413


# The operator's own workflows


async def test_values_go_where_the_operator_said_and_nowhere_else(loopback_clock):
    workflow = own(seed=["1.color"], batch=["1.batch_size"])
    result, fake = await drawn(workflows=Workflows(generate=workflow), n=2, size=(40, 30), options={"seed": 5})
    graph = fake.graphs[0]
    assert graph["1"]["inputs"] == {"width": 40, "height": 30, "batch_size": 2, "color": 5}
    assert graph["9"]["inputs"] == {"text": "a red lighthouse", "clip": ["8", 1]}
    assert graph["2"] == EMPTY_IMAGE["2"]
    assert EMPTY_IMAGE["9"]["inputs"]["text"] == ""
    assert sizes(result) == [(40, 30)] * 2
    assert (result.seed, result.model) == (5, None)
    assert result.request == {"width": 40, "height": 30, "n": 2, "seed": 5}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"steps": 4}, "steps"),
        ({"guidance": 4.0}, "cfg_scale"),
        ({"negative": "fog"}, "negative_prompt"),
        ({"sampler": "euler"}, "sampler"),
        ({"seed": 4}, "seed"),
    ],
)
async def test_option_without_a_place_is_refused_by_name(loopback_clock, options, param):
    with pytest.raises(InvalidRequest) as caught:
        await drawn(workflows=Workflows(generate=own()), options=options)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


async def test_more_pictures_than_a_workflow_draws_are_refused(loopback_clock):
    with pytest.raises(InvalidRequest, match="n must be 1"):
        await drawn(workflows=Workflows(generate=own()), n=2)


async def test_a_mask_without_a_place_is_refused(loopback_clock):
    workflow = own(image=["8.ckpt_name"])
    with pytest.raises(InvalidRequest, match="mask cannot be honoured"):
        await drawn(workflows=Workflows(edit=workflow), edit=ImageEdit(PICTURE, MASK))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"class_type": "FancyImage", "inputs": {"width": 1, "height": 1}}, "does not know the class FancyImage, node 1"),
        ({"class_type": "ImageCrop", "inputs": {"width": 1, "height": 1, "depth": 1}}, "knows no input depth of ImageCrop, node 1"),
    ],
)  # fmt: skip
async def test_workflow_that_the_server_does_not_know_is_told_by_node(loopback_clock, node, words):
    places = {"steps": ["1.depth"]} if "depth" in node["inputs"] else {}
    workflow = own({**EMPTY_IMAGE, "1": node}, **places)
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        with pytest.raises(UpstreamFailed, match=words) as caught:
            await draw(BACKEND, image_call(fake.base_url, workflows=Workflows(generate=workflow)), upstream)
        assert not fake.graphs
    assert caught.value.status == 502
    assert "IMAGES_COMFYUI_WORKFLOW" in caught.value.message


async def test_unknown_class_elsewhere_in_a_workflow_is_the_gateways_fault_not_the_clients(loopback_clock):
    graph = {**EMPTY_IMAGE, "7": {"class_type": "Gone", "inputs": {}}}
    with pytest.raises(UpstreamFailed, match=r"node Gone does not exist: Node ID '#7'") as caught:
        await drawn(workflows=Workflows(generate=own(graph)))
    assert caught.value.status == 502


async def test_half_valid_workflow_is_an_error_and_its_job_is_ended(loopback_clock):
    graph = {**EMPTY_IMAGE, "3": {"class_type": "PreviewImage", "inputs": {}}}
    with pytest.raises(UpstreamFailed, match=r"node 3 \(PreviewImage\): Required input is missing: images"):
        await drawn(workflows=Workflows(generate=own(graph)))


SHOWN_TOO = {**EMPTY_IMAGE, "0": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


@pytest.mark.parametrize(("output", "kind"), [(None, "output"), ("0", "temp"), ("2", "output")])
async def test_pictures_come_from_the_output_node_else_from_those_that_save(loopback_clock, output, kind):
    _, fake = await drawn(workflows=Workflows(generate=own(SHOWN_TOO, output=output)))
    assert [name.split("/")[0] for name in fake.viewed] == [kind]


# Answers


async def test_value_that_the_server_does_not_have_is_the_clients_mistake(loopback_clock):
    with pytest.raises(InvalidRequest, match=r"sampler: Value not in list: sampler_name: 'nope' not in") as caught:
        await drawn(options={"sampler": "nope"})
    assert (caught.value.status, caught.value.param) == (400, "sampler")


async def test_success_without_a_picture_is_an_error(loopback_clock):
    with pytest.raises(UpstreamFailed, match="gave no picture") as caught:
        await drawn(Behaviour(outputs=False))
    assert caught.value.status == 502


async def test_failure_names_the_node_and_neither_trace_nor_path(loopback_clock):
    trouble = "CUDA out of memory while reading /home/me/ComfyUI/models/x.safetensors"
    with pytest.raises(UpstreamFailed, match=r"in node sampler \(KSampler\): CUDA out of memory") as caught:
        await drawn(Behaviour(fail_with=trouble))
    said = caught.value.message + str(caught.value.extra)
    assert "/home" not in said
    assert "Traceback" not in said
    assert "execution.py" not in said
    assert caught.value.status == 502


async def test_plain_text_500_is_502(loopback_clock):
    async def handle(request):
        if request.path == "/models/checkpoints":
            await request.respond_json(200, ["a.safetensors"])
        elif request.path == "/queue":
            await request.respond_json(200, {"queue_running": [], "queue_pending": []})
        elif request.path.startswith("/history"):
            await request.respond_json(200, {})
        else:
            said = b"500 Internal Server Error\n\nServer got itself in trouble"
            await request.respond(500, said, {"Content-Type": "text/plain; charset=utf-8"})

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(UpstreamFailed, match="answered 500: 500 Internal Server Error") as caught:
            await draw(BACKEND, image_call(server.base_url), upstream)
    assert caught.value.status == 502


async def test_picture_above_the_class_cap_is_refused(loopback_clock):
    with pytest.raises(UpstreamFailed, match="answered more than 50 bytes"):
        await drawn(images_max_bytes=50)


async def test_picture_that_is_gone_when_it_is_fetched_is_an_error(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui() as fake:
        fake.files = _Forgetful()
        with pytest.raises(UpstreamFailed, match="answered 404"):
            await draw(BACKEND, image_call(fake.base_url), upstream)


class _Forgetful(dict):
    def __setitem__(self, key, value):
        pass


async def test_somebody_who_interrupts_on_the_server_is_told_of(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(Behaviour(step_s=5)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        await trio.sleep(1)  # the start of a job forgets an interrupt that came before it
        await upstream.exchange(_control(fake, "/interrupt", {}))
        await drawing.slot_back.wait()
    assert "somebody interrupted it there" in drawing.error.message


async def test_job_that_somebody_takes_off_the_queue_is_an_error_not_a_wait(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(Behaviour(step_s=5)) as fake:
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        nursery.start_soon(second.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_queued()
        await upstream.exchange(_control(fake, "/queue", {"delete": [fake.pending[0].prompt_id]}))
        with trio.fail_after(15):
            await second.slot_back.wait()
        first.scope.cancel()
        await first.slot_back.wait()
    assert "has lost the picture" in second.error.message


def _control(fake, path, body):
    return UpstreamCall(
        backend_class="test",
        method="POST",
        url=fake.base_url + path,
        first_byte_s=5,
        idle_s=5,
        body=json.dumps(body).encode(),
    )


async def test_server_that_names_jobs_itself_is_too_old_and_its_job_is_ended(loopback_clock):
    with pytest.raises(UpstreamFailed, match="takes no id for a job: use ComfyUI of September 2025 or later"):
        await drawn(Behaviour(takes_ids=False, step_s=1))


# Watching


@pytest.mark.parametrize("metadata", [True, False])
async def test_previews_are_shown_as_they_come(loopback_clock, metadata):
    shown = []

    def on_preview(image, progress=None):
        shown.append((image, round(progress, 2)))

    await drawn(Behaviour(metadata=metadata), options={"steps": 3}, on_preview=on_preview)
    assert shown == [(Image(jpeg(), "jpeg"), share) for share in (0.33, 0.67, 1.0)]


async def test_previews_are_asked_for_only_where_somebody_looks(loopback_clock):
    for on_preview, method in ((None, "none"), (lambda image, progress: None, "auto")):
        _, fake = await drawn(on_preview=on_preview)
        (job,) = fake.history.values()
        assert job["prompt"][3]["preview_method"] == method
        assert job["prompt"][3]["client_id"]  # seen: without one, a graph that is cached gives no outputs


@pytest.mark.parametrize("metadata", [True, False])
async def test_somebody_elses_previews_are_never_shown(nursery, loopback_clock, metadata):
    """A job without a client_id is told to every socket."""
    shown = []
    behaviour = Behaviour(step_s=0.5, previews=True, metadata=metadata)
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(behaviour) as fake:
        graph = {"sampler": {"class_type": "KSampler", "inputs": {"steps": 4}}, **EMPTY_IMAGE}
        await upstream.exchange(_control(fake, "/prompt", {"prompt": graph, "prompt_id": "foreign"}))
        await fake.until_active()
        call = image_call(
            fake.base_url, options={"steps": 2}, on_preview=lambda image, progress: shown.append(fake.running.prompt_id)
        )
        result = await draw(BACKEND, call, upstream)
    assert result.images
    assert len(shown) == 2
    assert "foreign" not in shown


async def test_broken_preview_is_no_failure(loopback_clock, monkeypatch):
    monkeypatch.setattr("tests.fakes.comfyui.jpeg", lambda side: b"\xff\xd8no picture")
    shown = []
    result, _ = await drawn(on_preview=lambda image, progress: shown.append(image))
    assert result.images
    assert shown == []


async def test_without_websockets_the_history_is_asked(loopback_clock):
    result, fake = await drawn(Behaviour(sockets=False, step_s=0.5))
    assert result.images
    looks = sum(request.startswith("GET /history") for request in fake.requests)
    assert 30 <= looks <= 50  # 10 s, every 250 ms


async def test_lost_socket_is_replaced_by_looking(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(Behaviour(step_s=0.5)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        for peer in list(fake.sockets.values()):
            await trio.aclose_forcefully(peer.stream)
        await drawing.slot_back.wait()
        assert fake.is_idle
    assert drawing.result is not None


async def test_end_that_was_not_heard_is_found_by_looking(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(Behaviour(step_s=0.5)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, options={"steps": 2}), upstream)
        await fake.until_active()
        fake.deaf = True
        await drawing.slot_back.wait()
    assert drawing.result is not None


async def test_timeout_of_ours_is_504_and_ends_the_job(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_comfyui(Behaviour(step_s=1)) as fake:
        with pytest.raises(UpstreamTimeout, match=r"did not finish its answer within 5 s"):
            await draw(BACKEND, image_call(fake.base_url, timeout_s=5), upstream)
        assert fake.is_idle
    assert fake.counts.interrupted == 1


@given(st.one_of(st.text(), st.binary(), st.binary().map(lambda tail: b"\0\0\0\4" + tail)))
def test_no_message_breaks_the_listener(message):
    assert Listener("ours").hear(message) is None


@given(st.integers(0, 2**32 - 1), st.binary())
def test_preview_with_any_length_is_cut_without_an_error(length, tail):
    about = b'{"prompt_id":"ours"}'
    message = b"\0\0\0\4" + length.to_bytes(4, "big") + about + tail
    told = Listener("ours").hear(message)
    assert told == (Preview(tail) if length == len(about) else told)


@pytest.mark.parametrize(
    ("kind", "data", "share"),
    [
        ("progress", {"value": 1, "max": 4}, 0.25),
        ("progress", {"value": 5, "max": 4}, None),
        ("progress", {"value": 0, "max": 0}, None),
        ("progress", {"value": "1", "max": 4}, None),
        ("progress", {}, None),
        (
            "progress_state",
            {"nodes": {"a": {"state": "finished"}, "b": {"state": "running", "value": 2, "max": 4}}},
            0.5,
        ),
        ("progress_state", {"nodes": ["b"]}, None),
    ],
)
def test_a_preview_says_how_much_was_done(kind, data, share):
    listener = Listener("ours")
    listener.hear(json.dumps({"type": kind, "data": {**data, "prompt_id": "ours"}}))
    assert listener.hear(b"\0\0\0\1\0\0\0\1jpeg") == Preview(b"jpeg", share)


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("executing", {"node": None, "prompt_id": "ours"}, "ended"),
        ("executing", {"node": "3", "prompt_id": "ours"}, None),
        ("executing", {"node": None, "prompt_id": "theirs"}, None),
        ("execution_success", {"prompt_id": "ours"}, "ended"),
        ("execution_error", {"prompt_id": "ours"}, "ended"),
        ("execution_interrupted", {"prompt_id": "theirs"}, None),
        ("status", {"status": {}}, None),
        ("status", None, None),
    ],
)
def test_only_the_end_of_our_own_job_is_one(kind, data, told):
    assert Listener("ours").hear(json.dumps({"type": kind, "data": data})) == told
