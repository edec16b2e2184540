"""InvokeAI's pictures: sent there, fetched, and deleted again."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import trio

from appliance.backends.base import ImageCall, ImageEdit
from appliance.backends.decoding import MAX_DECODED_BYTES, image_from_bytes, unusable
from appliance.backends.forms import encode_form
from appliance.backends.invokeai_api import Api, Ask
from appliance.backends.invokeai_graph import Start
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image

_REMOVE_S = 2.0  # a tidy gallery is not worth more of a client's time
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")  # a uuid and .png; anything else is no part of a path


class Pictures:
    """What one call has on the server."""

    def __init__(self, call: ImageCall, api: Api) -> None:
        self._call = call
        self._api = api
        self._names: set[str] = set()

    def note(self, names: Iterable[str]) -> None:
        """These are ours to delete."""
        self._names.update(names)

    async def upload(self, edit: ImageEdit | None) -> Start | None:
        """Send the picture to start from, and its mask. Raises UpstreamFailed, UpstreamTimeout."""
        if edit is None:
            return None
        image = await self._upload(edit.image)
        return Start(image, None if edit.mask is None else await self._upload(edit.mask))

    async def fetch(self, names: Sequence[str]) -> tuple[Image, ...]:
        """The pictures in full, typed and without their text. Raises UpstreamFailed, UpstreamTimeout."""
        images = []
        left = MAX_DECODED_BYTES
        for name in names:
            images.append(await self._fetch(name, left))
            left -= len(images[-1].data)
        return tuple(images)

    async def remove(self) -> None:
        """Delete what is noted. It is intermediate: what stays for an error shows nowhere and can be cleared there."""
        if not self._names:
            return
        names, self._names = sorted(self._names), set()
        body = json.dumps({"image_names": names}).encode()
        with suppress(UpstreamFailed, UpstreamTimeout), trio.move_on_after(_REMOVE_S):
            await self._api.ask(Ask("POST", "/api/v1/images/delete", body, within_s=_REMOVE_S))

    async def _upload(self, image: Image) -> str:
        kind, body = encode_form({}, [("file", image)])
        path = "/api/v1/images/upload?image_category=user&is_intermediate=true"
        said = await self._api.ask_object(Ask("POST", path, body, kind=kind))
        name = image_name(said)
        if name is None:
            raise unusable(self._call, "an upload without a name for it")
        self.note([name])
        return name

    async def _fetch(self, name: str, left: int) -> Image:
        max_bytes = min(self._call.backend_class.payload_policy.images_max_bytes, left)
        answer = await self._api.ask(Ask("GET", f"/api/v1/images/i/{name}/full", max_body_bytes=max_bytes))
        if answer.status != 200:
            raise unusable(self._call, f"{answer.status} instead of the picture")
        return image_from_bytes(answer.body, self._call)


def image_name(said: dict[str, Any]) -> str | None:
    """A picture's name, if it is one that can stand in a path."""
    name = said.get("image_name")
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
