"""Faults: what a gateway can do wrong about pictures, and what the report must say then."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from appliance.verification.http import Answer, Call
from appliance.verification.image_checks import GENERATIONS
from tests.verification.fake_gateway import Spoil

# What the gateway does wrong, the check that must say so, and words of what it must say.
FAULTS = {
    "unreachable": ("health_get", "nothing there"),
    "ill": ("health_get", "503"),
    "no_id": ("health_get", "x-request-id is None"),
    "two_ids": ("health_get", "x-request-id is 'req-"),
    "open": ("token_required", "expected 401, got 200"),
    "no_challenge": ("token_required", "WWW-Authenticate is None"),
    "no_source": ("token_required", "lacks source"),
    "wrong_type": ("refuse_n", "`error.type` is 'error'"),
    "full": ("images_url", "429 no"),
    "both": ("images_b64_json", "the item holds b64_json, url"),
    "no_gateway": ("images_url", "no `_gateway`"),
    "wrong_backend_used": ("images_url", "X-Backend-Used is 'other'"),
    "without_Content-Type": ("image_fetch_signed", "content-type is None"),
    "without_X-Content-Type-Options": ("image_fetch_signed", "x-content-type-options is None"),
    "without_Content-Security-Policy": ("image_fetch_signed", "without sandbox"),
    "other_bytes": ("image_fetch_signed", "SHA-256"),
    "wrong_hash": ("image_fetch_token", "SHA-256"),
    "wrong_magic": ("image_fetch_signed", "the bytes are None"),
    "takes_any_signature": ("image_signature", "another signature was let in"),
    "takes_any_end": ("image_signature", "a later end was let in"),
    "takes_no_signature": ("image_signature", "no signature was let in"),
    "bad_base64": ("images_b64_json", "no base64"),
    "random": ("images_deterministic", "another picture for the same prompt"),
    "constant": ("images_deterministic", "the same picture for another prompt"),
    "takes_n": ("refuse_n", "expected 400, got 200"),
    "takes_prompt": ("refuse_prompt", "expected 400, got 200"),
    "takes_size": ("refuse_size", "expected 400, got 200"),
    "takes_format": ("refuse_format", "expected 400, got 200"),
    "takes_json": ("refuse_json", "expected 400, got 200"),
    "takes_content_type": ("refuse_content_type", "expected 415, got 200"),
    "keeps_slot": ("slots_back", "still holds slots for req-"),
    "loses_slot": ("slots_back", "does not add up"),
    "odd_status": ("slots_back", "an answer of an unexpected shape"),
}


def change(path: str, edit: Callable[[Any], object], *, only: int = 200) -> Spoil:
    """Edit the JSON of answers with this status on this path, in place, or put in what `edit` returns."""

    def spoil(call: Call, answer: Answer) -> Answer:
        if urlsplit(call.url).path != path or answer.status != only:
            return answer
        body = answer.json()
        changed = edit(body)
        return replace(answer, body=json.dumps(body if changed is None else changed).encode())

    return spoil


def restatus(path: str, status: int, *, token: bool) -> Spoil:
    """Answer this status on paths that start so, to calls with or without a token."""

    def spoil(call: Call, answer: Answer) -> Answer:
        hit = urlsplit(call.url).path.startswith(path) and token == ("Authorization" in call.headers)
        return replace(answer, status=status) if hit else answer

    return spoil


def without_ids(status: int) -> Spoil:
    """Leave x-request-id out of generations with this status."""

    def spoil(call: Call, answer: Answer) -> Answer:
        hit = urlsplit(call.url).path == GENERATIONS and answer.status == status
        return replace(answer, headers=answer.headers[:-1]) if hit else answer

    return spoil


SPOILS: dict[str, tuple[Spoil, str, str]] = {
    "other health": (change("/health", lambda body: {"ok": 1, "x": 2}), "health_get", "the body is"),
    "no id on 200": (without_ids(200), "images_url", "x-request-id is None"),
    "no id on 400": (without_ids(400), "refuse_n", "x-request-id is None"),
    "no created": (change(GENERATIONS, lambda body: body.pop("created") and None), "images_url", "`created`"),
    "two items": (change(GENERATIONS, lambda body: body["data"].append({})), "images_url", "the one picture"),
    "no mime": (change(GENERATIONS, lambda body: body["_gateway"].pop("mime") and None), "images_url", "lacks mime"),
    "odd mime": (change(GENERATIONS, lambda body: body["_gateway"].update(mime="image/gif")), "images_url", "'image/gif'"),
    "no hash": (change(GENERATIONS, lambda body: body["_gateway"].update(sha256=[])), "images_url", "one hash a picture"),
    "no signature": (change(GENERATIONS, lambda body: body["data"][0].update(url="/ui/x")), "image_signature", "no exp and sig"),
    "no path": (change(GENERATIONS, lambda body: body["data"][0].update(url="http:")), "image_fetch_signed", "no path"),
    "no error": (change(GENERATIONS, lambda body: {"detail": "no"}, only=400), "refuse_n", "no `error`"),
    "gone for strangers": (restatus("/ui/", 410, token=False), "image_fetch_signed", "the signed URL without a token: 410"),
    "gone for all": (restatus("/ui/", 410, token=True), "image_fetch_token", "the unsigned URL with a token: 410"),
    "status fails": (restatus("/v1/gateway/", 500, token=True), "slots_back", "500"),
    "no such class": (change("/v1/gateway/status", lambda body: body["admission_control"].clear()), "slots_back", "no gpu_heavy.images"),
}  # fmt: skip
