"""The random weights: the same bytes everywhere, in files that other readers accept."""

import hashlib
import json
import struct
from pathlib import Path
from random import Random

from tests.real.sdserver.formats import Kind, Tensor, save_gguf, save_safetensors
from tests.real.sdserver.weights import clip_l, flux

PAIR = [Tensor("a", Kind.F32, (2, 3), b"\x01" * 24), Tensor("b", Kind.F16, (4,), b"\x02" * 8)]


def test_weights_are_the_same_bytes_on_every_machine() -> None:
    digest = hashlib.sha256()
    for tensor in flux(Random(0)):
        digest.update(tensor.name.encode() + tensor.data)
    assert digest.hexdigest() == "8573b16524630f8f790844aec029f6b5d8a3468b2a3a5abec5096d883d40dad1"


def test_tensors_have_as_many_bytes_as_their_shapes_say() -> None:
    bits = {Kind.F32: 32, Kind.F16: 16, Kind.Q4_0: 18 * 8 / 32}
    for tensor in [*flux(Random(0)), *clip_l(Random(2))]:
        count = 1
        for side in tensor.shape:
            count *= side
        assert len(tensor.data) == count * bits[tensor.kind] / 8, tensor.name


def test_safetensors_header_leads_to_each_array(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "x", PAIR)
    raw = (tmp_path / "x").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    assert header["b"] == {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}
    assert raw[8 + size + 24 :] == b"\x02" * 8


def test_gguf_arrays_are_aligned_and_their_sides_reversed(tmp_path: Path) -> None:
    save_gguf(tmp_path / "x", PAIR, architecture="sd")
    raw = (tmp_path / "x").read_bytes()
    assert raw[:4] == b"GGUF"
    assert struct.unpack("<IQQ", raw[4:24]) == (3, 2, 1)
    at = raw.index(b"\x01\x00\x00\x00\x00\x00\x00\x00a") + 9
    assert struct.unpack("<IQQIQ", raw[at : at + 32]) == (2, 3, 2, 0, 0)
    assert raw.index(b"\x01" * 24) % 32 == 0
    assert raw.index(b"\x02" * 8) - raw.index(b"\x01" * 24) == 32
