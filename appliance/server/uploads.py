"""Uploads: a form with pictures, read as it comes, its files on the disk until a slot is there to draw with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from appliance.backends.base import ImageEdit
from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.protocol.edits import FILE_FIELDS, MASK_FIELD, MAX_PICTURES
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.formparts import PartBegin, PartData
from appliance.protocol.images import Image
from appliance.protocol.magic import sniff_image
from appliance.protocol.picture_size import Size, picture_size
from appliance.server.exchange import ReceivePiece, Request
from appliance.storage.spool import Spool, SpooledFile

if TYPE_CHECKING:
    from appliance.protocol.formdata import FormReader

_HEAD_BYTES = 1024 * 1024  # a JPEG says its size after its metadata


@dataclass(slots=True)
class Form:
    """The fields, and the files under their names, in the order they came."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: list[tuple[str, SpooledFile]] = field(default_factory=list)

    def digest(self) -> str:
        """The same for the same fields and files, whatever boundary they came between."""
        files = [[name, file.sha256] for name, file in self.files]
        return sha256_hex(canonical_json({"fields": self.fields, "files": files}).encode())


@dataclass(frozen=True, slots=True)
class UploadedPictures:
    """What is to be edited: on the disk, looked at, not in memory. `size`: the first one's."""

    pictures: Sequence[SpooledFile]
    mask: SpooledFile | None
    size: Size

    async def load(self, strength: float | None) -> ImageEdit:
        """Read everything into memory. Raises StorageFull if the disk fails."""
        first, *others = [await _load(file) for file in self.pictures]
        mask = await _load(self.mask) if self.mask is not None else None
        return ImageEdit(image=first, mask=mask, strength=strength, others=tuple(others))


async def read_form(request: Request, receive_piece: ReceivePiece, spool: Spool) -> Form:
    """Read the whole body. The files are gone when the visit's stack closes.

    Raises UnsupportedMediaType, InvalidRequest, StorageFull, and what `receive_piece` raises.
    """
    # A thread imports the parser, so that running streams go on meanwhile. Every later form passes in 0.1 ms.
    reader = await trio.to_thread.run_sync(_open_reader, request.header(b"content-type") or "")
    parts = _Parts(request, spool)
    while piece := await receive_piece():
        for event in reader.feed(piece):
            await parts.take(event)
    for event in reader.finish():
        await parts.take(event)
    return parts.form


def _open_reader(content_type: str) -> "FormReader":
    from appliance.protocol.formdata import FormReader, form_boundary  # noqa: PLC0415 -- 2 MB that few boxes need

    return FormReader(form_boundary(content_type), FILE_FIELDS)


class _Parts:
    """Where the bytes of the part that is just coming in go."""

    def __init__(self, request: Request, spool: Spool) -> None:
        self.form = Form()
        self._stack = request.visit.stack
        self._spool = spool
        self._name = ""
        self._file: SpooledFile | None = None
        self._text: list[bytes] = []

    async def take(self, event: PartBegin | PartData) -> None:
        if isinstance(event, PartBegin):
            self._name = event.name
            self._file = await self._stack.enter_async_context(self._spool.open()) if event.is_file else None
            return
        if self._file is None:
            self._text.append(event.data)
        else:
            await self._file.write(event.data)
        if event.last:
            await self._finish()

    async def _finish(self) -> None:
        if self._file is not None:
            await self._file.flush()
            self.form.files.append((self._name, self._file))
            return
        try:
            text = b"".join(self._text).decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"{self._name[:64]} is not UTF-8.", param=self._name[:64], code="invalid_value"
            ) from None
        self._text.clear()
        self.form.fields.setdefault(self._name, []).append(text)


async def look_at_pictures(files: Sequence[tuple[str, SpooledFile]], *, max_pixels: int) -> UploadedPictures:
    """Type every picture by its bytes and hold its size against the cap. Raises InvalidRequest, StorageFull.

    Browsers send a file that was not chosen as an empty one: there is none then.
    """
    given = [(name, file) for name, file in files if file.size]
    pictures = [file for name, file in given if name != MASK_FIELD]
    masks = [file for name, file in given if name == MASK_FIELD]
    if not 0 < len(pictures) <= MAX_PICTURES:
        what = f"at most {MAX_PICTURES} pictures are taken" if pictures else "is required: the picture to edit"
        raise _invalid("image", what, "invalid_value" if pictures else "missing_required_parameter")
    if len(masks) > 1:
        raise _invalid(MASK_FIELD, f"was sent {len(masks)} times: send it once")
    sizes = [await _look(file, "image", max_pixels) for file in pictures]
    if masks and await _look(masks[0], MASK_FIELD, max_pixels) != sizes[0]:
        raise _invalid(MASK_FIELD, f"must be as large as the picture, {sizes[0][0]}x{sizes[0][1]}")
    return UploadedPictures(pictures, masks[0] if masks else None, sizes[0])


async def _look(file: SpooledFile, name: str, max_pixels: int) -> Size:
    start = await file.read(_HEAD_BYTES)
    kind = sniff_image(start)
    if kind is None or (name == MASK_FIELD and kind != "png"):
        raise _invalid(name, "must be a PNG" if name == MASK_FIELD else "must be a PNG, JPEG or WebP")
    size = picture_size(start, kind)
    if size is None or not all(size):
        raise _invalid(name, f"is a broken {kind.upper()}: it does not say its size")
    if size[0] * size[1] > max_pixels:
        raise _invalid(name, f"has {size[0]}x{size[1]} pixels, more than {max_pixels} (IMAGES_MAX_PIXELS)")
    return size


async def _load(file: SpooledFile) -> Image:
    data = await file.read()
    kind = sniff_image(data)
    if kind is None:
        raise AssertionError("unreachable: it was looked at before")
    return Image(data, kind)


def _invalid(name: str, what: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"{name} {what}.", param=name, code=code)
