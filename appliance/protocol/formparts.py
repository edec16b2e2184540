"""Parts of a form: what its reader hands out. Apart from it, because the reader is imported late."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part: `is_file` if its bytes are a file's, whatever it says about them."""

    name: str
    is_file: bool


@dataclass(frozen=True, slots=True)
class PartData:
    """Some bytes of the part that began last; `last`: it is complete."""

    data: bytes
    last: bool


FormEvent = PartBegin | PartData
