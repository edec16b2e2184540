"""Image checks: `POST /v1/images/generations` and the pictures it hands out, against the contract."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from appliance.verification.http import Answer, Gateway
from appliance.verification.pictures import MIMES, describe, sniff_mime
from appliance.verification.report import CheckFailedError, CheckSkippedError, StopError, expect

GENERATIONS = "/v1/images/generations"
PROMPT = "a lighthouse in the fog"

ERROR_FIELDS = {"message", "type", "param", "code", "source"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One good answer, taken apart."""

    items: list[Mapping[str, Any]]
    gateway: Mapping[str, Any]
    answer: Answer


class ImageChecks:
    """The checks against one gateway, in an order where later ones look at what earlier ones made."""

    def __init__(self, gateway: Gateway, *, size: str) -> None:
        self._gateway = gateway
        self._size = size
        self._by_url: Drawn | None = None
        self._request_ids: set[str] = set()

    def health(self) -> str:
        answer = self._gateway.get("/health")
        if answer.status != 200:
            raise StopError(answer.brief())
        expect(answer.json() == {"ok": True}, f"the body is {answer.body[:80]!r}, not {{'ok': true}}")
        expect(answer.has_request_id(), f"x-request-id is {answer.header('x-request-id')!r}")
        return "200"

    def token_is_required(self) -> str:
        for token in (None, "wrong-" + "x" * 32):
            answer = self._gateway.post(GENERATIONS, {"prompt": PROMPT}, token=token)
            _expect_error(answer, 401, "authentication_error")
            challenge = answer.header("www-authenticate")
            expect(challenge == "Bearer", f"WWW-Authenticate is {challenge!r}, not 'Bearer'")
        return "401 without a token and with a wrong one"

    def url(self) -> str:
        drawn = self._draw(PROMPT, response_format="url")
        _expect_items(drawn, "url")
        self._by_url = drawn
        return f"{drawn.gateway['backend']} on {drawn.gateway['backend_class']}, {drawn.gateway['mime']}"

    def fetch(self) -> str:
        target, drawn = self._first_url()
        answer = self._gateway.get(target)
        expect(answer.status == 200, f"the signed URL without a token: {answer.brief()}")
        expected = {"content-type": drawn.gateway["mime"], "x-content-type-options": "nosniff"}
        for name, value in expected.items():
            expect(answer.header(name) == value, f"{name} is {answer.header(name)!r}, not {value!r}")
        policy = answer.header("content-security-policy") or ""
        expect("sandbox" in policy, f"content-security-policy is {policy!r}, without sandbox")
        _expect_picture(answer.body, drawn, 0)
        return describe(answer.body)

    def fetch_with_token(self) -> str:
        target, drawn = self._first_url()
        answer = self._gateway.get(target.partition("?")[0], token=self._gateway.token)
        expect(answer.status == 200, f"the unsigned URL with a token: {answer.brief()}")
        _expect_picture(answer.body, drawn, 0)
        return "200 without a signature, with a token"

    def signature(self) -> str:
        target, _ = self._first_url()
        path, _, query = target.partition("?")
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        expect({"exp", "sig"} <= set(fields), f"the URL has no exp and sig: {query!r}")
        forged = {
            "another signature": {**fields, "sig": _altered(fields["sig"])},
            "a later end": {**fields, "exp": str(int(fields["exp"]) + 3600)},
            "no signature": {},
        }
        for what, changed in forged.items():
            answer = self._gateway.get(f"{path}?{urlencode(changed)}" if changed else path)
            expect(400 <= answer.status < 500, f"{what} was let in: {answer.status}")
        return "forged and missing ones are refused"

    def b64_json(self) -> str:
        drawn = self._draw(PROMPT, response_format="b64_json")
        _expect_items(drawn, "b64_json")
        try:
            data = base64.b64decode(str(drawn.items[0]["b64_json"]), validate=True)
        except binascii.Error as error:
            raise CheckFailedError(f"b64_json is no base64: {error}") from None
        _expect_picture(data, drawn, 0)
        return describe(data)

    def same_prompt_same_picture(self) -> str:
        _, first = self._first_url()
        if first.gateway["backend"] != "mock":
            raise CheckSkippedError(f"{first.gateway['backend']} need not draw the same twice")
        again = self._draw(PROMPT, response_format="url")
        other = self._draw(PROMPT + " at night", response_format="url")
        expect(again.gateway["sha256"] == first.gateway["sha256"], "the mock drew another picture for the same prompt")
        expect(other.gateway["sha256"] != first.gateway["sha256"], "the mock drew the same picture for another prompt")
        return str(first.gateway["sha256"][0])[:12]

    def refuse(self, body: object, status: int, *, content_type: str = "application/json") -> str:
        """Check that this body is refused with this status, in the shape of every error."""
        answer = self._gateway.post(GENERATIONS, body, token=self._gateway.token, content_type=content_type)
        return _expect_error(answer, status, "invalid_request_error")

    def slots_are_back(self) -> str:
        _, drawn = self._first_url()
        answer = self._gateway.get("/v1/gateway/status", token=self._gateway.token)
        expect(answer.status == 200, answer.brief())
        name = f"{drawn.gateway['backend_class']}.images"
        status = answer.json()
        slots = status.get("admission_control", {}).get(name) if isinstance(status, dict) else None
        if not isinstance(slots, dict):
            raise CheckFailedError(f"admission_control has no {name}")
        ours = self._request_ids & {holder.get("request_id") for holder in slots["holders"]}
        expect(not ours, f"{name} still holds slots for {', '.join(sorted(ours))}")
        expect(slots["available"] + slots["inflight"] == slots["limit"], f"{name} does not add up: {slots}")
        return f"{name}: {slots['available']} of {slots['limit']} free"

    def _draw(self, prompt: str, **fields: object) -> Drawn:
        body = {"prompt": prompt, "size": self._size, "n": 1, "steps": 2, **fields}
        answer = self._gateway.post(GENERATIONS, body, token=self._gateway.token)
        if answer.status == 401:
            raise StopError("401: the token was refused: give the right one by --token")
        expect(answer.status == 200, answer.brief())
        drawn = _take_apart(answer)
        expect(answer.has_request_id(), f"x-request-id is {answer.header('x-request-id')!r}")
        self._request_ids.add(answer.header("x-request-id") or "")
        used = answer.header("x-backend-used")
        expect(used == drawn.gateway["backend_class"], f"X-Backend-Used is {used!r}")
        return drawn

    def _first_url(self) -> tuple[str, Drawn]:
        """The path and query of the first picture: PUBLIC_BASE_URL need not be reachable from here."""
        if self._by_url is None:
            raise CheckSkippedError("no picture was drawn")
        parts = urlsplit(str(self._by_url.items[0]["url"]))
        expect(bool(parts.path), "the URL has no path")
        return parts.path + (f"?{parts.query}" if parts.query else ""), self._by_url


def _take_apart(answer: Answer) -> Drawn:
    body = answer.json()
    if not isinstance(body, dict) or not isinstance(body.get("created"), int):
        raise CheckFailedError("the answer is no object with a `created`")
    items, gateway = body.get("data"), body.get("_gateway")
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        raise CheckFailedError("`data` does not hold the one picture that was asked for")
    if not isinstance(gateway, dict):
        raise CheckFailedError("the answer has no `_gateway`")
    missing = {"backend", "backend_class", "mime", "sha256"} - set(gateway)
    expect(not missing, f"`_gateway` lacks {', '.join(sorted(missing))}")
    expect(gateway["mime"] in MIMES, f"`_gateway.mime` is {gateway['mime']!r}")
    hashes = gateway["sha256"]
    expect(isinstance(hashes, list) and len(hashes) == 1, "`_gateway.sha256` does not hold one hash a picture")
    return Drawn(items, gateway, answer)


def _expect_items(drawn: Drawn, key: str) -> None:
    both = {"url", "b64_json"} & set(drawn.items[0])
    expect(both == {key}, f"asked for {key}, the item holds {', '.join(sorted(both)) or 'neither'}")


def _expect_picture(data: bytes, drawn: Drawn, index: int) -> None:
    digest = hashlib.sha256(data).hexdigest()
    expect(digest == drawn.gateway["sha256"][index], "the picture's SHA-256 is not the one in `_gateway`")
    mime = sniff_mime(data)
    expect(mime == drawn.gateway["mime"], f"the bytes are {mime}, `_gateway.mime` says {drawn.gateway['mime']}")


def _expect_error(answer: Answer, status: int, error_type: str) -> str:
    expect(answer.status == status, f"expected {status}, got {answer.brief()}")
    body = answer.json()
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        raise CheckFailedError("the body has no `error`")
    missing = ERROR_FIELDS - set(error)
    expect(not missing, f"`error` lacks {', '.join(sorted(missing))}")
    expect(error["type"] == error_type, f"`error.type` is {error['type']!r}, not {error_type!r}")
    expect(answer.has_request_id(), f"x-request-id is {answer.header('x-request-id')!r}")
    return answer.brief()


def _altered(signature: str) -> str:
    # The first character: the last one of a base64 text can hold bits that do not count.
    return ("B" if signature[:1] == "A" else "A") + signature[1:]
