"""InvokeAI's plans, names, models and graphs: what is decided before anything is sent, and read of what comes back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.base import ImageEdit
from appliance.backends.invokeai_graph import PICTURE, Start, make_batch, make_graph
from appliance.backends.invokeai_items import Item, is_elsewhere, read_item, read_item_ids, read_items
from appliance.backends.invokeai_memory import Model
from appliance.backends.invokeai_models import parse_models, pick
from appliance.backends.invokeai_names import scheduler_of
from appliance.backends.invokeai_pictures import image_name
from appliance.backends.invokeai_plan import make_plan
from appliance.backends.invokeai_previews import read_preview
from appliance.protocol.errors import InvalidRequest, UpstreamFailed
from appliance.protocol.images import Image
from tests.backends.calls import image_call
from tests.fakes.invokeai_items import model_records, refusal
from tests.fakes.pictures import png

SD = Model("k1", "h1", "tiny", "sd-1")
XL = Model("k2", "h2", "large", "sdxl", steps=4, cfg_scale=1.5, scheduler="lcm")
FLUX = Model("k3", "h3", "other", "flux")
INPAINTING = Model("k4", "h4", "a hole", "sd-1", variant="inpaint")
TWIN = Model("tiny", "h5", "twin", "sd-1")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
FIELDS = ["session", "results", "source_prepared_mapping", PICTURE, "image", "image_name", "status", "error_type"]
ITEM_LIKE = st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4), max_leaves=12)


def plan_of(**changes):
    return make_plan(image_call(**changes), lambda: 99)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "name"),
    [
        (None, None, None),
        ("Euler", None, "euler"),
        ("Euler a", None, "euler_a"),
        ("euler_ancestral", None, "euler_a"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_k"),
        ("DPM++ 2M Karras", None, "dpmpp_2m_k"),
        ("DPM++ 2M Karras", "karras", "dpmpp_2m_k"),
        ("dpmpp_2m_k", "karras", "dpmpp_2m_k"),
        ("DPM2 a", "automatic", "kdpm_2_a"),
        ("DPM2 a Karras", None, "kdpm_2_a_k"),
        ("uni_pc", "normal", "unipc"),
        (None, "karras", "euler_k"),
        (None, "normal", "euler"),
        (None, "heun", "heun"),
        (None, "dpmpp_3m_k", "dpmpp_3m_k"),
        ("Euler", "exponential", "euler_exponential"),
    ],
)
def test_a_sampler_and_a_scheduler_are_one_name(sampler, scheduler, name):
    assert scheduler_of(sampler, scheduler) == name


@pytest.mark.parametrize("name", ["board", "graph", "origin", "loras"])
def test_unknown_field_is_refused_by_name(name):
    with pytest.raises(InvalidRequest) as caught:
        plan_of(extra={"user": "me", "blank": " ", "nothing": None, name: 1})
    assert caught.value.param == name


@pytest.mark.parametrize("size", [(60, 64), (64, 60), (1, 1)])
def test_a_size_off_the_grid_is_refused_with_the_next_that_is_not(size):
    with pytest.raises(InvalidRequest, match=r"such as (64x64|8x8)") as caught:
        plan_of(size=size)
    assert caught.value.param == "size"


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({"seed": 7}, (7, 8, 9)),
        ({"seed": 0}, (0, 1, 2)),
        ({}, (99, 100, 101)),
        ({"seed": -1}, (99, 100, 101)),
        ({"seed": 2**32 - 1}, (2**32 - 1, 0, 1)),
        ({"seed": 2**40 + 5}, (5, 6, 7)),
    ],
)
def test_each_picture_has_the_seed_after_the_one_before(options, seeds):
    assert plan_of(n=3, options=options).seeds == seeds


def test_a_model_says_what_a_request_does_not():
    assert plan_of().on(SD).told(SD).items() >= {"steps": 20, "cfg_scale": 7.5, "scheduler": "euler"}.items()
    assert plan_of().on(XL).told(XL).items() >= {"steps": 4, "cfg_scale": 1.5, "scheduler": "lcm"}.items()
    asked = plan_of(options={"steps": 9, "guidance": 3.0, "sampler": "heun"}).on(XL).told(XL)
    assert asked.items() >= {"steps": 9, "cfg_scale": 3.0, "scheduler": "heun"}.items()


def test_models_are_found_by_key_before_name_and_the_first_that_fits_is_the_default():
    models = [FLUX, INPAINTING, SD, XL, TWIN]
    assert pick(models, "large") is XL
    assert pick(models, "k2") is XL
    assert pick(models, "tiny") is TWIN
    assert pick(models, "other") is FLUX
    assert pick(models, "nix") is None
    assert pick(models, None) is SD
    assert pick([FLUX, INPAINTING], None) is INPAINTING
    assert pick([FLUX], None) is None


def test_the_models_that_are_no_models_are_passed_over():
    broken = [{}, 5, {"key": 1, "hash": "h", "name": "n", "base": "sd-1"}]
    settings = {"steps": 0, "cfg_scale": "x", "scheduler": 7}
    good = {"key": "k", "hash": "h", "name": "n", "base": "sd-1", "default_settings": settings}
    assert parse_models({"models": [*broken, good]}, image_call()) == (Model("k", "h", "n", "sd-1"),)
    with pytest.raises(UpstreamFailed, match="is it InvokeAI"):
        parse_models({"models": None}, image_call())
    assert [model.base for model in parse_models({"models": model_records()}, image_call())] == ["flux", "sd-1", "sdxl"]


@pytest.mark.parametrize("model", [SD, XL])
@pytest.mark.parametrize("start", [None, Start("a.png"), Start("a.png", "b.png")])
def test_graphs_hold_together_and_leave_nothing_in_a_gallery(model, start):
    picture = Image(png(8, 8), "png")
    graph = make_graph(plan_of(edit=ImageEdit(picture, strength=0.3)).on(model), model, start)
    assert refusal({"graph": graph}) is None
    assert all(node["id"] == name and node["is_intermediate"] for name, node in graph["nodes"].items())
    kinds = {"l2i", "img_resize", "tomask"}
    assert not any(node["use_cache"] for node in graph["nodes"].values() if node["type"] in kinds)
    assert graph["nodes"]["denoise"]["denoising_start"] == (0.0 if start is None else 0.7)
    fed = {edge["destination"]["field"] for edge in graph["edges"] if edge["destination"]["node_id"] == "denoise"}
    assert ("latents" in fed, "denoise_mask" in fed) == (
        start is not None,
        start is not None and start.mask is not None,
    )


def test_both_of_sdxls_text_encoders_are_fed_and_its_size_is_told():
    graph = make_graph(plan_of().on(XL), XL, None)
    assert {"clip", "clip2"} <= {edge["destination"]["field"] for edge in graph["edges"]}
    assert (graph["nodes"]["positive"]["target_width"], graph["nodes"]["positive"]["target_height"]) == (64, 48)


def test_a_batch_is_one_run_with_all_seeds_under_a_name_of_its_own():
    batch = make_batch(plan_of(n=2).on(SD), SD, None, "ours")["batch"]
    assert batch["data"] == [[{"node_path": "noise", "field_name": "seed", "items": [99, 100]}]]
    assert (batch["runs"], batch["destination"]) == (1, "ours")


@given(ITEM_LIKE)
def test_whatever_an_item_says_it_is_read(said):
    if isinstance(said, dict):
        assert isinstance(read_item(said), Item)
        read_item_ids(said)
        assert read_items(json.dumps([said, 5]).encode())[0] == read_item(said)
        assert is_elsewhere(said) in (True, False)


@given(st.text())
def test_whatever_a_frame_says_it_is_read(frame):
    assert read_preview("42" + frame, "ours") is None
    assert read_preview(frame, "ours") is None


@pytest.mark.parametrize("name", ["../../v1/auth", "a/b.png", "a?b", "", ".hidden", "a\n", "x" * 300, None, 5])
def test_a_name_that_is_no_name_stands_in_no_path(name):
    assert image_name({"image_name": name}) is None


@pytest.mark.parametrize("error_type", ["/srv/secret", "Out of memory at 0x1", "x" * 99, "", None, 3])
def test_an_error_type_that_is_no_class_is_not_told(error_type):
    assert read_item({"status": "failed", "error_type": error_type}).error_type is None
    assert read_item({"status": "failed", "error_type": "OutOfMemoryError"}).error_type == "OutOfMemoryError"


@pytest.mark.parametrize(
    ("processing", "running", "elsewhere"), [(False, 0, True), (True, 0, False), (True, 1, True), (False, 1, True)]
)
def test_the_worker_is_elsewhere_when_it_is_idle_or_has_another_item(processing, running, elsewhere):
    said = {"processor": {"is_processing": processing}, "queue": {"in_progress": running}}
    assert is_elsewhere(said) is elsewhere
