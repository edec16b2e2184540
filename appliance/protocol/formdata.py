"""Form data: multipart/form-data (RFC 7578) as it comes in, cut anywhere; parts and their bytes out, within caps.

The parsing is werkzeug's; what it leaves open (how long, how many, which names) is bounded here. It takes 2 MB and 60 ms
to import: this module is imported when the first form comes.
"""

from collections.abc import Iterator

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio import multipart

from appliance.protocol.errors import InvalidRequest, UnsupportedMediaType
from appliance.protocol.formparts import FormEvent, PartBegin, PartData

FORM = "multipart/form-data"
MAX_PARTS = 64  # a form of OpenAI's has twenty fields and sixteen pictures
MAX_FIELD_BYTES = 256 * 1024  # a prompt has 32000 characters at most, of four bytes each
MAX_BOUNDARY_CHARS = 70  # RFC 2046, 5.1.1

# Everything the parser has not given out yet: a part's head, a preamble, one read.
_MAX_BUFFERED_BYTES = 256 * 1024
_FEED_BYTES = 64 * 1024
_LONGEST_LINE = 1024  # of a boundary, with the blanks that may follow it


def form_boundary(content_type: str) -> bytes:
    """The boundary out of a Content-Type header. Raises UnsupportedMediaType, InvalidRequest."""
    kind, options = parse_options_header(content_type)
    if kind.lower() != FORM:
        raise UnsupportedMediaType(
            f"Send `Content-Type: {FORM}` with a boundary, as every HTTP library does for files."
        )
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= MAX_BOUNDARY_CHARS or not boundary.isascii() or not boundary.isprintable():
        raise InvalidRequest(f"The boundary of {FORM} is missing or malformed.", code="invalid_form")
    return boundary.encode("ascii")


class FormReader:
    """One form, fed as it comes. `file_fields`: names whose parts are files; a file under any other name is refused."""

    def __init__(self, boundary: bytes, file_fields: frozenset[str]) -> None:
        self._decoder = multipart.MultipartDecoder(
            boundary, max_form_memory_size=_MAX_BUFFERED_BYTES, max_parts=MAX_PARTS
        )
        self._delimiter = b"--" + boundary
        self._held = b""
        self._file_fields = file_fields
        self._part: PartBegin | None = None
        self._size = 0

    def feed(self, data: bytes) -> Iterator[FormEvent]:
        """What is complete with `data`. Raises InvalidRequest for what is no form, or more of one than is taken."""
        for start in range(0, len(data), _FEED_BYTES):
            self._held += data[start : start + _FEED_BYTES]
            ready = self._safe_length()
            piece, self._held = self._held[:ready], self._held[ready:]
            yield from self._step(piece)

    def _safe_length(self) -> int:
        """Where what is held may be cut: not in the line of a boundary, nor in what may become one.

        werkzeug 3.1 takes the CR before a boundary for data if the line is cut.
        """
        end = max(len(self._held) - len(self._delimiter) - len(b"\r\n"), 0)
        found = self._held.rfind(self._delimiter, 0, end + len(b"\r\n") + len(self._delimiter) - 1)
        if found < 0:
            return end
        line_end = self._held.find(b"\n", found, found + _LONGEST_LINE)
        is_whole = 0 <= line_end < end or (line_end < 0 and end - found >= _LONGEST_LINE)
        return end if is_whole else max(found - len(b"\r\n"), 0)

    def finish(self) -> Iterator[FormEvent]:
        """The body has ended. Raises InvalidRequest if the form has not."""
        yield from self._step(self._held)
        yield from self._step(None)

    def _step(self, data: bytes | None) -> Iterator[FormEvent]:
        try:
            self._decoder.receive_data(data)
            while not isinstance(event := self._decoder.next_event(), multipart.NeedData | multipart.Epilogue):
                found = self._read(event)
                if found is not None:
                    yield found
        except RequestEntityTooLarge:
            raise _bad(f"it has more than {MAX_PARTS} parts, or a part whose head is too long") from None
        except ValueError:
            raise _bad("a part has no readable head, or its last boundary is missing") from None

    def _read(self, event: multipart.Event) -> FormEvent | None:
        if isinstance(event, multipart.File | multipart.Field):
            return self._begin(event.name, has_filename=isinstance(event, multipart.File))
        if isinstance(event, multipart.Data):
            return self._take(event)
        return None  # what comes before the first boundary means nothing

    def _begin(self, name: str | None, *, has_filename: bool) -> PartBegin:
        if not name:
            raise _bad("a part has no name")
        if has_filename and name not in self._file_fields:
            raise InvalidRequest(f"{name[:64]!r} is no picture of this form.", param=name[:64], code="invalid_form")
        self._part = PartBegin(name, is_file=name in self._file_fields)
        self._size = 0
        return self._part

    def _take(self, event: multipart.Data) -> PartData:
        if self._part is None:
            raise AssertionError("unreachable: the parser gives a part's head before its data")
        self._size += len(event.data)
        if not self._part.is_file and self._size > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"{self._part.name[:64]} is longer than {MAX_FIELD_BYTES} bytes.",
                param=self._part.name[:64],
                code="invalid_value",
            )
        if not event.more_data:
            self._part = None
        return PartData(event.data, last=not event.more_data)


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(f"The body is no {FORM} that can be read: {what}.", code="invalid_form")
