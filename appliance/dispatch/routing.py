"""Routing: which class and which model a request goes to, and why. Pure."""

import re
from dataclasses import dataclass

from appliance.config.settings import Settings

AUTO = "auto"

_PHOTOGRAPHIC = re.compile(
    r"\b(?:photos?|photograph(?:s|y|ic)?|photo-?real(?:istic|ism)?|realistic|hyper-?realistic|portrait|dslr|bokeh"
    r"|[0-9]{2,3}\s?mm|f/[0-9.]+|depth of field|film grain|long exposure|macro shot|close-?up shot|raw photo"
    r"|studio light(?:ing)?|natural light(?:ing)?|golden hour|cinematic|kodak|nikon|canon eos|leica|hasselblad|polaroid)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `model` None: name no model to the backend."""

    backend_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that is named to the backend, and by which rule."""

    model: str | None
    reason: str


def choose_image_class(x_backend: str | None, settings: Settings) -> Route:
    """Header `X-Backend` first, else IMAGES_BACKEND_CLASS; nothing in a body changes it."""
    if x_backend:
        return Route(x_backend.strip(), "override:x-backend")
    return Route(settings.images_backend_class, "config:images_backend_class")


def choose_image_model(requested: str | None, prompt: str, settings: Settings) -> ModelChoice:
    """Contract 4, "Model choice": request, configuration, then fast or slow by the prompt's words."""
    if requested and requested.lower() != AUTO:
        return ModelChoice(requested, "request:model")
    if settings.images_openai_model and settings.images_openai_model.lower() != AUTO:
        return ModelChoice(settings.images_openai_model, "config:model")
    if not settings.images_enable_request_type:
        return ModelChoice(None, "omit:model")
    if _PHOTOGRAPHIC.search(prompt):
        return ModelChoice(settings.images_openai_model_slow or None, "policy:images->slow")
    return ModelChoice(settings.images_openai_model_fast or None, "policy:images->fast")
