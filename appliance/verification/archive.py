"""Archive: what is inside the executable, read without running it. PyInstaller 6's CArchive and the PYZ within it.

Formats: PyInstaller, `archive/writers.py` and `loader/pyimod01_archive.py`.
"""

import marshal
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.verification.sealed_json import digest

_MAGIC = b"MEI\014\013\012\013\016"
_COOKIE = struct.Struct("!8sIIII64s")
_ROW = struct.Struct("!IIIIBc")
_PYZ_HEAD = struct.Struct("!4s4si")
_PYZ = "PYZ.pyz"
MAX_ENTRY_BYTES = 256 * 1024 * 1024
BUILDINFO = "appliance/buildinfo.json"


class NoArchive(ValueError):
    """The file is no executable of this kind, or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `size`, `sha256`: of what it holds, unpacked. Modules in the PYZ are named `PYZ.pyz/<module>`."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """All entries by name, and the bill of materials that the build wrote into it."""

    entries: tuple[Entry, ...]
    buildinfo: bytes


def read_archive(file: Path, *, modules: bool = True) -> Archive:
    """Raises NoArchive, OSError. `modules`: those of the PYZ too, listed by `marshal`: for a file that one would run."""
    data = file.read_bytes()
    entries: list[Entry] = []
    buildinfo = b""
    try:
        for name, content in _contents(data):
            entries.append(Entry(name, len(content), digest(content)))
            if name == BUILDINFO:
                buildinfo = content
            if name == _PYZ and modules:
                entries.extend(_modules(content))
    except (struct.error, zlib.error, UnicodeDecodeError, EOFError, TypeError) as error:
        raise NoArchive(f"{file}: its archive cannot be read: {error}") from None
    if not buildinfo:
        raise NoArchive(f"{file} holds no {BUILDINFO}: `python3 tools/dev.py binary` makes one that does")
    return Archive(tuple(sorted(entries, key=lambda entry: entry.name)), buildinfo)


def _contents(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = data.rfind(_MAGIC)
    if at < 0:
        raise NoArchive("this is no executable that PyInstaller made")
    _, length, toc_at, toc_length, _, _ = _COOKIE.unpack_from(data, at)
    start = at + _COOKIE.size - length
    toc = data[start + toc_at : start + toc_at + toc_length]
    place = 0
    while place < len(toc):
        row_length, offset, packed, size, compressed, _ = _ROW.unpack_from(toc, place)
        if row_length <= _ROW.size or size > MAX_ENTRY_BYTES:
            raise NoArchive("its table of contents is damaged")
        name = toc[place + _ROW.size : place + row_length].rstrip(b"\0").decode()
        content = data[start + offset : start + offset + packed]
        yield name, _unpack(content, size) if compressed else content
        place += row_length


def _unpack(content: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, max(size, 1))
    if len(unpacked) != size or unpacker.unconsumed_tail:
        raise NoArchive("an entry has not the size that it states")
    return unpacked


def _modules(pyz: bytes) -> Iterator[Entry]:
    _, _, toc_at = _PYZ_HEAD.unpack_from(pyz)
    for name, (_, at, length) in marshal.loads(pyz[toc_at:]):  # noqa: S302 -- our own executable, see above
        content = zlib.decompress(pyz[at : at + length]) if length else b""  # a namespace package has no code
        yield Entry(f"{_PYZ}/{name}", len(content), digest(content))
