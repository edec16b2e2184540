"""ComfyUI's values: what a request asks for, in the words of a workflow's inputs.

| asked | input of the workflow |
|---|---|
| `prompt` | `prompt` |
| `n` | `batch`; refused above 1 where the workflow has none |
| `size` | `width`, `height`; `latent_width`, `latent_height`: the same, rounded up to eights |
| `steps`, `num_inference_steps` | `steps` |
| `guidance`, `guidance_scale`, `cfg_scale` | `cfg` |
| `negative_prompt`, `negative` | `negative` |
| `seed` | `seed`; one is chosen where none was asked for |
| `sampler`, `scheduler` | the same, in ComfyUI's names; A1111's common ones are translated |
| `model` | `model` |
| `image`, `mask` of an edit | `image`, `mask`: the names of the uploaded files |
| `strength` of an edit | `strength` |
| `style`, `quality`, `user` | nothing |
| any other field, and an option that the workflow has no input for | refused by name |
"""

import math
from collections.abc import Mapping

from appliance.backends.base import ImageCall
from appliance.backends.comfyui_graphs import Value
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen
from appliance.config.comfyui_workflow import InputName, Workflow
from appliance.protocol.errors import InvalidRequest

_EIGHT = 8
_SMALLEST_LATENT = 16  # ComfyUI's own bound
_SAMPLERS: Mapping[str, str] = {  # A1111's names, in lower case
    "euler": "euler",
    "euler a": "euler_ancestral",
    "lms": "lms",
    "heun": "heun",
    "dpm2": "dpm_2",
    "dpm2 a": "dpm_2_ancestral",
    "dpm++ 2s a": "dpmpp_2s_ancestral",
    "dpm++ 2m": "dpmpp_2m",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 3m sde": "dpmpp_3m_sde",
    "dpm fast": "dpm_fast",
    "dpm adaptive": "dpm_adaptive",
    "ddim": "ddim",
    "unipc": "uni_pc",
    "lcm": "lcm",
}
_SCHEDULERS: Mapping[str, str] = {"automatic": "normal", "uniform": "normal", "sgm uniform": "sgm_uniform"}
# The options of a request that a workflow may have no input for, and their first spelling.
_REFUSED_WITHOUT: Mapping[InputName, str] = {
    "negative": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg": "cfg_scale",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "model": "model",
    "mask": "mask",
    "strength": "strength",
}
OPTION_OF: Mapping[InputName, str] = {
    **_REFUSED_WITHOUT,
    "prompt": "prompt",
    "width": "size",
    "height": "size",
    "batch": "n",
    "image": "image",
}


def asked_values(call: ImageCall) -> dict[InputName, Value]:
    """What the client itself asked for, without the files of an edit. Raises InvalidRequest for contradictions."""
    options = call.options
    seed = options.seed if options.seed is not None and options.seed >= 0 else None
    asked: dict[InputName, Value | None] = {
        "prompt": call.prompt,
        "negative": chosen(options, NEGATIVE),
        "seed": seed,
        "width": call.width,
        "height": call.height,
        "latent_width": _in_eights(call.width),
        "latent_height": _in_eights(call.height),
        "steps": chosen(options, STEPS),
        "cfg": chosen(options, GUIDANCE),
        "sampler": _translated(options.sampler, _SAMPLERS),
        "scheduler": _translated(options.scheduler, _SCHEDULERS),
        "model": call.model,
        "batch": call.n,
        "strength": call.edit.strength if call.edit is not None else None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def check_places(workflow: Workflow, call: ImageCall, asked: Mapping[InputName, Value]) -> None:
    """Raises InvalidRequest for what was asked for and would be dropped in silence."""
    wanted = {*asked, "mask"} if call.edit is not None and call.edit.mask is not None else set(asked)
    for name, option in _REFUSED_WITHOUT.items():
        if name in wanted and name not in workflow.inputs:
            raise InvalidRequest(
                f"{option} cannot be honoured: the workflow behind this gateway has no input for it, leave it out.",
                param=option,
                code="unsupported_parameter",
            )
    if call.n != 1 and "batch" not in workflow.inputs:
        raise InvalidRequest(
            "n must be 1: the workflow behind this gateway draws one picture at a time.",
            param="n",
            code="invalid_value",
        )


def _translated(name: str | None, names: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    plain = name.strip().lower()
    return names.get(plain, plain.replace(" ", "_"))


def _in_eights(pixels: int) -> int:
    return max(math.ceil(pixels / _EIGHT) * _EIGHT, _SMALLEST_LATENT)
