"""Routing: class and model by rule, with the reason."""

import pytest

from appliance.config.settings import Settings
from appliance.dispatch.routing import ModelChoice, choose_image_class, choose_image_model


def test_the_header_chooses_the_class_and_nothing_else_does() -> None:
    settings = Settings(images_backend_class="gpu_heavy")
    assert choose_image_class("gpu_fast", settings).backend_class == "gpu_fast"
    assert choose_image_class("gpu_fast", settings).reason == "override:x-backend"
    assert choose_image_class(None, settings).backend_class == "gpu_heavy"
    assert choose_image_class("", settings).backend_class == "gpu_heavy"


@pytest.mark.parametrize(
    ("requested", "configured", "policy", "prompt", "expected"),
    [
        ("sdxl", "flux", True, "a photo", ModelChoice("sdxl", "request:model")),
        ("auto", "flux", True, "a photo", ModelChoice("flux", "config:model")),
        ("AUTO", "auto", False, "a photo", ModelChoice(None, "omit:model")),
        (None, "auto", True, "a photo of a cat", ModelChoice("slow", "policy:images->slow")),
        (None, "auto", True, "Photorealistic, 85mm, bokeh", ModelChoice("slow", "policy:images->slow")),
        (None, "auto", True, "a cartoon cat", ModelChoice("fast", "policy:images->fast")),
        (None, "auto", True, "photon torpedoes, surrealistic", ModelChoice("fast", "policy:images->fast")),
        (None, "", True, "a cat", ModelChoice("fast", "policy:images->fast")),
    ],
)
def test_the_model_is_chosen_by_the_first_rule_that_matches(
    requested: str | None, configured: str, policy: bool, prompt: str, expected: ModelChoice
) -> None:
    settings = Settings(
        images_openai_model=configured,
        images_openai_model_fast="fast",
        images_openai_model_slow="slow",
        images_enable_request_type=policy,
    )
    assert choose_image_model(requested, prompt, settings) == expected
