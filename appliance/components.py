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
from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.config.loading import Configuration
from appliance.config.settings import Settings
from appliance.dispatch.catalogue import Catalogue
from appliance.dispatch.dispatch import Dispatcher
from appliance.dispatch.repeats import Repeats
from appliance.dispatch.routing import build_router
from appliance.protocol.ids import NewId, new_id
from appliance.storage.images import ImageStore, load_image_store
from appliance.storage.journal import RequestJournal
from appliance.storage.records import RecordLog
from appliance.storage.runs import RunStore
from appliance.storage.signing import UrlSigner, load_or_create_key
from appliance.storage.spool import Spool
from appliance.telemetry.log import Log
from appliance.telemetry.metrics import Metrics
from appliance.telemetry.readings import Readings
from appliance.toolbus.base import ToolEnvironment
from appliance.toolbus.bus import ToolBus
from appliance.toolbus.registry import build_tools
from appliance.upstream.client import UpstreamClient, open_upstream
from appliance.upstream.health import HealthBoard
from appliance.upstream.names import resolve

PICTURE_THREADS = 8  # hashing and writing; more would only queue inside the disk
FILE_THREADS = 8  # as many as tools run at a time, by default
UPLOAD_THREADS = 4  # their own: a slow disk must not keep finished pictures waiting
UPLOADS_MAX_BYTES = 1_000_000_000  # of all that come in at a time
JOURNAL_THREADS = 2  # its own: pictures on a hung disk must not starve it; the second is for one that was abandoned


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
    make_id: NewId = new_id,
    own_ports: frozenset[int] = frozenset(),
) -> AsyncIterator[Components]:
    """Open everything a serving process needs; services are not started. Closes what it opened.

    `routes`: the templates that metrics may name. `own_ports`: where this process listens. Raises OSError, ValueError where the state directory or a file that
    a setting names cannot be used.
    """
    settings = configuration.settings
    classes = configuration.backends.classes
    pictures = trio.CapacityLimiter(PICTURE_THREADS)
    leases = Leases(classes)
    health = HealthBoard(classes.values())
    grace = Grace()
    journal = _make_journal(settings, log)
    images = await load_image_store(
        settings.ui_image_dir,
        ttl_s=settings.ui_image_ttl_sec,
        max_item_bytes=settings.ui_image_max_bytes,
        max_total_bytes=settings.ui_image_store_max_bytes,
        limiter=pictures,
    )
    key = load_or_create_key(configuration.state_dir / "url_signing.key")
    run_records = _make_run_records(settings, log)
    runs = _make_run_store(settings, run_records, log)
    admission = RunAdmission(settings, configuration.backends)
    readings = Readings(
        slots=leases.statistics,
        store=images.statistics,
        journal=journal.statistics if journal else lambda: None,
        runs=admission.statistics,
        run_store=runs.statistics,
    )
    metrics = Metrics(version=__version__, routes=routes, readings=readings)
    router = build_router(settings, configuration.backends, configuration.aliases)
    https = any(one.base_url.startswith("https:") for one in classes.values())
    records = _make_tool_records(settings, log)
    async with open_upstream(settings, observe=metrics.note_upstream, https=https) as upstream:
        catalogue = _make_catalogue(configuration, upstream)
        tools = ToolEnvironment(
            settings=settings,
            files=trio.CapacityLimiter(FILE_THREADS),
            own_ports=own_ports,
            resolve=resolve,
            refresh_models=catalogue.refresh,
        )
        bus = ToolBus(
            build_tools(tools, configuration.tool_registry),
            settings,
            records,
            grace=grace,
            metrics=metrics,
            new_id=make_id,
        )
        dispatcher = Dispatcher(settings, configuration.backends, health, leases, upstream, grace, router)
        yield Components(
            configuration=configuration,
            settings=settings,
            health=health,
            leases=leases,
            grace=grace,
            dispatcher=dispatcher,
            catalogue=catalogue,
            images=images,
            repeats=Repeats(images, ttl_s=settings.ui_image_ttl_sec),
            spool=Spool(
                configuration.state_dir / "uploads",
                max_total_bytes=UPLOADS_MAX_BYTES,
                limiter=trio.CapacityLimiter(UPLOAD_THREADS),
            ),
            signer=UrlSigner(key, settings.ui_image_ttl_sec),
            journal=journal,
            tool_records=records,
            toolbus=bus,
            agents=Agents(
                specs=configuration.agents,
                settings=settings,
                dispatcher=dispatcher,
                bus=bus,
                store=runs,
                admission=admission,
                grace=grace,
                metrics=metrics,
                versions=_versions(configuration),
                new_id=make_id,
            ),
            agent_records=run_records,
            metrics=metrics,
            lifecycle=Lifecycle(),
            log=log,
            new_id=make_id,
            started_at=trio.current_time(),
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


def _make_journal(settings: Settings, log: Log) -> RequestJournal | None:
    if not settings.request_log_enabled:
        return None
    return RequestJournal(
        settings.request_log_path,
        max_bytes=settings.request_log_max_bytes,
        limiter=trio.CapacityLimiter(JOURNAL_THREADS),
        log=log,
    )


def _make_tool_records(settings: Settings, log: Log) -> RecordLog:
    return RecordLog(
        settings.tools_log_path,
        directory=settings.tools_log_dir,
        mode=settings.tools_log_mode,
        id_field="replay_id",
        max_bytes=settings.tools_log_max_bytes,
        total_max_bytes=settings.tools_log_total_max_bytes,
        log=log,
    )


def _make_run_records(settings: Settings, log: Log) -> RecordLog | None:
    if settings.agent_runs_log_mode == "per_run":
        return None
    return RecordLog(
        settings.agent_runs_log_path,
        directory=settings.agent_runs_log_dir,
        mode="ndjson",
        id_field="run_id",
        max_bytes=settings.tools_log_max_bytes,
        total_max_bytes=settings.agent_runs_total_max_bytes,
        log=log,
    )


def _make_run_store(settings: Settings, journal: RecordLog | None, log: Log) -> RunStore:
    return RunStore(
        settings.agent_runs_log_dir,
        total_max_bytes=settings.agent_runs_total_max_bytes,
        durable=settings.tools_durability == "strict",
        journal=journal,
        journal_path=settings.agent_runs_log_path if journal is not None else None,
        keep_files=settings.agent_runs_log_mode != "ndjson",
        files=trio.CapacityLimiter(FILE_THREADS),
        index_limiter=trio.CapacityLimiter(1),  # SQLite has one thread of its own
        log=log,
    )


def _versions(configuration: Configuration) -> dict[str, str]:
    registry = configuration.tool_registry
    return {"gateway": __version__, **({"tool_registry": registry.sha256} if registry is not None else {})}
