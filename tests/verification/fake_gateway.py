"""A fake gateway in memory that keeps the image contract, or breaks one point of it when told to."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from appliance.verification.http import Answer, Call, Unreachable

BASE_URL = "http://gateway.test:8800"
TOKEN = "good-token-0123456789"  # the fake's own
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
REQUEST_ID = "req-" + "0a" * 12


Spoil = Callable[[Call, Answer], Answer]


class FakeGateway:
    """`fault` names the one thing it does wrong, or `spoil` changes its answers on their way out.

    Its `exchange` is what the program under test calls through.
    """

    def __init__(self, fault: str = "", backend: str = "mock", spoil: Spoil | None = None) -> None:
        self.fault = fault
        self.backend = backend
        self.spoil = spoil
        self.calls: list[Call] = []
        self.pictures: dict[str, bytes] = {}

    def exchange(self, call: Call) -> Answer:
        self.calls.append(call)
        answer = self._answer(call)
        return answer if self.spoil is None else self.spoil(call, answer)

    def _answer(self, call: Call) -> Answer:
        path = urlsplit(call.url).path
        if self.fault == "unreachable":
            raise Unreachable("nothing there")
        if path == "/health":
            return self._json(503 if self.fault == "ill" else 200, {"ok": self.fault != "ill"})
        if path.startswith("/ui/images/"):
            return self._picture(call)
        if not self._has_token(call) and self.fault != "open":
            return self._error(401, "authentication_error", {"WWW-Authenticate": "Bearer"})
        if path == "/v1/gateway/status":
            return self._status()
        return self._generate(call)

    def _has_token(self, call: Call) -> bool:
        return call.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _generate(self, call: Call) -> Answer:
        if self.fault == "full":
            return self._error(429, "rate_limit_error")
        if call.headers["Content-Type"] != "application/json":
            return self._refuse("content_type", 415)
        try:
            body = json.loads(call.body or b"", object_pairs_hook=_no_doubles)
        except ValueError:
            return self._refuse("json", 400)
        wrong = {
            "n": body.get("n", 1) > 4,
            "prompt": not body.get("prompt", "").strip(),
            "size": body.get("size") == "0x64",
            "format": body.get("response_format") not in {None, "url", "b64_json"},
        }
        for what, is_wrong in wrong.items():
            if is_wrong:
                return self._refuse(what, 400)
        return self._draw(body)

    def _refuse(self, what: str, status: int) -> Answer:
        if self.fault == f"takes_{what}":
            return self._json(200, {})
        return self._error(status, "invalid_request_error")

    def _draw(self, body: Mapping[str, Any]) -> Answer:
        seed = str(len(self.calls)) if self.fault == "random" else body["prompt"]
        data = PNG + seed.encode()  # bytes after IEND: another hash, the same picture
        if self.fault == "wrong_magic":
            data = b"GIF89a" + data
        if self.fault == "constant":
            data = PNG
        digest = hashlib.sha256(data).hexdigest()
        self.pictures[digest] = data
        items: dict[str, str] = {"url": f"{BASE_URL}/ui/images/{digest}.png?exp=2000&sig=Abc"}
        if body.get("response_format") == "b64_json":
            items = {"b64_json": base64.b64encode(data).decode()}
        if self.fault == "both":
            items = {"b64_json": base64.b64encode(data).decode(), "url": f"/ui/images/{digest}.png"}
        if self.fault == "bad_base64":
            items = {"b64_json": "!!"} if "b64_json" in items else items
        if self.fault == "relative_url" and "url" in items:
            items["url"] = items["url"].removeprefix(BASE_URL)
        gateway = {"backend": self.backend, "backend_class": "gpu_heavy", "mime": "image/png", "sha256": [digest]}
        if self.fault == "wrong_hash":
            gateway["sha256"] = ["0" * 64]
        if self.fault == "no_gateway":
            return self._json(200, {"created": 1, "data": [items]}, {"X-Backend-Used": "gpu_heavy"})
        used = "other" if self.fault == "wrong_backend_used" else "gpu_heavy"
        return self._json(200, {"created": 1, "data": [items], "_gateway": gateway}, {"X-Backend-Used": used})

    def _picture(self, call: Call) -> Answer:
        parts = urlsplit(call.url)
        query = parse_qs(parts.query)
        signed = query == {"exp": ["2000"], "sig": ["Abc"]}
        if not signed and not self._has_token(call) and not self._lets_in(query):
            return self._error(403, "permission_error")
        data = self.pictures[parts.path.rpartition("/")[2].removesuffix(".png")]
        headers = {
            "Content-Type": "image/png",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        for name in list(headers):
            if self.fault == f"without_{name}":
                del headers[name]
        if self.fault == "other_bytes":
            data += b"!"
        return Answer(200, tuple(headers.items()), data)

    def _lets_in(self, query: Mapping[str, list[str]]) -> bool:
        lets_in = {
            "takes_any_signature": query.get("sig", ["Abc"]) != ["Abc"],
            "takes_any_end": query.get("exp", ["2000"]) != ["2000"],
            "takes_no_signature": not query,
        }
        return lets_in.get(self.fault, False)

    def _status(self) -> Answer:
        slots = {"limit": 2, "available": 2, "inflight": 0, "holders": []}
        if self.fault == "keeps_slot":
            slots = {"limit": 2, "available": 1, "inflight": 1, "holders": [{"request_id": REQUEST_ID, "since_s": 9}]}
        if self.fault == "loses_slot":
            slots["available"] = 1
        if self.fault == "odd_status":
            return self._json(200, {"admission_control": {"gpu_heavy.images": {"limit": 2}}})
        return self._json(200, {"admission_control": {"gpu_heavy.images": slots}})

    def _json(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        ids = {"no_id": [], "two_ids": [("x-request-id", REQUEST_ID)] * 2}.get(
            self.fault, [("x-request-id", REQUEST_ID)]
        )
        return Answer(status, (*(headers or {}).items(), *ids), json.dumps(body).encode())

    def _error(self, status: int, error_type: str, headers: Mapping[str, str] | None = None) -> Answer:
        fields = {"message": "no", "type": error_type, "param": None, "code": None, "source": "gateway"}
        if self.fault == "no_source":
            del fields["source"]
        if self.fault == "wrong_type":
            fields["type"] = "error"
        return self._json(status, {"error": fields}, {} if self.fault == "no_challenge" else headers)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("doubled key")
    return dict(pairs)
