"""Image servers: asked directly, past the gateway, to tell its faults from theirs."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from appliance.verification.http import Call, Exchange
from appliance.verification.pictures import describe, sniff_mime
from appliance.verification.report import CheckFailedError, expect

_PROMPT = "a lighthouse in the fog"


def check_a1111(exchange: Exchange, base_url: str) -> str:
    """Draw 64x64 in two steps through `/sdapi/v1/txt2img`."""
    body = {"prompt": _PROMPT, "width": 64, "height": 64, "steps": 2}
    answer = _post(exchange, f"{base_url}/sdapi/v1/txt2img", body)
    images = answer.get("images")
    if not isinstance(images, list) or not images:
        raise CheckFailedError("200, but `images` is empty: look at the server's log")
    return _describe_base64(images[0])


def check_openai_images(exchange: Exchange, base_url: str, model: str | None) -> str:
    """Draw 64x64 through `/v1/images/generations`; the base URL may end in /v1 or not."""
    body: dict[str, object] = {"prompt": _PROMPT, "n": 1, "size": "64x64", "response_format": "b64_json"}
    if model:
        body["model"] = model
    answer = _post(exchange, f"{base_url.removesuffix('/v1')}/v1/images/generations", body)
    items = answer.get("data")
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        raise CheckFailedError("200, but `data` is empty: look at the server's log")
    if "b64_json" not in items[0] and "url" in items[0]:
        return "answers a url; the gateway will fetch it if it is on the same server"
    return _describe_base64(items[0].get("b64_json"))


def _post(exchange: Exchange, url: str, body: Mapping[str, object]) -> dict[str, Any]:
    answer = exchange(Call("POST", url, {"Content-Type": "application/json"}, json.dumps(body).encode()))
    expect(answer.status == 200, answer.brief())
    parsed = answer.json()
    if not isinstance(parsed, dict):
        raise CheckFailedError(f"200, but no JSON object: {answer.body[:60]!r}")
    return parsed


def _describe_base64(text: object) -> str:
    if not isinstance(text, str):
        raise CheckFailedError("200, but the picture is no base64 text")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CheckFailedError(f"200, but the picture is no base64: {error}") from None
    expect(sniff_mime(data) is not None, f"200, but {describe(data)}")
    return describe(data)
