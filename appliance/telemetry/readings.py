"""Readings: values that live elsewhere, taken when somebody scrapes."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.telemetry.families import Metric, Sample, counter, gauge


class SlotReading(Protocol):
    """Slots of one class and capability."""

    @property
    def backend_class(self) -> str: ...
    @property
    def capability(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def inflight(self) -> int: ...


class StoreReading(Protocol):
    """The image store: what it holds, and what happened since the start."""

    @property
    def items(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def corrupt(self) -> int: ...
    @property
    def failing(self) -> bool: ...


class JournalReading(Protocol):
    """The request journal: lines since the start, and whether the disk takes them."""

    @property
    def written(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def failing(self) -> bool: ...


class RunReading(Protocol):
    """Runs of agents on one class."""

    @property
    def backend_class(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class RunStoreReading(Protocol):
    """The store of agents' runs: what happened since the start, and whether the disk takes them."""

    @property
    def interrupted(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def failing(self) -> bool: ...


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Readings:
    """Where to look. A part that is switched off answers None, and has no series then."""

    slots: Callable[[], Iterable[SlotReading]] = tuple
    store: Callable[[], StoreReading | None] = _nothing
    journal: Callable[[], JournalReading | None] = _nothing
    runs: Callable[[], Iterable[RunReading]] = tuple
    run_store: Callable[[], RunStoreReading | None] = _nothing


def take_readings(version: str, readings: Readings) -> Iterable[Metric]:
    """The readings as they are now."""
    yield from _slot_families(readings.slots())
    store = readings.store()
    if store is not None:
        yield from _store_families(store)
    journal = readings.journal()
    if journal is not None:
        yield from _journal_families(journal)
    yield from _run_families(readings.runs())
    run_store = readings.run_store()
    if run_store is not None:
        yield from _run_store_families(run_store)
    yield from _process_families()
    build = [Sample([("version", version)], 1)]
    yield Metric("gauge", "gateway_build_info", "Always 1; the version is in the label.", build)


def _slot_families(slots: Iterable[SlotReading]) -> Iterable[Metric]:
    held: list[Sample] = []
    there: list[Sample] = []
    for slot in slots:
        where = (("backend_class", slot.backend_class), ("capability", slot.capability))
        held.append(Sample(where, slot.inflight))
        there.append(Sample(where, slot.limit))
    yield Metric("gauge", "gateway_inflight", "Slots held now.", held)
    yield Metric("gauge", "gateway_slot_limit", "Slots there are.", there)


def _store_families(store: StoreReading) -> Iterable[Metric]:
    return (
        gauge("gateway_images_stored", "Pictures kept now.", store.items),
        gauge("gateway_images_stored_bytes", "Bytes of the pictures kept now.", store.bytes),
        counter("gateway_images_evicted_total", "Pictures removed to make room.", store.evictions),
        counter("gateway_images_expired_total", "Pictures removed after their time.", store.expired),
        counter("gateway_images_corrupt_total", "Pictures found damaged, and removed.", store.corrupt),
        counter("gateway_images_failures_total", "Failed attempts to store or read.", store.failures),
        gauge("gateway_images_failing", "1 while pictures cannot be stored.", int(store.failing)),
    )


def _journal_families(journal: JournalReading) -> Iterable[Metric]:
    return (
        counter("gateway_journal_lines_total", "Request journal lines written.", journal.written),
        counter("gateway_journal_dropped_lines_total", "Request journal lines lost.", journal.dropped),
        counter("gateway_journal_errors_total", "Failed attempts to write the journal.", journal.errors),
        gauge("gateway_journal_queued_lines", "Request journal lines waiting.", journal.queued),
        gauge("gateway_journal_failing", "1 while the journal cannot be written.", int(journal.failing)),
    )


def _run_families(runs: Iterable[RunReading]) -> Iterable[Metric]:
    by_class = [([("backend_class", one.backend_class)], one) for one in runs]
    running = [Sample(where, one.running) for where, one in by_class]
    waiting = [Sample(where, one.waiting) for where, one in by_class]
    limit = [Sample(where, one.limit) for where, one in by_class]
    yield Metric("gauge", "gateway_agent_runs_running", "Runs of agents that go on now.", running)
    yield Metric("gauge", "gateway_agent_runs_waiting", "Runs of agents that wait now.", waiting)
    yield Metric("gauge", "gateway_agent_run_limit", "Runs of agents that may go on.", limit)


def _run_store_families(store: RunStoreReading) -> Iterable[Metric]:
    interrupted, errors = (
        "Runs that were cut off and got their end later.",
        "Failed attempts to store an event of a run.",
    )
    return (
        counter("gateway_agent_runs_interrupted_total", interrupted, store.interrupted),
        counter("gateway_agent_store_errors_total", errors, store.errors),
        gauge("gateway_agent_store_failing", "1 while events cannot be stored.", int(store.failing)),
    )


def _process_families() -> Iterable[Metric]:
    """Linux: /proc/self. One that cannot be read is left out."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        resident_bytes = pages * os.sysconf("SC_PAGE_SIZE")
        yield gauge("process_resident_memory_bytes", "Resident memory.", resident_bytes)
        open_fds = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them
        yield gauge("process_open_fds", "Open file descriptors.", open_fds)
    except OSError:
        return
