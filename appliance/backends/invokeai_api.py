"""InvokeAI's API: one request at a time, with the login where the server wants one."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.backends.base import ImageCall
from appliance.backends.invokeai_memory import Memory
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import MAX_JSON_BYTES, UpstreamAnswer, UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object
from appliance.upstream.websocket_call import WebSocketCall

if TYPE_CHECKING:
    from appliance.upstream.websocket import WebSocket

QUEUE = "/api/v1/queue/default"  # the one that InvokeAI's own pages use

_MAX_TOKEN_CHARS = 8192  # a JWT has some hundred
_GOOD = (200, 201)  # 6.14 answers 200 where its own description says 201


def _ignore() -> None:
    return


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `within_s` None: the call's own idle deadline for each pause. `body`: JSON unless `kind` says else."""

    method: str
    path: str
    body: bytes = b""
    kind: str = "application/json"
    within_s: float | None = None
    max_body_bytes: int = MAX_JSON_BYTES
    on_connected: Callable[[], None] = _ignore


class Api:
    """One call's way to its server. A 401 is answered by one login, with the operator's account."""

    def __init__(self, call: ImageCall, upstream: UpstreamClient, memory: Memory) -> None:
        self._call = call
        self._upstream = upstream
        self.memory = memory

    async def ask(self, ask: Ask) -> UpstreamAnswer:
        """Ask, whatever the answer's status. Raises UpstreamFailed, UpstreamTimeout."""
        token = self.memory.token
        answer = await self._exchange(ask)
        if answer.status != 401:
            return answer
        if self.memory.token == token:  # else another call has logged in meanwhile
            self.memory.token = await self._log_in()
        return await self._exchange(ask)

    async def ask_object(self, ask: Ask) -> dict[str, Any]:
        """Ask for a JSON object. Raises what `ask` raises, and UpstreamFailed for any answer but a good one."""
        return self.object_in(await self.ask(ask))

    def object_in(self, answer: UpstreamAnswer) -> dict[str, Any]:
        """The JSON object that a good answer is. Raises UpstreamFailed for any other."""
        if answer.status not in _GOOD:
            raise failure_from_answer(answer, upstream=self._name)
        return parse_json_object(answer.body, upstream=self._name)

    def open_socket(
        self, path: str, *, handshake_s: float, max_message_bytes: int
    ) -> "AbstractAsyncContextManager[WebSocket]":
        """A WebSocket to the same server. Raises UpstreamFailed, UpstreamTimeout."""
        return self._upstream.open_websocket(
            WebSocketCall(
                backend_class=self._name,
                url=self._url(path),
                handshake_s=handshake_s,
                max_message_bytes=max_message_bytes,
            )
        )

    async def _exchange(self, ask: Ask) -> UpstreamAnswer:
        idle_s = self._call.idle_timeout_s if ask.within_s is None else ask.within_s
        headers = {"Content-Type": ask.kind} if ask.body else {}
        if self.memory.token is not None:
            headers["Authorization"] = f"Bearer {self.memory.token}"
        return await self._upstream.exchange(
            UpstreamCall(
                backend_class=self._name,
                method=ask.method,
                url=self._url(ask.path),
                headers=headers,
                body=ask.body,
                first_byte_s=idle_s,
                idle_s=idle_s,
                total_s=self._call.timeout_s if ask.within_s is None else ask.within_s,
                max_body_bytes=ask.max_body_bytes,
                on_connected=ask.on_connected,
            )
        )

    async def _log_in(self) -> str:
        """Ask for a token. Nothing of the answer is told to a client: it may hold the account."""
        login = self._call.backend_class.login
        if login is None:
            raise self.failed("wants a login: set IMAGES_INVOKEAI_USER and IMAGES_INVOKEAI_PASSWORD")
        credentials = {"email": login.user, "password": login.password.get_secret_value()}
        self.memory.token = None
        answer = await self._exchange(Ask("POST", "/api/v1/auth/login", json.dumps(credentials).encode()))
        if answer.status not in _GOOD:
            raise self.failed(f"answered {answer.status} to the login of IMAGES_INVOKEAI_USER")
        token = parse_json_object(answer.body, upstream=self._name).get("token")
        if not isinstance(token, str) or not _is_header_text(token):
            raise self.failed("answered a login without a token")
        return token

    def failed(self, words: str) -> UpstreamFailed:
        """The error that says so of this server."""
        return UpstreamFailed(f"{self._name} {words}.", upstream=self._name)

    def _url(self, path: str) -> str:
        return self._call.backend_class.base_url.rstrip("/") + path

    @property
    def _name(self) -> str:
        return self._call.backend_class.name


def _is_header_text(token: str) -> bool:
    return 0 < len(token) <= _MAX_TOKEN_CHARS and token.isascii() and token.isprintable() and " " not in token
