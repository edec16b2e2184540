"""Templates: what differs between the model families that a graph for InvokeAI is made for (its 6.14 nodes)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """`loader`: the node that loads a model; `clips`: its outputs that a prompt node takes; `prompt`: makes such a node."""

    loader: str
    clips: tuple[str, ...]
    prompt: Callable[[str, int, int], Node]


def _prompt(text: str, _width: int, _height: int) -> Node:
    return {"type": "compel", "prompt": text}


def _sdxl_prompt(text: str, width: int, height: int) -> Node:
    """SDXL is told how large the picture is, or it draws a part of a larger one."""
    sizes = {"original_width": width, "original_height": height, "target_width": width, "target_height": height}
    return {"type": "sdxl_compel_prompt", "prompt": text, "style": "", **sizes}


# By the model's `base`.
TEMPLATES: Mapping[str, Template] = {
    "sd-1": Template("main_model_loader", ("clip",), _prompt),
    "sdxl": Template("sdxl_model_loader", ("clip", "clip2"), _sdxl_prompt),
}
