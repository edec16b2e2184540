"""The image request: each field's type and range, named when it is wrong."""

from typing import Any

import pytest

from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.images import Image, image_answer, image_item, parse_image_request


def parse(**fields: Any) -> Any:
    return parse_image_request({"prompt": "a cat", **fields}, max_pixels=2_000_000)


def test_a_prompt_alone_is_one_picture_of_1024_by_1024() -> None:
    request = parse()
    assert (request.prompt, request.n, request.size, request.response_format, request.model) == (
        "a cat", 1, "1024x1024", None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None), ("prompt", ""), ("prompt", "  \n"), ("prompt", 5), ("prompt", ["a"]),
        ("n", 0), ("n", 5), ("n", -1), ("n", "2"), ("n", 1.5), ("n", 1.0), ("n", True), ("n", None),
        ("size", "64"), ("size", "64X64"), ("size", "0x64"), ("size", "-1x64"), ("size", "64x"), ("size", "64x64x64"),
        ("size", " 64x64"), ("size", "64x64\n"), ("size", "1e2x64"), ("size", "9999999x1"), ("size", 64), ("size", ""),
        ("size", "auto"), ("size", "2001x1000"), ("size", "\u0661\u0662x64"),
        ("response_format", "png"), ("response_format", ""), ("response_format", 1),
        ("model", 7), ("stream", "yes"), ("stream", 1), ("partial_images", 4), ("partial_images", -1),
        ("seed", "1"), ("seed", 1.5), ("seed", True), ("seed", -2), ("seed", 2**63),
        ("steps", 0), ("steps", 201), ("steps", "20"), ("steps", True), ("num_inference_steps", 0),
        ("guidance", -1), ("guidance", "7"), ("guidance", True), ("guidance_scale", 101), ("cfg_scale", []),
        ("negative_prompt", 5), ("negative", {}), ("sampler", 1), ("sampler", "x" * 201), ("scheduler", []),
        ("style", 1), ("quality", False),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**{field: value})
    assert refused.value.param == field
    assert field in refused.value.message


def test_a_missing_prompt_says_so() -> None:
    with pytest.raises(InvalidRequest, match="prompt is required"):
        parse_image_request({}, max_pixels=1)


def test_null_and_blank_options_are_dropped_as_web_forms_send_them() -> None:
    request = parse(seed=None, steps="", negative_prompt="  ", sampler=None, guidance=7)
    assert request.options.given() == {"guidance": 7.0}


def test_null_size_format_model_and_stream_mean_not_given() -> None:
    request = parse(size=None, response_format=None, model=None, stream=None, partial_images=None)
    assert (request.size, request.response_format, request.model, request.stream) == ("1024x1024", None, None, False)


def test_unknown_fields_are_kept_apart_and_change_nothing_else() -> None:
    request = parse(base_url="http://evil", backend_class="other", model_config={"extra": 1}, foo=[1])
    assert request.extra == {
        "base_url": "http://evil",
        "backend_class": "other",
        "model_config": {"extra": 1},
        "foo": [1],
    }
    assert request.options.given() == {}


def test_an_item_holds_a_url_or_base64_and_never_both() -> None:
    image = Image(b"\x89PNG", "png")
    assert image_item(image, "http://x/y") == {"url": "http://x/y"}
    assert image_item(image, None) == {"b64_json": "iVBORw=="}


@pytest.mark.parametrize(
    "data",
    [
        [{"b64_json": "iVBORw=="}],
        [{"b64_json": "iVBORw=="}, {"b64_json": "QUJD"}],
        [{"url": 'http://x/"y'}, {"url": "http://x/é"}],
    ],
)
def test_answer_is_compact_json(data):
    answer = image_answer(5, data, {"backend": "mock", "seed": None, "sha256": ["ab"]})
    whole = {"created": 5, "data": data, "_gateway": {"backend": "mock", "sha256": ["ab"]}}
    assert answer == compact_json(whole)
