"""The nodes that the fake ComfyUI knows: their inputs as /object_info tells them, and what it says of a bad graph."""

from collections.abc import Collection
from typing import Any

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m"]
SCHEDULERS = ["simple", "karras", "normal"]


def _class(required: list[str], optional: list[str] | None = None) -> dict[str, Any]:
    inputs: dict[str, Any] = {"required": {name: ["ANY", {}] for name in required}}
    return inputs if optional is None else {**inputs, "optional": {name: ["ANY", {}] for name in optional}}


_SIZED_TEXT = ["clip", "width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"]
CLASSES: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": _class(["ckpt_name"]),
    "CLIPTextEncode": _class(["text", "clip"]),
    "CLIPTextEncodeSDXL": _class(_SIZED_TEXT),
    "EmptyLatentImage": _class(["width", "height", "batch_size"]),
    "EmptyImage": _class(["width", "height", "batch_size", "color"]),
    "KSampler": _class(
        [
            "model",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "positive",
            "negative",
            "latent_image",
            "denoise",
        ]
    ),
    "VAEDecode": _class(["samples", "vae"]),
    "VAEEncode": _class(["pixels", "vae"]),
    "VAEEncodeForInpaint": _class(["pixels", "vae", "mask", "grow_mask_by"]),
    "SetLatentNoiseMask": _class(["samples", "mask"]),
    "RepeatLatentBatch": _class(["samples", "amount"]),
    "RepeatImageBatch": _class(["image", "amount"]),
    "LoadImage": _class(["image"]),
    "LoadImageMask": _class(["image", "channel"]),
    "MaskToImage": _class(["mask"]),
    "ImageToMask": _class(["image", "channel"]),
    "ImageScale": _class(["image", "upscale_method", "width", "height", "crop"]),
    "ImageCrop": _class(["image", "width", "height", "x", "y"]),
    "ImageCompositeMasked": _class(["destination", "source", "x", "y", "resize_source"], ["mask"]),
    "PreviewImage": _class(["images"]),
    "SaveImage": _class(["images", "filename_prefix"]),
}
_OUTPUTS = frozenset({"PreviewImage", "SaveImage"})

Refusal = tuple[dict[str, Any] | None, dict[str, Any]]


def validate(graph: dict[str, Any], checkpoints: Collection[str], uploads: Collection[str]) -> Refusal:
    """The error of a 400, and `node_errors`, which a 200 may carry too. As validate_prompt: by output, upstream."""
    for node, content in graph.items():
        if content["class_type"] not in CLASSES:
            message = f"Cannot execute because node {content['class_type']} does not exist."
            return _error("invalid_prompt", message, f"Node ID '#{node}'"), {}
    ends = [node for node, content in graph.items() if content["class_type"] in _OUTPUTS]
    if not ends:
        return _error("prompt_no_outputs", "Prompt has no outputs", ""), {}
    lists = {"ckpt_name": checkpoints, "sampler_name": SAMPLERS, "scheduler": SCHEDULERS}
    node_errors: dict[str, Any] = {}
    good = 0
    for end in ends:
        bad = {node: _node_error(graph[node], lists, uploads) for node in _above(graph, end)}
        found = {node: error for node, error in bad.items() if error is not None}
        for node, error in found.items():
            kind = graph[node]["class_type"]
            node_errors[node] = {"errors": [error], "dependent_outputs": [end], "class_type": kind}
        good += not found
    if good:
        return None, node_errors
    return _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", ""), node_errors


def _above(graph: dict[str, Any], node: str) -> list[str]:
    found = [node]
    for one in found:
        links = [value[0] for value in graph[one]["inputs"].values() if isinstance(value, list)]
        found += [link for link in links if link in graph and link not in found]
    return found


def _node_error(
    content: dict[str, Any], lists: dict[str, Collection[str]], uploads: Collection[str]
) -> dict[str, Any] | None:
    inputs = content["inputs"]
    for name in CLASSES[content["class_type"]]["required"]:
        if name not in inputs:
            return _trouble("required_input_missing", "Required input is missing", name, name)
        value = inputs[name]
        if name in lists and value not in lists[name]:
            details = f"{name}: '{value}' not in {list(lists[name])}"
            return _trouble("value_not_in_list", "Value not in list", details, name)
        if content["class_type"].startswith("LoadImage") and name == "image" and value not in uploads:
            details = f"image - Invalid image file: {value}"
            return _trouble("custom_validation_failed", "Custom validation failed for node", details, name)
    return None


def _error(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _trouble(kind: str, message: str, details: str, name: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {"input_name": name}}


def size_of(graph: dict[str, Any]) -> tuple[int, int]:
    """Of the pictures that a graph makes: what is cut out last, else what was begun with."""
    for kind in ("ImageCrop", "EmptyImage", "EmptyLatentImage"):
        for content in graph.values():
            if content["class_type"] == kind:
                return content["inputs"]["width"], content["inputs"]["height"]
    return 64, 64


def number_of(graph: dict[str, Any]) -> int:
    for content in graph.values():
        for name in ("batch_size", "amount"):
            if name in content["inputs"]:
                number: int = content["inputs"][name]
                return number
    return 1
