"""Stores: everything that is kept on the disk, opened from one configuration. Their services are started by others."""

from dataclasses import dataclass

import trio

from appliance.config.loading import Configuration
from appliance.config.settings import Settings
from appliance.storage.images import ImageStore, load_image_store
from appliance.storage.journal import RequestJournal
from appliance.storage.records import RecordLog
from appliance.storage.runs import RunStore
from appliance.storage.signing import UrlSigner, load_or_create_key
from appliance.storage.spool import Spool
from appliance.telemetry.log import Log

PICTURE_THREADS = 8  # hashing and writing; more would only queue inside the disk
RUN_THREADS = 8  # as many as runs of agents write at a time on a busy box
UPLOAD_THREADS = 4  # their own: a slow disk must not keep finished pictures waiting
UPLOADS_MAX_BYTES = 1_000_000_000  # of all that come in at a time
JOURNAL_THREADS = 2  # its own: pictures on a hung disk must not starve it; the second is for one that was abandoned


@dataclass(frozen=True, slots=True)
class Stores:
    """One of each. `journal` None: REQUEST_LOG_ENABLED is off; `run_records` None: AGENT_RUNS_LOG_MODE is per_run."""

    journal: RequestJournal | None
    images: ImageStore
    signer: UrlSigner
    spool: Spool
    tool_records: RecordLog
    run_records: RecordLog | None
    runs: RunStore


async def open_stores(configuration: Configuration, log: Log) -> Stores:
    """Raises OSError, ValueError where the state directory or a file that a setting names cannot be used."""
    settings = configuration.settings
    images = await load_image_store(
        settings.ui_image_dir,
        ttl_s=settings.ui_image_ttl_sec,
        max_item_bytes=settings.ui_image_max_bytes,
        max_total_bytes=settings.ui_image_store_max_bytes,
        limiter=trio.CapacityLimiter(PICTURE_THREADS),
    )
    key = load_or_create_key(configuration.state_dir / "url_signing.key")
    run_records = _make_run_records(settings, log)
    return Stores(
        journal=_make_journal(settings, log),
        images=images,
        signer=UrlSigner(key, settings.ui_image_ttl_sec),
        spool=Spool(
            configuration.state_dir / "uploads",
            max_total_bytes=UPLOADS_MAX_BYTES,
            limiter=trio.CapacityLimiter(UPLOAD_THREADS),
        ),
        tool_records=_make_tool_records(settings, log),
        run_records=run_records,
        runs=_make_run_store(settings, run_records, log),
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
        files=trio.CapacityLimiter(RUN_THREADS),
        index_limiter=trio.CapacityLimiter(1),  # SQLite has one thread of its own
        log=log,
    )
