"""ComfyUI graphs that are shipped: SD1.5 and SDXL, from nothing, from a picture, and within a mask.

Pictures go through PreviewImage: the server keeps them among its temporary files, which it clears when it starts, and
not in the operator's output folder. The graph for SD1.5 draws on any checkpoint that brings its own text encoder;
SDXL's differs in telling the text encoder the size, which these models were trained with.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, Literal

from appliance.config.comfyui_workflow import InputName, Target, Workflow

Family = Literal["sd", "sdxl"]
Start = Literal["generate", "img2img", "inpaint", "repaint"]
Value = int | float | str

PICTURE = "picture"

# `xl` at the end of a word, as in sd_xl_base, juggernautXL_v9, animagineXLV31; and the families whose names say nothing.
_SDXL = re.compile(r"xl(?=v?[0-9]|[^a-z]|$)|pony|illustrious|noobai")
# Distilled models draw without guidance: any would spoil the picture and double the time.
_DISTILLED = re.compile(r"turbo|lightning|hyper|lcm")


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


_SIZED_TEXT = _node(
    "CLIPTextEncodeSDXL",
    clip=["loader", 1],
    text_g="",
    text_l="",
    width=0,
    height=0,
    crop_w=0,
    crop_h=0,
    target_width=0,
    target_height=0,
)
_LOADER = {"loader": _node("CheckpointLoaderSimple", ckpt_name="")}
_TEXT: Mapping[Family, Mapping[str, Any]] = {
    "sd": {
        "positive": _node("CLIPTextEncode", clip=["loader", 1], text=""),
        "negative": _node("CLIPTextEncode", clip=["loader", 1], text=""),
    },
    "sdxl": {"positive": _SIZED_TEXT, "negative": _SIZED_TEXT},
}
_IMAGE = {
    "image": _node("LoadImage", image=""),
    "scaled": _node("ImageScale", image=["image", 0], upscale_method="lanczos", width=0, height=0, crop="center"),
    "latent": _node("RepeatLatentBatch", samples=["encoded", 0], amount=1),
}
_MASK = {  # what is transparent becomes 1, which is to be painted: OpenAI's sense of a mask
    "mask": _node("LoadImageMask", image="", channel="alpha"),
    "mask_image": _node("MaskToImage", mask=["mask", 0]),
    "mask_scaled": _node(
        "ImageScale", image=["mask_image", 0], upscale_method="bilinear", width=0, height=0, crop="center"
    ),
    "mask_ready": _node("ImageToMask", image=["mask_scaled", 0], channel="red"),
}
_PLAIN_ENCODER = _node("VAEEncode", pixels=["scaled", 0], vae=["loader", 2])
_START: Mapping[Start, Mapping[str, Any]] = {
    "generate": {"latent": _node("EmptyLatentImage", width=0, height=0, batch_size=1)},
    "img2img": {**_IMAGE, "encoded": _PLAIN_ENCODER},
    "inpaint": {  # forgets what was there
        **_IMAGE,
        **_MASK,
        "encoded": _node(
            "VAEEncodeForInpaint", pixels=["scaled", 0], vae=["loader", 2], mask=["mask_ready", 0], grow_mask_by=6
        ),
    },
    "repaint": {  # starts from what was there
        **_IMAGE,
        **_MASK,
        "plain": _PLAIN_ENCODER,
        "encoded": _node("SetLatentNoiseMask", samples=["plain", 0], mask=["mask_ready", 0]),
    },
}
_DRAW = {
    "sampler": _node(
        "KSampler",
        model=["loader", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=0,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    ),
    "decoded": _node("VAEDecode", samples=["sampler", 0], vae=["loader", 2]),
    # Latents come in eights: what was asked for is cut out of a picture that is up to 7 pixels larger.
    "cropped": _node("ImageCrop", image=["decoded", 0], width=0, height=0, x=0, y=0),
    PICTURE: _node("PreviewImage", images=["cropped", 0]),
}
_UNTOUCHED_OUTSIDE = {  # an encoder and its decoder change every pixel a little
    "originals": _node("RepeatImageBatch", image=["scaled", 0], amount=1),
    "composed": _node(
        "ImageCompositeMasked",
        destination=["originals", 0],
        source=["decoded", 0],
        mask=["mask_ready", 0],
        x=0,
        y=0,
        resize_source=False,
    ),
    "cropped": _node("ImageCrop", image=["composed", 0], width=0, height=0, x=0, y=0),
}
# Where a value goes, in whichever graph has the node and the input.
_TARGETS: Mapping[InputName, tuple[str, ...]] = {
    "prompt": ("positive.text", "positive.text_g", "positive.text_l"),
    "negative": ("negative.text", "negative.text_g", "negative.text_l"),
    "seed": ("sampler.seed",),
    "width": ("cropped.width", *(f"{side}.{name}" for side in ("positive", "negative") for name in ("width", "target_width"))),
    "height": ("cropped.height", *(f"{side}.{name}" for side in ("positive", "negative") for name in ("height", "target_height"))),
    "latent_width": ("latent.width", "scaled.width", "mask_scaled.width"),
    "latent_height": ("latent.height", "scaled.height", "mask_scaled.height"),
    "steps": ("sampler.steps",),
    "cfg": ("sampler.cfg",),
    "sampler": ("sampler.sampler_name",),
    "scheduler": ("sampler.scheduler",),
    "model": ("loader.ckpt_name",),
    "batch": ("latent.batch_size", "latent.amount", "originals.amount"),
    "image": ("image.image",),
    "mask": ("mask.image",),
    "strength": ("sampler.denoise",),
}  # fmt: skip


def family_of(checkpoint: str) -> Family:
    """Guess from the file's name. A wrong guess `sd` still draws; the operator's workflow settles the rest."""
    return "sdxl" if _SDXL.search(checkpoint.lower()) else "sd"


def is_distilled(checkpoint: str) -> bool:
    return _DISTILLED.search(checkpoint.lower()) is not None


def shipped(family: Family, start: Start) -> Workflow:
    """The graph and where values go in it."""
    graph = {**_LOADER, **_TEXT[family], **_START[start], **_DRAW}
    if start in ("inpaint", "repaint"):
        graph |= _UNTOUCHED_OUTSIDE
    inputs = {name: tuple(_existing(graph, spelled)) for name, spelled in _TARGETS.items()}
    return Workflow(graph, {name: targets for name, targets in inputs.items() if targets}, output=PICTURE)


def _existing(graph: Mapping[str, Any], spelled: tuple[str, ...]) -> list[Target]:
    targets = [Target(*one.split(".")) for one in spelled]
    return [one for one in targets if one.node in graph and one.input in graph[one.node]["inputs"]]


def fill(workflow: Workflow, values: Mapping[InputName, Value]) -> dict[str, Any]:
    """A graph of its own with these values in it; a value that the workflow has no place for is left out."""
    graph: dict[str, Any] = {node: copy.deepcopy(content) for node, content in workflow.graph.items()}
    for name, value in values.items():
        for target in workflow.inputs.get(name, ()):
            graph[target.node]["inputs"][target.input] = value
    return graph
