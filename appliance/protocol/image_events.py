"""Image events: OpenAI's server-sent events of one picture, its previews and the whole; nothing follows the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.protocol.canonical import compact_json
from appliance.protocol.images import Image, ImageRequest
from appliance.protocol.sse import sse_event

ImageAction = Literal["image_generation", "image_edit"]

_QUALITIES = frozenset({"low", "medium", "high", "xhigh", "max"})
_BACKGROUNDS = frozenset({"transparent", "opaque"})
# Servers of the house count no tokens; OpenAI's clients read these fields all the same.
_NO_TOKENS: Mapping[str, Any] = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True, slots=True)
class ImageEvents:
    """Writes the events of one request. Fields: openai-python, types/image_gen_*_event.py and image_edit_*_event.py."""

    action: ImageAction
    request: ImageRequest

    def partial(self, image: Image, index: int, created_s: int) -> bytes:
        """A preview; `index` counts from 0."""
        return self._event("partial_image", image, created_s, {"partial_image_index": index})

    def completed(
        self, image: Image, created_s: int, *, usage: Mapping[str, Any] | None, gateway: Mapping[str, Any]
    ) -> bytes:
        """The picture; `usage` as an upstream counted it, `gateway` as in an answer that is not streamed."""
        return self._event("completed", image, created_s, {"usage": usage or _NO_TOKENS, "_gateway": dict(gateway)})

    def _event(self, what: str, image: Image, created_s: int, more: Mapping[str, Any]) -> bytes:
        name = f"{self.action}.{what}"
        quality, background = self.request.options.quality, self.request.extra.get("background")
        fields = {
            "type": name,
            "b64_json": image.as_base64(),
            "created_at": created_s,
            "size": self.request.size,
            "quality": quality if quality in _QUALITIES else "auto",
            "background": background if isinstance(background, str) and background in _BACKGROUNDS else "auto",
            "output_format": image.type,
            **more,
        }
        return sse_event(compact_json(fields), event=name)
