"""A fake InvokeAI's queue items: what a batch becomes, what a request may not hold, what an item shows of itself."""

import base64
import io
import math
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from PIL import Image as Pillow

SCHEDULERS = ("ddim", "dpmpp_2m", "dpmpp_2m_k", "euler", "euler_k", "euler_a", "heun", "lcm")
NODES = frozenset(
    [
        "main_model_loader",
        "sdxl_model_loader",
        "compel",
        "sdxl_compel_prompt",
        "noise",
        "denoise_latents",
        "l2i",
        "i2l",
        "img_resize",
        "tomask",
        "create_denoise_mask",
        "blank_image",
    ]
)
TERMINAL = ("completed", "failed", "canceled")
MODELS = [("tiny-sd", "sd-1"), ("tiny-sdxl", "sdxl"), ("a-flux", "flux")]


def model_records() -> list[dict[str, Any]]:
    """By name, as the server orders them."""
    settings = {"vae": None, "scheduler": None, "steps": None, "cfg_scale": None, "width": 512, "height": 512}
    common = {"type": "main", "format": "diffusers", "variant": "normal", "path": "/srv/models", "description": None}
    return [
        {
            "key": f"key-of-{name}",
            "hash": "blake3:0",
            "name": name,
            "base": base,
            "default_settings": settings,
            **common,
        }
        for name, base in sorted(MODELS)
    ]


@dataclass
class Item:
    """One picture to draw. `images`: name -> the node that left it."""

    item_id: int
    batch_id: str
    destination: str | None
    graph: dict[str, Any]
    seed: int
    user: str
    field_values: list[dict[str, Any]]
    status: str = "pending"
    error_type: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, str] = field(default_factory=dict)
    begun: bool = False
    left: bool = False  # by the worker: only then is it stored what the nodes gave

    def node(self, kind: str) -> dict[str, Any]:
        return next((node for node in self.graph["nodes"].values() if node["type"] == kind), {})

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def steps(self) -> int:
        denoise = self.node("denoise_latents")
        return math.ceil(denoise.get("steps", 0) * (1 - denoise.get("denoising_start", 0)))

    def dto(self) -> dict[str, Any]:
        """The item as the server shows it; None is left out, as it does."""
        failed = {
            "error_type": self.error_type,
            "error_message": "[Errno 2] No such file: /srv/models/secret",
            "error_traceback": 'Traceback (most recent call last):\n  File "/srv/venv/x.py", line 1',
        }
        return {
            "item_id": self.item_id,
            "status": self.status,
            "priority": 0,
            "batch_id": self.batch_id,
            "session_id": "session",
            "queue_id": "default",
            "user_id": self.user,
            "created_at": "2026-01-01 00:00:00.000",
            "updated_at": "2026-01-01 00:00:00.000",
            **({"started_at": "2026-01-01 00:00:00.000"} if self.begun else {}),
            **({"field_values": self.field_values} if self.field_values else {}),
            **({} if self.destination is None else {"destination": self.destination}),
            **(failed if self.error_type else {}),
            "session": self._session(),
        }

    def _session(self) -> dict[str, Any]:
        results = {
            self.prepared[node]: {
                "type": "image_output",
                "image": {"image_name": name},
                "width": self.node("noise").get("width", 64),
                "height": self.node("noise").get("height", 64),
            }
            for name, node in self.images.items()
            if self.left
        }
        mapping = {node: [prepared] for node, prepared in self.prepared.items()}
        return {"id": "session", "graph": self.graph, "results": results, "source_prepared_mapping": mapping}


def make_items(batch: dict[str, Any], first_id: int, user: str) -> list[Item]:
    """Runs times data, each with the value of its datum put into the graph."""
    data = batch.get("data") or []
    batch_id = str(uuid4())
    items = []
    for value in (data[0][0]["items"] if data else [None]) * batch.get("runs", 1):
        put = (
            [] if value is None else [{key: data[0][0][key] for key in ("node_path", "field_name")} | {"value": value}]
        )
        given = batch["graph"]["nodes"].get("noise", {}).get("seed", 0)
        seed = put[0]["value"] if put and put[0]["field_name"] == "seed" else given
        number = first_id + len(items)
        items.append(Item(number, batch_id, batch.get("destination"), batch["graph"], seed, user, put))
    return items


def told(item: Item) -> dict[str, Any]:
    """What was asked for, in the words that every image backend's tests have for it."""
    denoise, noise = item.node("denoise_latents"), item.node("noise")
    prompts = {name: item.graph["nodes"].get(name, {}).get("prompt", "") for name in ("positive", "negative")}
    return {
        "prompt": prompts["positive"],
        "negative_prompt": prompts["negative"],
        **{name: denoise[name] for name in ("steps", "cfg_scale", "scheduler") if name in denoise},
        "seed": item.seed,
        **{side: noise[side] for side in ("width", "height") if side in noise},
    }


def refusal(batch: object) -> dict[str, Any] | None:
    """FastAPI's 422 for what is no batch, an unknown node (kilobytes of names), or a value out of its bounds."""
    if not isinstance(batch, dict) or "graph" not in batch:
        return _detail("missing", ["body", "batch"], "Field required", None)
    for name, node in batch["graph"]["nodes"].items():
        where = ["body", "batch", "graph", "nodes", name]
        if node["type"] not in NODES:
            names = ", ".join(f"'node_{index}'" for index in range(900))
            return _detail("union_tag_invalid", where, f"Input tag {node['type']!r} does not match: {names}", node)
        wrong = _wrong(node)
        if wrong is not None:
            return _detail(wrong[0], [*where, node["type"], wrong[1]], wrong[2], node[wrong[1]])
    for edge in batch["graph"]["edges"]:
        for end in ("source", "destination"):
            if edge[end]["node_id"] not in batch["graph"]["nodes"]:
                return _detail("value_error", ["body", "batch", "graph"], f"Edge {end} node does not exist", batch)
    return None


def _wrong(node: dict[str, Any]) -> tuple[str, str, str] | None:
    for side in ("width", "height"):
        if node["type"] == "noise" and node[side] % 8:
            return "multiple_of", side, "Input should be a multiple of 8"
    if node["type"] != "denoise_latents":
        return None
    if node["scheduler"] not in SCHEDULERS:
        return "literal_error", "scheduler", f"Input should be {', '.join(map(repr, SCHEDULERS))}"
    if node["cfg_scale"] < 1:
        return "value_error", "cfg_scale", "Value error, cfg_scale must be greater than 1"
    return None


def _detail(kind: str, where: list[str], message: str, given: object) -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": where, "msg": message, "input": given}]}


def preview(width: int, height: int, step: int) -> dict[str, Any]:
    """An eighth of the picture's sides, as a JPEG in a data URL."""
    file = io.BytesIO()
    Pillow.new("RGB", (max(1, width // 8), max(1, height // 8)), (step % 256, 0, 0)).save(file, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"width": width, "height": height, "dataURL": url}
