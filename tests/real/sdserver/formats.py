"""Two containers for tensors, written from their descriptions: safetensors and GGUF version 3."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

GGUF_ALIGNMENT = 32  # bytes; the default where a file names none
GGUF_TYPE_STRING = 8
SAFETENSORS_ALIGNMENT = 8


class Kind(Enum):
    """How a tensor's numbers are stored: the safetensors name, the GGML number."""

    F32 = ("F32", 0)
    F16 = ("F16", 1)
    Q4_0 = ("", 2)  # blocks of 32 in 18 bytes: an f16 scale, then 32 nibbles; GGUF only


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array, rows first, in the bytes that go to the file."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    data: bytes


def save_safetensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Eight bytes of length, a JSON header, the arrays (the format's own README)."""
    header, offset = {}, 0
    for tensor in tensors:
        end = offset + len(tensor.data)
        header[tensor.name] = {
            "dtype": tensor.kind.value[0],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % SAFETENSORS_ALIGNMENT)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors))


def save_gguf(path: Path, tensors: Sequence[Tensor], *, architecture: str) -> None:
    """Head, one key, the table of tensors, then the aligned arrays (ggml's docs/gguf.md)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    head += _text("general.architecture") + struct.pack("<I", GGUF_TYPE_STRING) + _text(architecture)
    offset = 0
    for tensor in tensors:
        fastest_first = tensor.shape[::-1]
        head += _text(tensor.name) + struct.pack(f"<I{len(fastest_first)}Q", len(fastest_first), *fastest_first)
        head += struct.pack("<IQ", tensor.kind.value[1], offset)
        offset += len(_aligned(tensor.data))
    path.write_bytes(_aligned(head) + b"".join(_aligned(tensor.data) for tensor in tensors))


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % GGUF_ALIGNMENT)
