"""Images on the wire: the request of `POST /v1/images/generations`, checked, and the answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from appliance.protocol.base64text import encode_base64
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.magic import ImageType

ResponseFormat = Literal["url", "b64_json"]

DEFAULT_SIZE = "1024x1024"
MAX_IMAGES = 4

IMAGE_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Steps = Annotated[StrictInt, Field(ge=1, le=200)]
_Guidance = Annotated[_Number, Field(ge=0, le=100)]
_Name = Annotated[StrictStr, Field(max_length=200)]


class ImageOptions(BaseModel):
    """What a client may ask of the drawing itself, in every spelling that clients use. None: not asked.

    Ranges are wide enough for every backend; `seed` is -1 (choose one) to 2^63-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[StrictInt, Field(ge=-1, lt=2**63)] | None = None
    steps: _Steps | None = None
    num_inference_steps: _Steps | None = None
    guidance: _Guidance | None = None
    guidance_scale: _Guidance | None = None
    cfg_scale: _Guidance | None = None
    negative_prompt: StrictStr | None = None
    negative: StrictStr | None = None
    sampler: _Name | None = None
    scheduler: _Name | None = None
    style: _Name | None = None
    quality: _Name | None = None

    def given(self) -> dict[str, Any]:
        """Only what the client gave."""
        return self.model_dump(exclude_none=True)


OPTION_NAMES = frozenset(ImageOptions.model_fields)


class ImageFields(BaseModel):
    """The fields that are not options; whatever else the body holds is kept in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: StrictStr
    n: Annotated[StrictInt, Field(ge=1, le=MAX_IMAGES)] = 1
    size: StrictStr = DEFAULT_SIZE
    response_format: ResponseFormat | None = None
    model: StrictStr | None = None
    stream: StrictBool | None = None
    partial_images: Annotated[StrictInt, Field(ge=0, le=3)] | None = None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must be a non-empty string")
        return value


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A checked request: width and height in pixels; `extra` are fields this gateway has no name for, unchanged."""

    prompt: str
    n: int
    width: int
    height: int
    response_format: ResponseFormat | None
    model: str | None
    stream: bool
    partial_images: int
    options: ImageOptions
    extra: Mapping[str, Any]

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Image:
    """One picture, decoded and typed by its magic bytes. `encoded`: its base64, where somebody has it already."""

    data: bytes
    type: ImageType
    encoded: str | None = field(default=None, repr=False, compare=False)

    def as_base64(self) -> str:
        return self.encoded if self.encoded is not None else encode_base64(self.data)


def parse_image_request(body: Mapping[str, Any], *, max_pixels: int) -> ImageRequest:
    """Check a parsed JSON body. Raises InvalidRequest naming the field and what it takes."""
    options = {
        key: value for key, value in body.items() if key in OPTION_NAMES and not _is_blank(value)
    }  # null and blank dropped: web forms send every field they have
    rest = {key: value for key, value in body.items() if key not in OPTION_NAMES}
    if rest.get("size", ...) is None:
        del rest["size"]
    try:
        fields = ImageFields.model_validate(rest)
        checked_options = ImageOptions.model_validate(options)
    except ValidationError as error:
        raise _invalid_field(error) from None
    width, height = _parse_size(fields.size, max_pixels)
    if fields.stream:
        _check_stream(fields)
    return ImageRequest(
        prompt=fields.prompt,
        n=fields.n,
        width=width,
        height=height,
        response_format=fields.response_format,
        model=(fields.model or "").strip() or None,
        stream=bool(fields.stream),
        partial_images=fields.partial_images or 0,
        options=checked_options,
        extra=fields.model_extra or {},
    )


def _check_stream(fields: ImageFields) -> None:
    """OpenAI streams one picture, as base64: its events name neither a picture's number nor a URL."""
    if fields.n > 1:
        raise InvalidRequest(
            "A stream has one picture: leave n out, or leave stream out.", param="n", code="invalid_value"
        )
    if fields.response_format == "url":
        raise InvalidRequest(
            "A stream hands its picture out as base64: leave response_format out, or leave stream out.",
            param="response_format",
            code="invalid_value",
        )


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _parse_size(text: str, max_pixels: int) -> tuple[int, int]:
    match = IMAGE_SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"size must be WIDTHxHEIGHT in pixels, such as {DEFAULT_SIZE}.", param="size", code="invalid_value"
        )
    width, height = int(match.group(1)), int(match.group(2))
    if width * height > max_pixels:
        raise InvalidRequest(
            f"size {width}x{height} is more than {max_pixels} pixels (IMAGES_MAX_PIXELS): ask for a smaller picture.",
            param="size",
            code="invalid_value",
        )
    return width, height


def _invalid_field(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else None
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return InvalidRequest(f"{field} is required.", param=field, code="missing_required_parameter")
    return InvalidRequest(f"{field}: {reason[:1].lower()}{reason[1:]}.", param=field, code="invalid_value")


def image_item(image: Image, url: str | None) -> dict[str, str]:
    """One entry of `data`: a URL where there is one, else base64; never both."""
    return {"b64_json": image.as_base64()} if url is None else {"url": url}


def image_answer(created_s: int, data: Sequence[Mapping[str, str]], gateway: Mapping[str, Any]) -> bytes:
    """The whole answer as JSON; `gateway` says how it came about, without what is unknown.

    Base64 has nothing to escape: it is put between its quotes. json.dumps takes 5 ms to look through 2 MB.
    """
    known = {key: value for key, value in gateway.items() if value is not None}
    pieces = [b'{"created":%d,"data":[' % created_s]
    for item in data:
        pieces += [b"," if len(pieces) > 1 else b"", *_item_pieces(item)]
    return b"".join([*pieces, b'],"_gateway":', compact_json(known), b"}"])


def _item_pieces(item: Mapping[str, str]) -> list[bytes]:
    encoded = item.get("b64_json")
    return [compact_json(item)] if encoded is None else [b'{"b64_json":"', encoded.encode("ascii"), b'"}']
