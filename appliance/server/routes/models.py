"""`GET /v1/models` and `/v1/models/{id}`: what a request may name as its model."""

from typing import Any

from appliance.components import Components
from appliance.config.alias import Alias
from appliance.dispatch.catalogue import CatalogueEntry
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer


def models_routes(components: Components) -> DirectRoutes:
    """Contract 3: all of them, and one of them; ids may hold `/` and `:`."""

    async def models(_request: Request) -> Answer:
        listed = await components.catalogue.list()
        answer: dict[str, Any] = {"object": "list", "data": [_shown(entry) for entry in listed.entries]}
        if listed.warnings:
            answer["warnings"] = list(listed.warnings)
        return json_answer(answer)

    async def model(request: Request) -> Answer:
        return json_answer(_shown(await components.catalogue.find(request.variable)))

    return {"/v1/models": {"GET": models}, "/v1/models/<path:model_id>": {"GET": model}}


def _shown(entry: CatalogueEntry) -> dict[str, Any]:
    shown = {"id": entry.id, "object": "model", "created": entry.created, "owned_by": entry.owned_by}
    return {**shown, **_alias_fields(entry.alias)} if entry.alias else shown


def _alias_fields(alias: Alias) -> dict[str, Any]:
    """Where it leads, and those of its limits that are set."""
    limits = {
        "context_window": alias.context_window,
        "tools": alias.tools,
        "max_tokens_cap": alias.max_tokens_cap,
        "temperature_cap": alias.temperature_cap,
    }
    set_limits = {name: value for name, value in limits.items() if value is not None}
    return {"backend": alias.backend_class, "upstream_model": alias.model, **set_limits}
