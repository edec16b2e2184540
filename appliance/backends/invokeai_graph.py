"""InvokeAI's graph: nodes and edges from prompt to picture, and the batch that draws it once for each seed."""

from dataclasses import dataclass, field
from typing import Any

from appliance.backends.invokeai_memory import Model
from appliance.backends.invokeai_plan import Plan
from appliance.backends.invokeai_templates import TEMPLATES, Node

PICTURE = "picture"  # the node whose image is the result

# For nodes that make images: the server's cache would name the same one again, which we have deleted by then.
_UNCACHED = {"use_cache": False}


@dataclass(frozen=True, slots=True)
class Start:
    """What was uploaded to start from, by the names the server gave."""

    image: str
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class _Graph:
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, node: Node, **inputs: str) -> None:
        """`inputs`: a field of the node = the `node.output` that it comes from."""
        self.nodes[name] = {"id": name, "is_intermediate": True, **node}
        for target, origin in inputs.items():
            source, _, output = origin.partition(".")
            self.edges.append(
                {
                    "source": {"node_id": source, "field": output},
                    "destination": {"node_id": name, "field": target},
                }
            )


def make_batch(plan: Plan, model: Model, start: Start | None, destination: str) -> dict[str, Any]:
    """The body of enqueue_batch. `destination`: a name of our own, by which all of it can be cancelled."""
    seeds = {"node_path": "noise", "field_name": "seed", "items": list(plan.seeds)}
    graph = make_graph(plan, model, start)
    return {
        "batch": {"destination": destination, "graph": graph, "data": [[seeds]], "runs": 1},
        "prepend": False,
    }


def make_graph(plan: Plan, model: Model, start: Start | None) -> dict[str, Any]:
    """From nothing, or from `start`, to PICTURE. `plan` is settled on `model`."""
    template = TEMPLATES[model.base]
    graph = _Graph()
    graph.add("model", {"type": template.loader, "model": model.identifier()})
    clips = {clip: f"model.{clip}" for clip in template.clips}
    graph.add("positive", template.prompt(plan.prompt, plan.width, plan.height), **clips)
    graph.add("negative", template.prompt(plan.negative or "", plan.width, plan.height), **clips)
    graph.add("noise", {"type": "noise", "seed": plan.seeds[0], "width": plan.width, "height": plan.height})
    graph.add(
        "denoise",
        {
            "type": "denoise_latents",
            "steps": plan.steps,
            "cfg_scale": plan.cfg_scale,
            "scheduler": plan.scheduler,
            "denoising_start": 0.0 if start is None else round(1 - plan.strength, 6),
            "denoising_end": 1.0,
        },
        unet="model.unet",
        positive_conditioning="positive.conditioning",
        negative_conditioning="negative.conditioning",
        noise="noise.noise",
        **({} if start is None else _start(graph, plan, start)),
    )
    graph.add(PICTURE, {"type": "l2i", "fp32": True, **_UNCACHED}, latents="denoise.latents", vae="model.vae")
    return {"id": "appliance", "nodes": graph.nodes, "edges": graph.edges}


def _start(graph: _Graph, plan: Plan, start: Start) -> dict[str, str]:
    """The nodes before `denoise` for an edit, and what it takes from them."""
    size = {"type": "img_resize", "width": plan.width, "height": plan.height, **_UNCACHED}
    graph.add("resized", {**size, "image": {"image_name": start.image}})
    graph.add("encoded", {"type": "i2l", "fp32": True}, image="resized.image", vae="model.vae")
    if start.mask is None:
        return {"latents": "encoded.latents"}
    # OpenAI's mask is transparent where to paint; this server's is black there.
    graph.add("alpha", {"type": "tomask", "image": {"image_name": start.mask}, **_UNCACHED})
    graph.add("mask", size, image="alpha.image")
    graph.add(
        "paint",
        {"type": "create_denoise_mask", "fp32": True},
        image="resized.image",
        mask="mask.image",
        vae="model.vae",
    )
    return {"latents": "encoded.latents", "denoise_mask": "paint.denoise_mask"}
