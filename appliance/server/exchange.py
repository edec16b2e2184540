"""Exchange: what a route is given and what it gives back, free of any framework."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import InvalidRequest, UnsupportedMediaType
from appliance.protocol.frozen import frozen
from appliance.protocol.strictjson import parse_object
from appliance.server.access import Head
from appliance.server.visit import Visit

JSON = "application/json"


@frozen
class Request:
    """A request that was let in, its body read.

    `query`: the query string, undecoded. `variable`: what stands in the path where the route has its variable, decoded.
    """

    visit: Visit
    head: Head
    raw: bytes
    query: bytes = b""
    variable: str = ""

    @property
    def method(self) -> str:
        return self.head.method

    def header(self, name: bytes) -> str | None:
        """The one value of a header that is not a list. Raises InvalidRequest for one that was sent twice."""
        head = self.head
        if not head.has(name):
            return None
        values = head.all(name)
        if len(values) > 1:
            raise InvalidRequest(f"The header {name.decode()} was sent {len(values)} times: send it once.")
        return values[0]

    def json(self) -> dict[str, Any]:
        """The body, parsed. Raises UnsupportedMediaType, InvalidRequest."""
        check_json_type(self.header(b"content-type") or "")
        return parse_object(self.raw)


SendPiece = Callable[[bytes], Awaitable[None]]
WriteBody = Callable[[SendPiece], Awaitable[None]]
"""Sends a body piece by piece from one function, which may so hold a nursery open while it does; a generator must not."""


@frozen
class Answer:
    """What is sent: the whole body, pieces as they come, or what a function writes."""

    body: bytes | AsyncGenerator[bytes, None] | WriteBody
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Answer]]
ReceivePiece = Callable[[], Awaitable[bytes]]
"""The next piece of a request's body, empty at its end."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A route that reads its body itself, as it comes: `receive` does, and gives what then answers.

    It is given the request without a body. What it keeps, it keeps on the visit's stack.
    """

    receive: Callable[[Request, ReceivePiece], Awaitable[Handler]]


DirectRoutes = Mapping[str, Mapping[str, Handler | Upload]]
"""Path -> method -> handler; GET answers HEAD too. The last segment of a path may be a variable: `/v1/tools/<name>`."""


def json_answer(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with JSON, compact."""
    return Answer(compact_json(content), status, headers=headers or {})


def check_json_type(content_type: str) -> None:
    """Raises UnsupportedMediaType unless it is JSON in UTF-8 that was sent: a web form of another site is not."""
    if content_type == JSON:
        return
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != JSON:
        raise UnsupportedMediaType(f"Send `Content-Type: {JSON}`.")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMediaType(f"JSON is UTF-8: send `Content-Type: {JSON}`.")
