"""Looking: one question to many addresses at a time, and what each of them answered."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from appliance.backends.probing import Finding
from appliance.config.classes import BackendClass
from appliance.config.settings import Settings
from appliance.protocol.errors import GatewayError
from appliance.upstream.client import UpstreamClient, open_upstream


@dataclass(frozen=True, slots=True)
class Looked:
    """One address, and what was found there: a finding, or an error, or neither for a server nobody knows."""

    one: BackendClass
    finding: Finding | None = None
    error: str | None = None


Question = Callable[[BackendClass, UpstreamClient], Awaitable[Finding | None]]


async def look_at_all(settings: Settings, classes: Sequence[BackendClass], question: Question) -> list[Looked]:
    """Ask all of them at a time; in the order they were given. The question has a deadline of its own."""
    found: dict[str, Looked] = {}

    async def look(one: BackendClass, upstream: UpstreamClient) -> None:
        try:
            found[one.name] = Looked(one, await question(one, upstream))
        except GatewayError as error:
            found[one.name] = Looked(one, error=error.message)

    async with open_upstream(settings) as upstream, trio.open_nursery() as nursery:
        for one in classes:
            nursery.start_soon(look, one, upstream)
    return [found[one.name] for one in classes]
