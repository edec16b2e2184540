"""The page: what Prometheus's own parser reads out of it is what was put in."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from appliance.telemetry.exposition import write_page
from appliance.telemetry.families import Metric, Sample, counter, gauge

TEXTS = st.text(max_size=20)


@given(TEXTS, TEXTS, st.floats(allow_nan=False))
def test_labels_and_values_come_back_as_they_were(first: str, second: str, value: float) -> None:
    metric = Metric("gauge", "lamp", "A text.", [Sample([("b", first), ("a", second)], value)])
    (family,) = text_string_to_metric_families(write_page([metric])[0].decode())
    (sample,) = family.samples
    assert (sample.name, sample.labels, sample.value) == ("lamp", {"a": second, "b": first}, value)


@given(TEXTS)
def test_a_help_text_is_one_line(text: str) -> None:
    page = write_page([counter("lamps_total", text, 3)])[0].decode()
    assert page.endswith("\n# TYPE lamps_total counter\nlamps_total 3.0\n")
    assert page.count("\n") == 3


def test_suffixes_labels_and_bounds_stand_where_the_format_wants_them() -> None:
    samples = [
        Sample([("path", "/a"), ("le", 0.5)], 1, "_bucket"),
        Sample([("path", "/a"), ("le", float("inf"))], 2, "_bucket"),
        Sample([("path", "/a")], 2, "_count"),
        Sample([("path", "/a")], 0.25, "_sum"),
    ]
    metrics = [Metric("histogram", "wait", "Back\\slash.", samples), gauge("lamp", "Two\nlines.", 0)]
    assert write_page(metrics)[0].decode().splitlines() == [
        r"# HELP wait Back\\slash.",
        "# TYPE wait histogram",
        'wait_bucket{le="0.5",path="/a"} 1.0',
        'wait_bucket{le="+Inf",path="/a"} 2.0',
        'wait_count{path="/a"} 2.0',
        'wait_sum{path="/a"} 0.25',
        r"# HELP lamp Two\nlines.",
        "# TYPE lamp gauge",
        "lamp 0.0",
    ]
