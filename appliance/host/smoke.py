"""Smoke: what a person would try first on a box, tried right after it was started."""

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from appliance.host.failures import Exit, HostFailure

TIMEOUT_S = 30.0
PICTURE = {"prompt": "a lighthouse at dusk", "size": "64x64"}
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 -- bound to all: reached on loopback


@dataclass(frozen=True, slots=True)
class Door:
    """Where the API listens, as seen from this machine."""

    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        host = _ANY.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def ask(self, method: str, target: str, token: str = "", body: Any = None) -> tuple[int, bytes]:
        """One request. Raises OSError, http.client.HTTPException."""
        host = _ANY.get(self.host, self.host)
        connection: http.client.HTTPConnection
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname = False  # its name is for clients; we come by its address
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, self.port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, self.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def smoke_test(door: Door, token: str, draw: bool) -> None:
    """Health, who may come in, models, and where `draw` says so a picture. Raises HostFailure with what is wrong.

    `token` empty: it is not known here. `draw` is for boxes whose pictures come from the mock: a real server's time is
    not ours to take.
    """
    try:
        _expect(door.ask("GET", "/health"), 200, "GET /health")
        refused = door.ask("GET", "/v1/models")
        if refused[0] == 403:
            return  # IP_ALLOWLIST leaves this machine itself out: more cannot be asked from here
        _expect(refused, 401, "GET /v1/models without a token")
        if not token:
            return
        _expect(door.ask("GET", "/v1/models", token), 200, "GET /v1/models")
        if draw:
            made = _expect(door.ask("POST", "/v1/images/generations", token, PICTURE), 200, "a first picture")
            url = urlsplit(json.loads(made)["data"][0]["url"])
            picture = _expect(door.ask("GET", f"{url.path}?{url.query}"), 200, "GET of that picture")
            if not picture:
                raise HostFailure("smoke test: the first picture is empty", Exit.SOFTWARE)
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        raise HostFailure(f"smoke test: {door.url}: {type(error).__name__}: {error}", Exit.SOFTWARE) from None


def _expect(answer: tuple[int, bytes], status: int, what: str) -> bytes:
    if answer[0] != status:
        said = answer[1][:200].decode(errors="replace")
        raise HostFailure(f"smoke test: {what} answered {answer[0]}, not {status}: {said}", Exit.SOFTWARE)
    return answer[1]
