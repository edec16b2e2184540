"""What every provider promises: the one call an image backend answers, and what it gets and gives."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.config.classes import BackendClass
from appliance.protocol.images import Image, ImageOptions
from appliance.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class ImageCall:
    """One job for an image backend, decided in full: width and height in pixels, deadlines in seconds.

    `model` None: name no model. `extra`: fields of the request that this gateway has no name for.
    `cancel_timeout_s`: how long a cancelled job may keep the slot until the backend is idle.
    """

    request_id: str
    backend_class: BackendClass
    prompt: str
    n: int
    width: int
    height: int
    options: ImageOptions
    extra: Mapping[str, Any]
    model: str | None
    default_steps: int
    timeout_s: float
    idle_timeout_s: float
    cancel_timeout_s: float


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What came back, checked: `call.n` pictures at most, at least one.

    `request`: the options as this backend was sent them. `upstream`: what it said that a client may see.
    """

    images: tuple[Image, ...]
    seed: int | None = None
    model: str | None = None
    request: Mapping[str, Any] | None = None
    upstream: Mapping[str, Any] | None = None


class ImageBackend(Protocol):
    """A provider of images. Stateless: what it needs comes with each call."""

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        """Draw. What a cut-off call leaves running on the backend is ended by a callback pushed on `cleanup`.

        The stack is closed in a shielded scope after the call ended in whatever way, before the slot is given back;
        the callback returns at once after a call that ended well, else within `call.cancel_timeout_s`.
        Raises UpstreamFailed, UpstreamTimeout, InvalidRequest.
        """
        ...
