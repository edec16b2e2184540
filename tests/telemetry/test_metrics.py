"""Metrics: the contract's names, a bounded number of series, and a page that Prometheus reads."""

import os
import re
from dataclasses import dataclass

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from appliance.telemetry.exposition import write_page
from appliance.telemetry.metrics import MAX_SERIES, Metrics
from appliance.telemetry.readings import Readings

IMAGES = "/v1/images/generations"


@dataclass(frozen=True)
class Slots:
    backend_class: str
    capability: str
    limit: int
    inflight: int


@dataclass(frozen=True)
class Store:
    items: int = 3
    bytes: int = 4096
    evictions: int = 1
    expired: int = 2
    failures: int = 5
    corrupt: int = 6
    failing: bool = False


@dataclass(frozen=True)
class Journal:
    written: int = 10
    dropped: int = 2
    errors: int = 1
    queued: int = 4
    failing: bool = True


@dataclass(frozen=True)
class Runs:
    backend_class: str = "ollama"
    limit: int = 4
    running: int = 3
    waiting: int = 2


@dataclass(frozen=True)
class RunStore:
    interrupted: int = 7
    errors: int = 8
    failing: bool = True


READINGS = Readings(
    slots=lambda: (Slots("gpu_heavy", "images", 2, 1), Slots("ollama", "chat", 4, 0)),
    store=Store,
    journal=Journal,
    runs=lambda: (Runs(),),
    run_store=RunStore,
)


def make_metrics(readings: Readings = READINGS) -> Metrics:
    return Metrics(version="1.2.3", routes=["/health", IMAGES, "/v1/models/{id}"], readings=readings)


def record_everything(metrics: Metrics) -> None:
    metrics.note_request(IMAGES, 200, 1.5)
    metrics.note_tool("noop", "ok", 0.03)
    metrics.note_run("default", "ok", 6)
    metrics.note_refusal("backend_overloaded")
    metrics.note_release(0.004)
    metrics.note_first_byte(IMAGES, "gpu_heavy", 1.4)
    metrics.note_upstream("gpu_heavy", 1.3)
    metrics.note_relayed("out", 1000)
    metrics.note_opened("api")


def samples_of(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page, _ = write_page(metrics.read())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples_of(metrics).get((name, tuple(sorted(labels.items()))))


def test_page_has_the_names_of_the_contract() -> None:
    metrics = make_metrics()
    record_everything(metrics)
    assert value(metrics, "gateway_requests_total", path=IMAGES, status="200") == 1
    assert value(metrics, "gateway_request_duration_ms_sum", path=IMAGES, status="200") == 1500
    assert value(metrics, "gateway_request_duration_ms_count", path=IMAGES, status="200") == 1
    assert value(metrics, "gateway_tool_invocations_total", tool="noop", status="ok") == 1
    assert value(metrics, "gateway_tool_runtime_ms_sum") == 30
    buckets = [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000]
    found = {
        key[1][0][1]: number for key, number in samples_of(metrics).items() if key[0].endswith("runtime_ms_bucket")
    }
    assert found == {str(float(edge)): float(edge >= 30) for edge in buckets} | {"+Inf": 1}


def test_page_has_what_the_contract_adds() -> None:
    metrics = make_metrics()
    record_everything(metrics)
    assert value(metrics, "gateway_inflight", backend_class="gpu_heavy", capability="images") == 1
    assert value(metrics, "gateway_slot_limit", backend_class="ollama", capability="chat") == 4
    assert value(metrics, "gateway_refusals_total", reason="backend_overloaded") == 1
    assert value(metrics, "gateway_disconnect_release_seconds_bucket", le="0.005") == 1
    assert value(metrics, "gateway_disconnect_release_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "gateway_time_to_first_byte_seconds_sum", path=IMAGES, backend_class="gpu_heavy") == 1.4
    assert value(metrics, "gateway_upstream_latency_seconds_count", backend_class="gpu_heavy") == 1
    assert value(metrics, "gateway_relayed_bytes_total", direction="out") == 1000
    assert value(metrics, "gateway_images_stored") == 3
    assert value(metrics, "gateway_images_failing") == 0
    assert value(metrics, "gateway_images_stored_bytes") == 4096
    assert value(metrics, "gateway_journal_dropped_lines_total") == 2
    assert value(metrics, "gateway_journal_failing") == 1
    assert value(metrics, "gateway_build_info", version="1.2.3") == 1


def test_page_has_what_becomes_of_agents_runs() -> None:
    metrics = make_metrics()
    record_everything(metrics)
    metrics.note_run("default", "failed", 2)
    assert value(metrics, "gateway_agent_runs_total", agent="default", outcome="ok") == 1
    assert value(metrics, "gateway_agent_runs_total", agent="default", outcome="failed") == 1
    assert value(metrics, "gateway_agent_steps_total", agent="default") == 8
    assert value(metrics, "gateway_agent_runs_running", backend_class="ollama") == 3
    assert value(metrics, "gateway_agent_runs_waiting", backend_class="ollama") == 2
    assert value(metrics, "gateway_agent_run_limit", backend_class="ollama") == 4
    assert value(metrics, "gateway_agent_runs_interrupted_total") == 7
    assert value(metrics, "gateway_agent_store_errors_total") == 8
    assert value(metrics, "gateway_agent_store_failing") == 1


def test_resident_memory_and_descriptors_are_those_of_this_process() -> None:
    metrics = make_metrics()
    resident = value(metrics, "process_resident_memory_bytes")
    assert resident is not None
    assert 10_000_000 < resident < 2_000_000_000
    before = value(metrics, "process_open_fds")
    assert before == len(os.listdir("/proc/self/fd")) - 1
    read_end, write_end = os.pipe()
    try:
        assert value(metrics, "process_open_fds") == before + 2
    finally:
        os.close(read_end)
        os.close(write_end)


def test_open_connections_go_up_and_down() -> None:
    metrics = make_metrics()
    for _ in range(3):
        metrics.note_opened("api")
    metrics.note_closed("api")
    assert value(metrics, "gateway_open_connections", listener="api") == 2
    assert value(metrics, "gateway_connections_accepted_total", listener="api") == 3


def test_every_scrape_reads_anew_and_parts_that_are_off_have_no_series() -> None:
    inflight = [0]
    readings = Readings(slots=lambda: (Slots("gpu_heavy", "images", 2, inflight[0]),))
    metrics = make_metrics(readings)
    for inflight[0] in (0, 2, 1):
        assert value(metrics, "gateway_inflight", backend_class="gpu_heavy", capability="images") == inflight[0]
    names = {name for name, _ in samples_of(metrics)}
    assert not [name for name in names if "journal" in name or "images" in name or "agent_store" in name]


def test_readings_are_not_taken_before_a_scrape() -> None:
    def too_early() -> tuple[Slots, ...]:
        raise AssertionError

    make_metrics(Readings(slots=too_early))


@given(st.text())
def test_raw_path_is_never_a_label(path: str) -> None:
    metrics = make_metrics(Readings())
    metrics.note_request(f"/ui/images/{path}", 200, 0.1)
    metrics.note_first_byte(f"/ui/images/{path}", "none", 0.1)
    assert value(metrics, "gateway_requests_total", path="other", status="200") == 1
    assert value(metrics, "gateway_time_to_first_byte_seconds_count", path="other", backend_class="none") == 1


@pytest.mark.parametrize(("status", "label"), [(100, "100"), (499, "499"), (599, "599"), (0, "other"), (600, "other")])
def test_status_that_is_none_is_counted_as_other(status: int, label: str) -> None:
    metrics = make_metrics()
    metrics.note_request(IMAGES, status, 0.1)
    assert value(metrics, "gateway_requests_total", path=IMAGES, status=label) == 1


def test_number_of_series_is_bounded_and_nothing_is_lost() -> None:
    metrics = make_metrics()
    for number in range(2 * MAX_SERIES):
        metrics.note_refusal(f"reason {number}")
    samples = [number for key, number in samples_of(metrics).items() if key[0] == "gateway_refusals_total"]
    assert len(samples) == MAX_SERIES + 1
    assert sum(samples) == 2 * MAX_SERIES
    assert value(metrics, "gateway_refusals_total", reason="other") == MAX_SERIES


@given(st.text())
def test_labels_from_anywhere_break_neither_the_page_nor_its_lines(text: str) -> None:
    metrics = make_metrics(Readings())
    metrics.note_refusal(text)
    page, _ = write_page(metrics.read())
    assert sum(samples_of(metrics)[key] for key in samples_of(metrics) if key[0] == "gateway_refusals_total") == 1
    assert len(re.findall(rb"^gateway_refusals_total\{", page, re.MULTILINE)) == 1


def test_page_is_the_classic_text_format_without_created_series() -> None:
    metrics = make_metrics()
    record_everything(metrics)
    page, content_type = write_page(metrics.read())
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"_created" not in page
    assert page.endswith(b"\n")
    for name in {name for name, _ in samples_of(metrics)}:
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert f"# HELP {family} ".encode() in page or f"# HELP {name} ".encode() in page


def test_two_sets_of_metrics_share_nothing_and_leave_the_library_alone() -> None:
    before = list(prometheus_client.REGISTRY.collect())
    first, second = make_metrics(), make_metrics()
    first.note_request(IMAGES, 200, 0.1)
    assert value(second, "gateway_requests_total", path=IMAGES, status="200") is None
    assert {family.name for family in prometheus_client.REGISTRY.collect()} == {family.name for family in before}


def test_rendering_often_leaves_the_counts_alone() -> None:
    metrics = make_metrics()
    record_everything(metrics)
    before = samples_of(metrics)
    for _ in range(3):
        write_page(metrics.read())
    after = samples_of(metrics)
    moving = {("process_resident_memory_bytes", ()), ("process_open_fds", ())}
    assert {key: after[key] for key in after if key not in moving} == {
        key: before[key] for key in before if key not in moving
    }
