"""Images: from a checked request to pictures, through the class and the model that the rules choose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from appliance.admission.policy import decide_response_format
from appliance.backends.base import ImageBackend, ImageCall, ImageEdit, ImageResult, OnPreview
from appliance.backends.registry import EDITING, IMAGE_BACKENDS, SEVERAL_PICTURES
from appliance.config.classes import BackendClass, Provider
from appliance.config.settings import ImagesBackend
from appliance.dispatch.dispatch import Caller, Dispatcher
from appliance.dispatch.routing import ModelChoice, choose_image_class, choose_image_model
from appliance.protocol.errors import CapabilityNotSupported, InvalidRequest
from appliance.protocol.images import ImageRequest, ResponseFormat

STORE_S = 30.0  # a disk that takes longer for four pictures is broken
MOCK: ImagesBackend = "mock"

_BACKEND_OF: Mapping[Provider, ImagesBackend] = {
    "a1111": "http_a1111",
    "comfyui": "http_comfyui",
    "openai_images": "http_openai_images",
    "invokeai": "http_invokeai",
}


@dataclass(frozen=True, slots=True)
class ImageJob:
    """An admitted request: its slot is held until the caller's stack closes, the backend being idle by then."""

    call: ImageCall
    backend: ImageBackend
    backend_name: str
    router_reason: str
    response_format: ResponseFormat
    model: ModelChoice | None

    @property
    def backend_class(self) -> str:
        return self.call.backend_class.name

    @property
    def outlives_its_client(self) -> bool:
        """`on_disconnect: finish`."""
        return self.call.backend_class.on_disconnect == "finish"

    @property
    def longest_s(self) -> float:
        """By then it has ended in some way, its pictures on the disk."""
        return self.call.timeout_s + self.call.idle_timeout_s + self.call.cancel_timeout_s + STORE_S


@dataclass(frozen=True, slots=True)
class Drawing:
    """Pictures, and the job they came from."""

    job: ImageJob
    result: ImageResult

    @property
    def model(self) -> str | None:
        """What the backend says it drew with, else what it was asked to."""
        return self.result.model or (self.job.model.model if self.job.model else None)


def admit_images(
    dispatcher: Dispatcher, caller: Caller, request: ImageRequest, *, x_backend: str | None, pictures: int = 0
) -> ImageJob:
    """Route, then capability, readiness, slot, in the contract's order. Raises what each of them raises.

    `pictures`: how many the request brings to be edited.
    """
    settings = dispatcher.settings
    route = choose_image_class(x_backend, settings)
    backend_class = dispatcher.decide(route.backend_class, "images")
    response_format = decide_response_format(backend_class, "b64_json" if request.stream else request.response_format)
    name, backend = _choose_backend(dispatcher, backend_class)
    _check_edit(dispatcher, backend_class, name, pictures)
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
        previews=request.partial_images,
    )
    return ImageJob(call, backend, name, route.reason, response_format, model)


async def draw(
    dispatcher: Dispatcher,
    caller: Caller,
    job: ImageJob,
    *,
    edit: ImageEdit | None = None,
    on_preview: OnPreview | None = None,
) -> Drawing:
    """Draw what was admitted. What a cut-off call leaves running is ended by the caller's stack."""
    call = replace(job.call, edit=edit, on_preview=on_preview)
    return Drawing(job, await job.backend.draw(call, dispatcher.upstream, caller.stack))


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


def _check_edit(dispatcher: Dispatcher, backend_class: BackendClass, name: ImagesBackend, pictures: int) -> None:
    """Raises CapabilityNotSupported for a provider that only draws from nothing, InvalidRequest for too many pictures."""
    if pictures and name not in EDITING:
        raise CapabilityNotSupported(
            backend_class=backend_class.name,
            capability="image edits",
            supported=list(backend_class.capabilities),
            able=[
                other.name
                for other in dispatcher.backends.classes.values()
                if "images" in other.capabilities
                and _BACKEND_OF.get(other.provider) in EDITING
                and other is not backend_class
            ],
        )
    if pictures > 1 and name not in SEVERAL_PICTURES:
        raise InvalidRequest(
            f"{backend_class.name} edits one picture at a time: send one.", param="image", code="invalid_value"
        )


def _choose_model(name: ImagesBackend, request: ImageRequest, dispatcher: Dispatcher) -> ModelChoice | None:
    """OpenAI-style servers are named a model by rule; others only the one that the request asks for."""
    choice = choose_image_model(request.model, request.prompt, dispatcher.settings)
    if name == "http_openai_images" or (name != MOCK and choice.reason == "request:model"):
        return choice
    return None
