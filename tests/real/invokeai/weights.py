"""Two models that InvokeAI installs and that know nothing: `weights.py FOLDER` makes tiny-sd and tiny-sdxl in it.

Run by InvokeAI's own Python. Their shapes are Stable Diffusion 1.5's and XL's where a loader looks, a hundredth of their
size elsewhere; the weights are random, the same every time. The tokenizer knows single bytes and no words.
"""

import json
import sys
from pathlib import Path

import operators_of_torchvision  # noqa: F401 - before anything imports torchvision

# isort: split
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77
SD_WIDTH, XL_WIDTH, XL_POOLED = 768, 2048, 1280
XL_TIMES = 6 * 256  # the six numbers that SDXL is told of a picture's size, 256 wide each


def main(folder: Path) -> None:
    torch.manual_seed(0)
    make_sd(folder / "tiny-sd")
    make_sdxl(folder / "tiny-sdxl")


def make_sd(folder: Path) -> None:
    """Stable Diffusion 1.5: one text encoder, 768 wide."""
    save_tokenizer(folder / "tokenizer")
    CLIPTextModel(text_config(SD_WIDTH)).save_pretrained(folder / "text_encoder")
    unet(SD_WIDTH, "CrossAttnDownBlock2D", "UpBlock2D").save_pretrained(folder / "unet")
    save_rest(folder, "StableDiffusionPipeline", {"feature_extractor": [None, None], "safety_checker": [None, None]})


def make_sdxl(folder: Path) -> None:
    """Stable Diffusion XL: two text encoders, side by side 2048 wide, and sizes beside the time."""
    save_tokenizer(folder / "tokenizer")
    save_tokenizer(folder / "tokenizer_2")
    CLIPTextModel(text_config(SD_WIDTH)).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(text_config(XL_POOLED)).save_pretrained(folder / "text_encoder_2")
    unet(
        XL_WIDTH,
        "DownBlock2D",
        "CrossAttnUpBlock2D",
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=XL_POOLED + XL_TIMES,
    ).save_pretrained(folder / "unet")
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    save_rest(folder, "StableDiffusionXLPipeline", {**second, "force_zeros_for_empty_prompt": True})


def unet(width: int, first_down: str, last_up: str, **more: object) -> UNet2DConditionModel:
    downs, ups = (first_down, "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", last_up)
    return UNet2DConditionModel(
        sample_size=64,
        down_block_types=downs,
        up_block_types=ups,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=2,  # SDXL is conditioned on the last but one
        num_attention_heads=width // 64,
        max_position_embeddings=TOKENS,
        bos_token_id=len(vocabulary()) - 2,
        eos_token_id=len(vocabulary()) - 1,
    )


def vocabulary() -> dict[str, int]:
    """Every byte, inside a word and at its end, and the two that frame a prompt."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(byte) for byte in plain] + [chr(0x100 + index) for index in range(0x100 - len(plain))]  # GPT-2's
    return {token: at for at, token in enumerate([*alphabet, *(each + "</w>" for each in alphabet), BEGIN, END])}


def save_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    CLIPTokenizer.from_pretrained(folder)  # one that cannot be read fails here and not in a test


def save_rest(folder: Path, pipeline: str, more: dict[str, object]) -> None:
    """Autoencoder, scheduler and the index that names the parts."""
    levels = 4
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=512,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **more,
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
