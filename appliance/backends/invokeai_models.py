"""InvokeAI's models: which one draws."""

from collections.abc import Sequence
from typing import Any

import trio

from appliance.backends.base import ImageCall
from appliance.backends.invokeai_api import Api, Ask
from appliance.backends.invokeai_memory import Model
from appliance.backends.invokeai_templates import TEMPLATES
from appliance.protocol.errors import InvalidRequest, UpstreamFailed
from appliance.upstream.failures import redact

_FRESH_S = 10.0  # a model is installed more rarely than this, and one that is missed is asked for again
_MAX_TOLD = 8  # names in a refusal

_BASES = " and ".join(TEMPLATES)


async def choose_model(call: ImageCall, api: Api) -> Model:
    """The one that the call names, by name or key, else the first that can be drawn with.

    Raises UpstreamFailed (404 for a name the server does not have), UpstreamTimeout, InvalidRequest for a model of a
    family that no template fits.
    """
    memory = api.memory
    fresh = trio.current_time() < memory.models_until
    found = pick(memory.models, call.model) if fresh else None
    if found is None:
        memory.models = parse_models(await api.ask_object(Ask("GET", "/api/v2/models/?model_type=main")), call)
        memory.models_until = trio.current_time() + _FRESH_S
        found = pick(memory.models, call.model)
    if found is None:
        raise _not_there(call, memory.models)
    if found.base not in TEMPLATES:
        raise InvalidRequest(
            f"model {call.model} is of the family {found.base}, and pictures are drawn here with {_BASES} alone.",
            param="model",
            code="capability_not_supported",
        )
    return found


def pick(models: Sequence[Model], wanted: str | None) -> Model | None:
    """By key before name: a name may be given twice. None wanted: no inpainting model, if there is another."""
    if wanted is not None:
        return next((model for field in ("key", "name") for model in models if getattr(model, field) == wanted), None)
    able = [model for model in models if model.base in TEMPLATES]
    return next((model for model in able if model.variant == "normal"), able[0] if able else None)


def parse_models(said: dict[str, Any], call: ImageCall) -> tuple[Model, ...]:
    """Every entry that is one. Raises UpstreamFailed where there is no list."""
    entries = said.get("models")
    if not isinstance(entries, list):
        name = call.backend_class.name
        raise UpstreamFailed(f"{name} answered without a list of models: is it InvokeAI?", upstream=name)
    return tuple(_model(entry) for entry in entries if isinstance(entry, dict) and _is_model(entry))


def _is_model(entry: dict[str, Any]) -> bool:
    return all(isinstance(entry.get(field), str) for field in ("key", "hash", "name", "base"))


def _model(entry: dict[str, Any]) -> Model:
    given = entry.get("default_settings")
    settings = given if isinstance(given, dict) else {}
    steps, cfg_scale, scheduler = settings.get("steps"), settings.get("cfg_scale"), settings.get("scheduler")
    return Model(
        key=entry["key"],
        hash=entry["hash"],
        name=entry["name"],
        base=entry["base"],
        variant=str(entry.get("variant") or "normal"),
        steps=steps if isinstance(steps, int) and steps > 0 else None,
        cfg_scale=float(cfg_scale) if isinstance(cfg_scale, int | float) and cfg_scale >= 1 else None,
        scheduler=scheduler if isinstance(scheduler, str) else None,
    )


def _not_there(call: ImageCall, models: Sequence[Model]) -> UpstreamFailed:
    name = call.backend_class.name
    able = [model.name for model in models if model.base in TEMPLATES]
    if call.model is None:
        return UpstreamFailed(f"{name} has no model that can be drawn with: install one of {_BASES}.", upstream=name)
    told = ", ".join(redact(one) for one in able[:_MAX_TOLD]) or "none"
    return UpstreamFailed(
        f"{name} has no model {call.model}: it has {told}.",
        upstream=name,
        status=404,
        code="model_not_found",
        param="model",
    )
