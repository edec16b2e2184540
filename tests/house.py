"""A whole house in memory: components, both applications, and a client that needs no socket."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.components import Components, open_components
from appliance.config.loading import load_configuration
from appliance.server.routes import METRIC_PATHS
from appliance.server.site import Site, build_site
from appliance.telemetry.log import Log
from tests.asgi import Response, call

TOKEN = "a-token-for-tests-0123456789"
AUTH = {"authorization": f"Bearer {TOKEN}"}
GENERATIONS = "/v1/images/generations"


@dataclass(frozen=True, slots=True)
class House:
    """What a test holds of a running gateway."""

    components: Components
    site: Site
    logged: list[dict[str, object]] = field(default_factory=list)

    async def ask(self, method: str, path: str, *, headers: Mapping[str, str] = AUTH, body: bytes = b"") -> Response:
        return await call(self.site.api, method, path, headers=headers, body=body)

    async def observe(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Response:
        return await call(self.site.observability, method, path, headers=headers or {}, body=b"")

    async def draw(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        body = json.dumps({"prompt": "a cat", "size": "64x48", **fields}).encode()
        return await self.ask(
            "POST", GENERATIONS, headers={**AUTH, "content-type": "application/json", **(headers or {})}, body=body
        )

    async def post(self, path: str, fields: Any, *, headers: Mapping[str, str] = AUTH) -> Response:
        body = json.dumps(fields).encode()
        return await self.ask("POST", path, headers={**headers, "content-type": "application/json"}, body=body)

    def inflight(self) -> int:
        return sum(slot.inflight for slot in self.components.leases.statistics())

    def journal_depth(self) -> int:
        assert self.components.journal is not None
        return self.components.journal.statistics().queued


@asynccontextmanager
async def open_house_with_records(tmp_path: Path, **settings: str) -> AsyncIterator[House]:
    """The same with the writers of records running, in threads: not for tests whose clock jumps."""
    async with open_house(tmp_path, **settings) as house, trio.open_nursery() as nursery:
        components = house.components
        journals = [one for one in (components.tool_records, components.agent_records) if one is not None]
        for journal in journals:
            await nursery.start(journal.run)
        async with components.agents.store.opened():
            yield house
        for journal in journals:
            journal.close_nowait()


@asynccontextmanager
async def open_house(tmp_path: Path, **settings: str) -> AsyncIterator[House]:
    """Open a gateway configured by these environment variables; no service runs, nothing listens."""
    environ = {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "GATEWAY_BEARER_TOKEN": TOKEN,
        **settings,
    }
    configuration = load_configuration(environ, etc=tmp_path / "etc")
    logged: list[dict[str, object]] = []
    async with open_components(configuration, routes=METRIC_PATHS, log=_log_into(logged)) as components:
        yield House(components, build_site(components, configuration.tokens), logged)


def _log_into(logged: list[dict[str, object]]) -> Log:
    def log(event: str, **fields: object) -> None:
        logged.append({"event": event, **fields})

    return log
