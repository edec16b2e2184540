"""Makes a checkpoint in the shape of SD1.5 with one small level of UNet, random weights and a fixed seed.

Runs in ComfyUI's environment, on ComfyUI's own classes: `checkpoint.py COMFYUI_FOLDER FILE`. 443 MB, 6 s.
"""

import json
import os
import sys
from pathlib import Path

program, target = (Path(argument).resolve() for argument in sys.argv[1:3])
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
from safetensors.torch import save_file  # noqa: E402

OPERATIONS = comfy.ops.disable_weight_init
SCALES = ("norm", "in_layers.0", "out_layers.0", ".out.0.")  # weights of normalisations: one leaves values alone


def unet():
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=(1,),
        transformer_depth=[1],
        transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        num_heads=8,
        context_dim=768,
        use_spatial_transformer=True,
        legacy=False,
        use_linear_in_transformer=False,
        operations=OPERATIONS,
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


def main():
    torch.manual_seed(0)
    parts = {
        "model.diffusion_model.": unet(),
        "first_stage_model.": autoencoder(),
        "cond_stage_model.transformer.": text_encoder(),
    }
    shapes = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    weights = {name: randomised(name, tensor) for name, tensor in shapes.items() if "text_projection" not in name}
    save_file(weights, str(target))


main()
