"""The plan of a picture for InvokeAI: every option settled, before anything is sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.backends.base import ImageCall
from appliance.backends.invokeai_memory import Model
from appliance.backends.invokeai_names import DEFAULT, scheduler_of
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen, refuse_unknown
from appliance.protocol.errors import InvalidRequest

SEEDS = 2**32  # InvokeAI takes seeds modulo this
GRID_PIXELS = 8  # a latent pixel

_NO_GUIDANCE = 1.0  # the least that InvokeAI takes, and what 0 means elsewhere
_USUAL_GUIDANCE = 7.5
_USUAL_STRENGTH = 0.75  # InvokeAI's own


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be drawn. `seeds`: one a picture. None: left to the model's own settings, or ours."""

    prompt: str
    negative: str | None
    width: int
    height: int
    seeds: tuple[int, ...]
    steps: int | None
    default_steps: int
    cfg_scale: float | None
    scheduler: str | None
    strength: float

    def on(self, model: Model) -> "Plan":
        """The same with nothing left open."""
        return replace(
            self,
            steps=self.steps or model.steps or self.default_steps,
            cfg_scale=self.cfg_scale or model.cfg_scale or _USUAL_GUIDANCE,
            scheduler=self.scheduler or model.scheduler or DEFAULT,
        )

    def told(self, model: Model) -> Mapping[str, Any]:
        """What a client may see of it."""
        negative = {} if self.negative is None else {"negative_prompt": self.negative}
        return {
            "model": model.name,
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "cfg_scale": self.cfg_scale,
            "scheduler": self.scheduler,
            "seed": self.seeds[0],
            **negative,
        }


def make_plan(call: ImageCall, new_seed: Callable[[], int]) -> Plan:
    """Settle what the request says. Raises InvalidRequest naming the field that cannot be honoured."""
    refuse_unknown(call.extra)
    _check_size(call)
    guidance = chosen(call.options, GUIDANCE)
    strength = call.edit.strength if call.edit is not None else None
    return Plan(
        prompt=call.prompt,
        negative=chosen(call.options, NEGATIVE),
        width=call.width,
        height=call.height,
        seeds=_seeds(call, new_seed),
        steps=chosen(call.options, STEPS),
        default_steps=call.default_steps,
        cfg_scale=None if guidance is None else max(float(guidance), _NO_GUIDANCE),
        scheduler=scheduler_of(call.options.sampler, call.options.scheduler),
        strength=_USUAL_STRENGTH if strength is None else strength,
    )


def _check_size(call: ImageCall) -> None:
    if call.width % GRID_PIXELS == call.height % GRID_PIXELS == 0:
        return
    width, height = (-(-side // GRID_PIXELS) * GRID_PIXELS for side in (call.width, call.height))
    raise InvalidRequest(
        f"size {call.width}x{call.height}: this image server draws multiples of {GRID_PIXELS} pixels, "
        f"such as {width}x{height}.",
        param="size",
        code="invalid_value",
    )


def _seeds(call: ImageCall, new_seed: Callable[[], int]) -> tuple[int, ...]:
    asked = call.options.seed
    first = new_seed() if asked is None or asked < 0 else asked
    return tuple((first + index) % SEEDS for index in range(call.n))
