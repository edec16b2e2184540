"""Makes checkpoints in the shapes of SD1.5 and of SDXL, of narrow UNets, with random weights and a fixed seed.

Runs in ComfyUI's environment, on ComfyUI's own classes: `checkpoint.py COMFYUI_FOLDER FILE sd|sdxl`. 443 MB, 6 s; SDXL's
2.1 GB, of which its second text encoder, 1.4 GB of zeros, is a hole in the file: ComfyUI fixes that encoder's size.

ComfyUI knows SDXL (`comfy/supported_models.py`) by 320 channels, a context of 2048, 2816 numbers about sizes, and the
depths of transformers on the way in; how wide the lower levels are and what is on the way out it reads from the weights.
"""

import json
import math
import os
import sys
from pathlib import Path

program, target = (Path(argument).resolve() for argument in sys.argv[1:3])
family = sys.argv[3]
sys.argv = ["checkpoint", "--cpu"]  # ComfyUI reads the command line when it is imported
sys.path.insert(0, str(program))
os.chdir(program)

import comfy.options  # noqa: E402 # after the path is set

comfy.options.enable_args_parsing()

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

OPERATIONS = comfy.ops.disable_weight_init
SCALES = ("norm", "in_layers.0", "out_layers.0", ".out.0.")  # weights of normalisations: one leaves values alone


SHAPES = {
    "sd": {
        "num_res_blocks": [1],
        "channel_mult": (1,),
        "transformer_depth": [1],
        "transformer_depth_output": [1, 1],
        "num_heads": 8,
        "context_dim": 768,
        "use_linear_in_transformer": False,
    },
    "sdxl": {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": (1, 1, 1),
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0] * 9,
        "num_head_channels": 64,
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}


def unet():
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        legacy=False,
        operations=OPERATIONS,
        **SHAPES[family],
    )


def autoencoder():
    sizes = {"z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4]}
    depth = {"double_z": True, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    return AutoencoderKL(embed_dim=4, ddconfig={**sizes, **depth})


def text_encoder():
    config = json.loads((program / "comfy" / "sd1_clip_config.json").read_text(encoding="utf-8"))
    return comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", OPERATIONS)


def randomised(name, tensor):
    """Values small enough that 20 layers of them stay finite."""
    if not tensor.is_floating_point():
        return tensor.clone()
    if tensor.ndim == 1 and name.endswith("weight") and any(part in name for part in SCALES):
        values = torch.ones(tensor.shape)
    elif name.endswith("bias"):
        values = torch.zeros(tensor.shape)
    else:
        values = torch.randn(tensor.shape) * 0.02
    return values.to(torch.float16).contiguous()


def second_text_encoder():
    """OpenCLIP's bigG under the names that a checkpoint has for it: the shapes alone."""
    config = json.loads((program / "comfy" / "clip_config_bigg.json").read_text(encoding="utf-8"))
    wide, inner = config["hidden_size"], config["intermediate_size"]
    layer = {
        "ln_1.weight": (wide,),
        "ln_1.bias": (wide,),
        "attn.in_proj_weight": (3 * wide, wide),
        "attn.in_proj_bias": (3 * wide,),
        "attn.out_proj.weight": (wide, wide),
        "attn.out_proj.bias": (wide,),
        "ln_2.weight": (wide,),
        "ln_2.bias": (wide,),
        "mlp.c_fc.weight": (inner, wide),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (wide, inner),
        "mlp.c_proj.bias": (wide,),
    }
    shapes = {
        "token_embedding.weight": (config["vocab_size"], wide),
        "positional_embedding": (config["max_position_embeddings"], wide),
        "ln_final.weight": (wide,),
        "ln_final.bias": (wide,),
        "text_projection": (wide, wide),
    }
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"transformer.resblocks.{number}.{name}": shape for name, shape in layer.items()}
    return {f"conditioner.embedders.1.model.{name}": shape for name, shape in shapes.items()}


def save(weights, holes):
    """A safetensors file: a length, JSON, and the bytes of each tensor. What is a hole is never written, and reads as zeros."""
    head, at = {}, 0
    for name, shape in [*((name, tensor.shape) for name, tensor in weights.items()), *holes.items()]:
        end = at + 2 * math.prod(shape)
        head[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    encoded = json.dumps(head).encode()
    encoded += b" " * (-len(encoded) % 8)
    with target.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in weights.values():
            file.write(tensor.numpy().tobytes())
        file.truncate(8 + len(encoded) + at)


def main():
    torch.manual_seed(0)
    first = {"sd": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}[family]
    parts = {"model.diffusion_model.": unet(), "first_stage_model.": autoencoder(), first: text_encoder()}
    shapes = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    used = {name: tensor for name, tensor in shapes.items() if "text_projection" not in name}
    weights = {name: randomised(name, tensor).to(torch.float16) for name, tensor in used.items()}
    save(weights, second_text_encoder() if family == "sdxl" else {})


main()
