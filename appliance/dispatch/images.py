"""Images: from a checked request to pictures, through the class and the model that the rules choose."""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.admission.policy import decide_response_format
from appliance.backends.base import ImageBackend, ImageCall, ImageResult
from appliance.backends.registry import IMAGE_BACKENDS
from appliance.config.classes import BackendClass, Provider
from appliance.config.settings import ImagesBackend
from appliance.dispatch.dispatch import Caller, Dispatcher
from appliance.dispatch.routing import ModelChoice, choose_image_class, choose_image_model
from appliance.protocol.errors import CapabilityNotSupported
from appliance.protocol.images import ImageRequest, ResponseFormat

MOCK: ImagesBackend = "mock"

_BACKEND_OF: Mapping[Provider, ImagesBackend] = {
    "a1111": "http_a1111",
    "comfyui": "http_comfyui",
    "openai_images": "http_openai_images",
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """Pictures, and how they came about."""

    result: ImageResult
    backend: str
    backend_class: str
    router_reason: str
    response_format: ResponseFormat
    model: ModelChoice | None


async def draw_images(
    dispatcher: Dispatcher, caller: Caller, request: ImageRequest, *, x_backend: str | None
) -> Drawing:
    """Route, admit, draw. The slot is held until the caller's stack closes, the backend being idle by then."""
    settings = dispatcher.settings
    route = choose_image_class(x_backend, settings)
    backend_class = dispatcher.decide(route.backend_class, "images")
    response_format = decide_response_format(backend_class, request.response_format)
    name, backend = _choose_backend(dispatcher, backend_class)
    model = _choose_model(name, request, dispatcher)
    dispatcher.admit(caller, backend_class, "images", probed=name != MOCK)
    call = ImageCall(
        request_id=caller.request_id,
        backend_class=backend_class,
        prompt=request.prompt,
        n=request.n,
        width=request.width,
        height=request.height,
        options=request.options,
        extra=request.extra,
        model=model.model if model else None,
        default_steps=settings.images_a1111_steps,
        timeout_s=settings.images_http_timeout_sec,
        idle_timeout_s=settings.backend_idle_timeout_sec,
        cancel_timeout_s=settings.backend_cancel_timeout_sec,
        unstoppable=dispatcher.health.is_unstoppable(backend_class.name),
    )
    with dispatcher.protect(backend_class, settings.images_http_timeout_sec):
        result = await backend.draw(call, dispatcher.upstream, caller.stack)
    return Drawing(result, name, backend_class.name, route.reason, response_format, model)


def _choose_backend(dispatcher: Dispatcher, backend_class: BackendClass) -> tuple[ImagesBackend, ImageBackend]:
    """IMAGES_BACKEND draws for its class if it is the mock; else, and for any other class, its provider does."""
    settings = dispatcher.settings
    if backend_class.name == settings.images_backend_class and settings.images_backend == MOCK:
        return MOCK, IMAGE_BACKENDS[MOCK]
    name = _BACKEND_OF.get(backend_class.provider)
    if name is None:
        raise CapabilityNotSupported(
            backend_class=backend_class.name,
            capability="images",
            supported=sorted(backend_class.capabilities - {"images"}),
            able=[
                other.name
                for other in dispatcher.backends.classes.values()
                if "images" in other.capabilities and other.provider in _BACKEND_OF
            ],
        )
    return name, IMAGE_BACKENDS[name]


def _choose_model(name: ImagesBackend, request: ImageRequest, dispatcher: Dispatcher) -> ModelChoice | None:
    """OpenAI-style servers are named a model by rule; others only the one that the request asks for."""
    choice = choose_image_model(request.model, request.prompt, dispatcher.settings)
    if name == "http_openai_images" or (name != MOCK and choice.reason == "request:model"):
        return choice
    return None
