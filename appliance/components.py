"""Components: the composition root. Everything that lives as long as the process, made in one place, in order."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from appliance import __version__
from appliance.admission.grace import Grace
from appliance.admission.leases import Leases
from appliance.agents.admission import RunAdmission
from appliance.agents.agents import Agents
from appliance.backends.registry import LANGUAGE_BACKENDS, WEBSOCKET_PROVIDERS
from appliance.config.loading import Configuration
from appliance.config.settings import Settings
from appliance.dispatch.catalogue import Catalogue
from appliance.dispatch.dispatch import Dispatcher
from appliance.dispatch.repeats import Repeats
from appliance.dispatch.routing import build_router
from appliance.host.heap import Heap, find_allocator
from appliance.protocol.ids import IdMaker, NewId
from appliance.storage.images import ImageStore
from appliance.storage.journal import RequestJournal
from appliance.storage.records import RecordLog
from appliance.storage.signing import UrlSigner
from appliance.storage.spool import Spool
from appliance.storage.stores import Stores, open_stores
from appliance.telemetry.log import Log
from appliance.telemetry.metrics import Metrics
from appliance.telemetry.readings import Readings
from appliance.toolbus.base import ToolEnvironment
from appliance.toolbus.bus import ToolBus
from appliance.toolbus.registry import build_tools
from appliance.upstream.client import UpstreamClient, open_upstream
from appliance.upstream.health import HealthBoard
from appliance.upstream.names import resolve

FILE_THREADS = 8  # as many as tools run at a time, by default


@dataclass(slots=True)
class Lifecycle:
    """Where the process stands. `draining`: told to stop, finishing what runs."""

    draining: bool = False
    stop: trio.Event = field(default_factory=trio.Event)

    def begin_draining(self) -> None:
        self.draining = True
        self.stop.set()


@dataclass(frozen=True, slots=True)
class Components:
    """What routes and services are given. Frozen: what changes while running changes inside its owner.

    `started_at` is trio's clock, in seconds. `journal` None: REQUEST_LOG_ENABLED is off.
    """

    configuration: Configuration
    settings: Settings
    health: HealthBoard
    leases: Leases
    grace: Grace
    dispatcher: Dispatcher
    catalogue: Catalogue
    images: ImageStore
    repeats: Repeats
    spool: Spool
    signer: UrlSigner
    heap: Heap
    journal: RequestJournal | None
    tool_records: RecordLog
    toolbus: ToolBus
    agents: Agents
    agent_records: RecordLog | None
    metrics: Metrics
    lifecycle: Lifecycle
    log: Log
    new_id: NewId
    started_at: float

    def warnings(self) -> list[str]:
        """What does not work as it should while the rest goes on; `/readyz` shows it."""
        found = []
        if self.journal is not None and self.journal.statistics().failing:
            found.append("the request journal cannot be written")
        if self.images.statistics().failing:
            found.append("the picture store cannot be written")
        if self.tool_records.statistics().failing:
            found.append("the journal of tool runs cannot be written: tools are refused")
        if self.agents.store.statistics().failing:
            found.append("agents' runs cannot be stored: they are refused")
        return found


@asynccontextmanager
async def open_components(
    configuration: Configuration,
    *,
    routes: frozenset[str],
    log: Log,
    own_ports: frozenset[int] = frozenset(),
) -> AsyncIterator[Components]:
    """Open everything a serving process needs; services are not started. Closes what it opened.

    `routes`: the templates that metrics may name. `own_ports`: where this process listens. Raises OSError, ValueError
    where the state directory or a file that a setting names cannot be used.
    """
    settings = configuration.settings
    classes = configuration.backends.classes
    stores = await open_stores(configuration, log)
    leases = Leases(classes)
    health = HealthBoard(classes.values())
    grace = Grace()
    admission = RunAdmission(settings, configuration.backends)
    metrics = Metrics(version=__version__, routes=routes, readings=_readings(stores, leases, admission))
    router = build_router(settings, configuration.backends, configuration.aliases)
    make_id = IdMaker()
    https = any(one.base_url.startswith("https:") for one in classes.values())
    websockets = any(one.provider in WEBSOCKET_PROVIDERS for one in classes.values())
    async with open_upstream(settings, observe=metrics.note_upstream, https=https, websockets=websockets) as upstream:
        catalogue = _make_catalogue(configuration, upstream)
        dispatcher = Dispatcher(settings, configuration.backends, health, leases, upstream, grace, router)
        tools = ToolEnvironment(
            settings=settings,
            files=trio.CapacityLimiter(FILE_THREADS),
            own_ports=own_ports,
            resolve=resolve,
            refresh_models=catalogue.refresh,
        )
        built = build_tools(tools, configuration.tool_registry)
        bus = ToolBus(built, settings, stores.tool_records, grace=grace, metrics=metrics, new_id=make_id)
        yield Components(
            configuration=configuration,
            settings=settings,
            health=health,
            leases=leases,
            grace=grace,
            dispatcher=dispatcher,
            catalogue=catalogue,
            images=stores.images,
            repeats=Repeats(stores.images, ttl_s=settings.ui_image_ttl_sec),
            spool=stores.spool,
            signer=stores.signer,
            heap=Heap(find_allocator()),
            journal=stores.journal,
            tool_records=stores.tool_records,
            toolbus=bus,
            agents=_make_agents(configuration, stores, dispatcher, bus, admission, metrics, make_id),
            agent_records=stores.run_records,
            metrics=metrics,
            lifecycle=Lifecycle(),
            log=log,
            new_id=make_id,
            started_at=trio.current_time(),
        )


def _readings(stores: Stores, leases: Leases, admission: RunAdmission) -> Readings:
    journal = stores.journal
    return Readings(
        slots=leases.statistics,
        store=stores.images.statistics,
        journal=journal.statistics if journal is not None else lambda: None,
        runs=admission.statistics,
        run_store=stores.runs.statistics,
    )


def _make_agents(
    configuration: Configuration,
    stores: Stores,
    dispatcher: Dispatcher,
    bus: ToolBus,
    admission: RunAdmission,
    metrics: Metrics,
    make_id: NewId,
) -> Agents:
    return Agents(
        specs=configuration.agents,
        settings=configuration.settings,
        dispatcher=dispatcher,
        bus=bus,
        store=stores.runs,
        admission=admission,
        grace=dispatcher.grace,
        metrics=metrics,
        versions=_versions(configuration),
        new_id=make_id,
    )


def _make_catalogue(configuration: Configuration, upstream: UpstreamClient) -> Catalogue:
    return Catalogue(
        configuration.backends,
        configuration.aliases,
        LANGUAGE_BACKENDS,
        upstream,
        configuration.settings,
        created=int(time.time()),
    )


def _versions(configuration: Configuration) -> dict[str, str]:
    registry = configuration.tool_registry
    return {"gateway": __version__, **({"tool_registry": registry.sha256} if registry is not None else {})}
