"""Random weights that stable-diffusion.cpp loads: a FLUX of one block, its autoencoder, and a CLIP-L text encoder."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import NormalDist

from tests.real.sdserver.formats import Kind, Tensor, save_gguf, save_safetensors
from tools.devtools.files import make_once

WIDTH = 128  # of the transformer; the loader takes it from the tensors
PATCH = 64  # sixteen latent channels, two by two
LATENT = 16
CHANNELS = 64  # of the autoencoder
CLIP_WIDTH, CLIP_MLP, CLIP_LAYERS, CLIP_WORDS, CLIP_TOKENS = 768, 3072, 12, 49408, 77
CLIP_SPREAD = 0.03
NIBBLE_SPREAD = 4.6  # standard deviation of a uniform nibble: sqrt((16 ** 2 - 1) / 12)


def ensure_weights(cache: Path) -> Path:
    """The folder with the three files, made in about a second on first use; the recipe's own text is the key."""
    recipe = Path(__file__).read_bytes() + Path(__file__).with_name("formats.py").read_bytes()
    return make_once(cache / f"sd-weights-{hashlib.sha256(recipe).hexdigest()[:12]}", make_weights)


def make_weights(folder: Path) -> None:
    """Write all three, the same bytes on every machine."""
    save_safetensors(folder / "flux-tiny.safetensors", list(flux(Random(0))))
    save_safetensors(folder / "tae-tiny.safetensors", list(autoencoder(Random(1))))
    save_gguf(folder / "clip_l-rand-q4_0.gguf", list(clip_l(Random(2))), architecture="sd")


def flux(random: Random) -> Iterator[Tensor]:
    """One double and one single block, where the real one has 19 and 38."""
    p = "model.diffusion_model."
    yield from _linear(random, p + "img_in", WIDTH, PATCH)
    yield from _linear(random, p + "txt_in", WIDTH, 4096)
    for name, inputs in (("time_in", 256), ("vector_in", CLIP_WIDTH)):
        yield from _linear(random, f"{p}{name}.in_layer", WIDTH, inputs)
        yield from _linear(random, f"{p}{name}.out_layer", WIDTH, WIDTH)
    for stream in ("img", "txt"):
        yield from _flux_stream(random, f"{p}double_blocks.0.{stream}")
    block = p + "single_blocks.0."
    yield from _linear(random, block + "linear1", 7 * WIDTH, WIDTH)
    yield from _linear(random, block + "linear2", WIDTH, 5 * WIDTH)
    yield from _linear(random, block + "modulation.lin", 3 * WIDTH, WIDTH)
    yield from _norms(block + "norm")
    yield from _linear(random, p + "final_layer.linear", PATCH, WIDTH)
    yield from _linear(random, p + "final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)


def _flux_stream(random: Random, prefix: str) -> Iterator[Tensor]:
    yield from _linear(random, prefix + "_mod.lin", 6 * WIDTH, WIDTH)
    yield from _linear(random, prefix + "_attn.qkv", 3 * WIDTH, WIDTH)
    yield from _linear(random, prefix + "_attn.proj", WIDTH, WIDTH)
    yield from _norms(prefix + "_attn.norm")
    yield from _linear(random, prefix + "_mlp.0", 4 * WIDTH, WIDTH)
    yield from _linear(random, prefix + "_mlp.2", WIDTH, 4 * WIDTH)


def autoencoder(random: Random) -> Iterator[Tensor]:
    """The tiny one: four levels of three blocks each way; layers without weights leave gaps in the numbering."""
    layer = "encoder.layers.{}".format
    yield from _convolution(random, layer(0), CHANNELS, 3)
    yield from _block(random, layer(1))
    for start in (2, 6, 10):
        yield from _convolution(random, layer(start), CHANNELS, CHANNELS, bias=False)
        for index in (1, 2, 3):
            yield from _block(random, layer(start + index))
    yield from _convolution(random, layer(14), LATENT, CHANNELS)
    layer = "decoder.layers.{}".format
    yield from _convolution(random, layer(0), CHANNELS, LATENT)
    for start in (2, 7, 12):
        for index in (0, 1, 2):
            yield from _block(random, layer(start + index))
        yield from _convolution(random, layer(start + 4), CHANNELS, CHANNELS, bias=False)
    yield from _block(random, layer(17))
    yield from _convolution(random, layer(18), 3, CHANNELS)


def _block(random: Random, prefix: str) -> Iterator[Tensor]:
    for index in (0, 2, 4):
        yield from _convolution(random, f"{prefix}.conv.{index}", CHANNELS, CHANNELS)


def clip_l(random: Random) -> Iterator[Tensor]:
    """Full size, 70 MB: the loader checks its shapes."""
    p = "text_model."
    yield _nibbles(random, p + "embeddings.token_embedding.weight", CLIP_WORDS, CLIP_WIDTH)
    positions = _floats([random.gauss(0.0, 0.02) for _ in range(CLIP_TOKENS * CLIP_WIDTH)])
    yield Tensor(p + "embeddings.position_embedding.weight", Kind.F32, (CLIP_TOKENS, CLIP_WIDTH), positions)
    for index in range(CLIP_LAYERS):
        layer = f"{p}encoder.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _quantised(random, f"{layer}self_attn.{name}", CLIP_WIDTH, CLIP_WIDTH)
        yield from _layer_norm(layer + "layer_norm1")
        yield from _layer_norm(layer + "layer_norm2")
        yield from _quantised(random, layer + "mlp.fc1", CLIP_MLP, CLIP_WIDTH)
        yield from _quantised(random, layer + "mlp.fc2", CLIP_WIDTH, CLIP_MLP)
    yield from _layer_norm(p + "final_layer_norm")


def _linear(random: Random, name: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield Tensor(name + ".weight", Kind.F16, (outputs, inputs), _bell(random, outputs * inputs, inputs**-0.5))
    yield _constant(name + ".bias", 0.0, outputs)


def _convolution(random: Random, name: str, outputs: int, inputs: int, *, bias: bool = True) -> Iterator[Tensor]:
    weights = _bell(random, outputs * inputs * 9, (2 / (inputs * 9)) ** 0.5)
    yield Tensor(name + ".weight", Kind.F16, (outputs, inputs, 3, 3), weights)
    if bias:
        yield _constant(name + ".bias", 0.0, outputs)


def _norms(prefix: str) -> Iterator[Tensor]:
    yield _constant(prefix + ".query_norm.scale", 1.0, WIDTH)
    yield _constant(prefix + ".key_norm.scale", 1.0, WIDTH)


def _layer_norm(name: str) -> Iterator[Tensor]:
    yield _constant(name + ".weight", 1.0, CLIP_WIDTH)
    yield _constant(name + ".bias", 0.0, CLIP_WIDTH)


def _quantised(random: Random, name: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield _nibbles(random, name + ".weight", outputs, inputs)
    yield _constant(name + ".bias", 0.0, outputs)


def _nibbles(random: Random, name: str, outputs: int, inputs: int) -> Tensor:
    blocks = outputs * inputs // 32
    scale = struct.pack("<e", CLIP_SPREAD / NIBBLE_SPREAD)
    data = bytearray(18 * blocks)
    data[0::18], data[1::18] = scale[:1] * blocks, scale[1:] * blocks
    for column in range(2, 18):
        data[column::18] = random.randbytes(blocks)
    return Tensor(name, Kind.Q4_0, (outputs, inputs), bytes(data))


def _bell(random: Random, count: int, spread: float) -> bytes:
    """`count` half floats out of a normal distribution's 256 quantiles: a table look-up each, no arithmetic."""
    quantile = NormalDist(0.0, spread).inv_cdf
    table = [struct.pack("<e", quantile((step + 0.5) / 256)) for step in range(256)]
    return b"".join(map(table.__getitem__, random.randbytes(count)))


def _constant(name: str, value: float, count: int) -> Tensor:
    return Tensor(name, Kind.F32, (count,), _floats([value] * count))


def _floats(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)
