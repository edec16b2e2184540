"""Edits on the wire: the fields of `POST /v1/images/edits`, which are text, become a checked request."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.images import ImageRequest, parse_image_request
from appliance.protocol.picture_size import Size

PICTURE_FIELDS = frozenset({"image", "image[]"})
MASK_FIELD = "mask"
FILE_FIELDS = PICTURE_FIELDS | {MASK_FIELD}
MAX_PICTURES = 16  # OpenAI's

_STRENGTH = ("strength", "denoising_strength")  # diffusers' word, and A1111's
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def parse_edit_fields(
    fields: Mapping[str, Sequence[str]], *, picture: Size, max_pixels: int
) -> tuple[ImageRequest, float | None]:
    """Check the text fields; `picture`: the first one's size, which the new one gets where no other is asked for.

    Gives the request and the strength. Raises InvalidRequest naming the field and what it takes.
    """
    body: dict[str, Any] = {}
    for name, values in fields.items():
        if len(values) > 1:
            raise _invalid(name, f"was sent {len(values)} times: send it once")
        if values[0].strip() or name == "prompt":  # web forms send every field they have
            body[name] = _typed(name, values[0])
    if body.get("size", "auto") == "auto":
        body["size"] = f"{picture[0]}x{picture[1]}"
    strength = _strength(body)
    return parse_image_request(body, max_pixels=max_pixels), strength


def _typed(name: str, text: str) -> Any:
    convert, what = _KINDS.get(name, (str, ""))
    try:
        return convert(text.strip() if convert is not str else text)
    except (ValueError, KeyError):
        raise _invalid(name, f"must be {what}") from None


def _strength(body: dict[str, Any]) -> float | None:
    given = {name: body.pop(name) for name in _STRENGTH if name in body}
    if len(set(given.values())) > 1:
        raise _invalid(_STRENGTH[0], f"and {_STRENGTH[1]} mean the same and differ: send one of them")
    strength: float | None = next(iter(given.values()), None)
    if strength is not None and not 0 <= strength <= 1:
        raise _invalid(next(iter(given)), "must be from 0 to 1")
    return strength


def _integer(text: str) -> int:
    if len(text) > 20 or not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or not text.isascii():
        raise ValueError(text)
    return number


def _boolean(text: str) -> bool:
    return _BOOLEANS[text.lower()]


def _invalid(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name[:64]} {what}.", param=name[:64], code="invalid_value")


_INTEGER: tuple[Callable[[str], Any], str] = (_integer, "a whole number")
_NUMBER: tuple[Callable[[str], Any], str] = (_number, "a number")
_KINDS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("n", "partial_images", "seed", "steps", "num_inference_steps"), _INTEGER),
    **dict.fromkeys(("guidance", "guidance_scale", "cfg_scale", *_STRENGTH), _NUMBER),
    "stream": (_boolean, "true or false"),
}
