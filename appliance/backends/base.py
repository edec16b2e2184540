"""What every provider promises: the one call an image backend answers, and what it gets and gives."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from appliance.config.classes import BackendClass
from appliance.protocol.frozen import frozen
from appliance.protocol.images import Image, ImageOptions
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient


class OnPreview(Protocol):
    """Told of each preview while a picture is being drawn; returns at once, and keeps only the latest."""

    def __call__(self, image: Image, progress: float | None = None) -> None:
        """`progress`: how much of the drawing is done, 0 to 1, where the backend says so: previews are spread by it."""
        ...


@dataclass(frozen=True, slots=True)
class ImageEdit:
    """A picture to start from. `mask`: where it is transparent, as OpenAI has it, the picture is painted anew.

    `others`: further pictures, for the one kind of server that takes several; dispatch refuses them for all others.
    `strength`: how far the new picture may leave the old one, 0 to 1; None: the backend's own default.
    """

    image: Image
    mask: Image | None = None
    strength: float | None = None
    others: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageCall:
    """One job for an image backend, decided in full: width and height in pixels, deadlines in seconds.

    `model` None: name no model. `extra`: fields of the request that this gateway has no name for.
    `cancel_timeout_s`: how long a cancelled job may keep the slot until the backend is idle. `unstoppable`: the server is
    known to draw to the end whoever has left. `edit`: change this picture instead of drawing from nothing. `on_preview`
    None: nobody looks at previews, so the backend is asked for none; `previews`: how many are looked at.
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
    unstoppable: bool = False
    edit: ImageEdit | None = None
    on_preview: OnPreview | None = None
    previews: int = 0


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


@frozen
class LanguageCall:
    """One job for a language backend, decided in full. Deadlines are in seconds.

    `body` is the request in OpenAI's shape of its kind (rerank: Cohere's and Jina's), strictly parsed, with the model
    that the backend is to be named and every cap applied; fields this gateway has no name for are in it, unchanged.
    `raw` is the body as it came in when nothing in it was changed, so that it can be sent on as it is.
    """

    request_id: str
    backend_class: BackendClass
    kind: LanguageKind
    model: str
    body: Mapping[str, Any]
    raw: bytes | None
    first_byte_s: float
    idle_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that a backend offers, under the name the backend knows it by. `created`: Unix seconds, 0 if unknown."""

    name: str
    created: int = 0


class ByteSource(Protocol):
    """Bytes of a stream, as they come."""

    async def receive(self) -> bytes:
        """What one read gave, cut anywhere; empty where the backend ended the stream properly, and only there.

        A receive that is cancelled loses nothing: the next one goes on from there. Raises UpstreamFailed,
        UpstreamTimeout; there is nothing more to receive then.
        """
        ...


class WholeSource:
    """A ByteSource of a server that did not stream: these events were made of `answer`, the body that it sent."""

    def __init__(self, events: bytes, answer: bytes) -> None:
        self._events = events
        self.answer = answer

    async def receive(self) -> bytes:
        events, self._events = self._events, b""
        return events


@runtime_checkable
class PatientSource(ByteSource, Protocol):
    """A source that can itself say when nothing comes, without being cancelled for it."""

    async def receive_within(self, seconds: float) -> bytes | None:
        """As `receive`; None when nothing came in this time."""
        ...


class LanguageBackend(Protocol):
    """A provider of language models. Stateless: what it needs comes with each call."""

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        """What it can do itself; a kind that is missing is translated or refused by dispatch."""
        ...

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        """The whole answer as JSON in OpenAI's shape of `call.kind`, checked to be one.

        Raises UpstreamFailed, UpstreamTimeout, InvalidRequest (a field that this dialect cannot honour, by name).
        """
        ...

    def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AbstractAsyncContextManager[ByteSource]:
        """Open a stream of OpenAI's server-sent events for `call.kind`; entering raises what `answer` raises.

        Entered in one task and left in another, so it holds no cancel scope and no nursery open in between. Leaving
        closes the upstream connection at once.
        """
        ...

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        """What the backend offers now. Raises UpstreamFailed, UpstreamTimeout."""
        ...
