"""ComfyUI's HTTP API: one method a route, each an exchange of its own with deadlines of its own."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

from pydantic_core import from_json

from appliance.backends.base import ImageCall
from appliance.backends.decoding import unusable
from appliance.backends.forms import encode_form
from appliance.protocol.images import Image
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import MAX_JSON_BYTES, UpstreamAnswer, UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object
from appliance.upstream.websocket_call import WebSocketCall

Place = Literal["running", "pending", "absent"]

LOOK_TIMEOUT_S = 2.0  # the server answers beside its drawing
HANDSHAKE_S = 5.0

_JSON = {"Content-Type": "application/json"}


def _ignore() -> None:
    return


@dataclass(frozen=True, slots=True)
class Server:
    """The server of one call. What is awaited raises UpstreamFailed, UpstreamTimeout."""

    call: ImageCall
    upstream: UpstreamClient

    @property
    def name(self) -> str:
        return self.call.backend_class.name

    async def checkpoints(self) -> list[str]:
        """The files of models, in the server's order."""
        said = await self._get("/models/checkpoints")
        try:
            names = from_json(said)
        except ValueError:
            names = None
        if not isinstance(names, list):
            raise unusable(self.call, "something that is no list of models")
        return [name for name in names if isinstance(name, str)]

    async def inputs_of(self, node_class: str) -> frozenset[str] | None:
        """The names of a class's inputs; None: the server has no such class."""
        said = parse_json_object(await self._get(f"/object_info/{quote(node_class, safe='')}"), upstream=self.name)
        known = said.get(node_class)
        if not isinstance(known, dict):
            return None
        groups = known.get("input")
        return frozenset(
            name for group in (groups if isinstance(groups, dict) else {}).values() for name in group or ()
        )

    async def upload(self, image: Image, name: str) -> str:
        """Put a picture among the server's temporary files, in a folder `name` of its own; gives what a node loads it by."""
        fields = {"type": "temp", "subfolder": f"appliance/{name}", "overwrite": "true"}
        kind, body = encode_form(fields, [("image", image)])
        answer = await self._exchange(
            "POST",
            "/upload/image",
            headers={"Content-Type": kind},
            body=body,
            first_byte_s=self.call.idle_timeout_s,
        )
        stored = self._checked(answer)
        if not isinstance(stored.get("name"), str) or not isinstance(stored.get("subfolder"), str):
            raise unusable(self.call, "no name for an uploaded picture")
        folder = f"{stored['subfolder']}/" if stored["subfolder"] else ""
        return f"{folder}{stored['name']} [temp]"

    async def submit(self, body: Mapping[str, Any], *, total_s: float, on_sent: Callable[[], None]) -> UpstreamAnswer:
        """The answer to a job, whatever its status."""
        data = json.dumps(body).encode()
        return await self._exchange(
            "POST", "/prompt", headers=_JSON, body=data, first_byte_s=total_s, total_s=total_s, on_connected=on_sent
        )

    async def place_of(self, prompt_id: str, *, on_connected: Callable[[], None] = _ignore) -> Place:
        """Where a job is in the queue."""
        body = await self._get("/queue", first_byte_s=LOOK_TIMEOUT_S, on_connected=on_connected)
        said = parse_json_object(body, upstream=self.name)
        if _holds(said.get("queue_running"), prompt_id):
            return "running"
        return "pending" if _holds(said.get("queue_pending"), prompt_id) else "absent"

    async def ended(self, prompt_id: str) -> dict[str, Any] | None:
        """What the history says of a job; None while it is queued, running, or unknown."""
        body = await self._get(f"/history/{prompt_id}", first_byte_s=LOOK_TIMEOUT_S)
        found = parse_json_object(body, upstream=self.name).get(prompt_id)
        return found if isinstance(found, dict) else None

    async def view(self, file: Mapping[str, str]) -> bytes:
        """The bytes of a picture that a job made, capped."""
        cap = self.call.backend_class.payload_policy.images_max_bytes
        path = "/view?" + urlencode(file)
        return await self._get(path, first_byte_s=self.call.idle_timeout_s, max_body_bytes=cap)

    async def delete(self, prompt_id: str) -> None:
        """Take a job off the queue; nothing where it runs already or is none."""
        await self._control("/queue", {"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> None:
        """End a running job; nothing where it does not run."""
        await self._control("/interrupt", {"prompt_id": prompt_id})

    def socket_call(self, client_id: str) -> WebSocketCall:
        return WebSocketCall(
            backend_class=self.name,
            url=self._url(f"/ws?clientId={client_id}"),
            handshake_s=HANDSHAKE_S,
            max_message_bytes=MAX_JSON_BYTES,
        )

    async def _control(self, path: str, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        await self._exchange("POST", path, headers=_JSON, body=data, first_byte_s=LOOK_TIMEOUT_S)

    async def _get(self, path: str, **how: Any) -> bytes:
        answer = await self._exchange("GET", path, **{"first_byte_s": self.call.idle_timeout_s, **how})
        if answer.status != 200:
            raise failure_from_answer(answer, upstream=self.name)
        return answer.body

    def _checked(self, answer: UpstreamAnswer) -> dict[str, Any]:
        if answer.status != 200:
            raise failure_from_answer(answer, upstream=self.name)
        return parse_json_object(answer.body, upstream=self.name)

    async def _exchange(self, method: str, path: str, *, first_byte_s: float, **how: Any) -> UpstreamAnswer:
        fields: dict[str, Any] = {"idle_s": self.call.idle_timeout_s, "total_s": self.call.timeout_s, **how}
        return await self.upstream.exchange(
            UpstreamCall(
                backend_class=self.name, method=method, url=self._url(path), first_byte_s=first_byte_s, **fields
            )
        )

    def _url(self, path: str) -> str:
        return self.call.backend_class.base_url.rstrip("/") + path


def _holds(entries: object, prompt_id: str) -> bool:
    """An entry of the queue is `[number, prompt_id, graph, ...]`."""
    return isinstance(entries, list) and any(isinstance(one, list) and one[1:2] == [prompt_id] for one in entries)
