"""Policy: a table of inputs decides."""

from dataclasses import replace

import pytest

from appliance.admission.policy import decide_class, decide_readiness, decide_response_format
from appliance.config.classes import BackendClass, Backends, HealthPaths, PayloadPolicy
from appliance.protocol.errors import BackendNotFound, BackendNotReady, CapabilityNotSupported, PayloadPolicyViolation

GPU = BackendClass("gpu_heavy", "http://x", "a1111", frozenset({"images"}), {}, HealthPaths("/", "/", exact=False))
CHAT = BackendClass("ollama", "http://y", "ollama", frozenset({"chat"}), {}, HealthPaths("/", "/", exact=False))
BACKENDS = Backends({"gpu_heavy": GPU, "ollama": CHAT}, {})


def test_a_known_class_that_can_is_chosen() -> None:
    assert decide_class(BACKENDS, "gpu_heavy", "images") is GPU


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BackendNotFound) as refused:
        decide_class(BACKENDS, "gpu_haevy", "images")
    assert refused.value.extra["available_backends"] == ["gpu_heavy", "ollama"]


def test_a_class_that_cannot_is_refused_with_those_that_can() -> None:
    with pytest.raises(CapabilityNotSupported) as refused:
        decide_class(BACKENDS, "ollama", "images")
    assert refused.value.extra == {
        "backend_class": "ollama",
        "supported_capabilities": ["chat"],
        "available_backends": ["gpu_heavy"],
    }


@pytest.mark.parametrize(
    ("base_url", "ready", "says"), [("", True, "base_url"), ("http://x", False, "connection refused")]
)
def test_a_class_that_is_not_ready_says_why_and_when_to_come_back(base_url: str, ready: bool, says: str) -> None:
    with pytest.raises(BackendNotReady, match=says) as refused:
        decide_readiness(replace(GPU, base_url=base_url), ready=ready, reason="connection refused.")
    assert not refused.value.message.endswith("..")
    assert refused.value.retry_after_s == 30


def test_a_ready_class_is_let_through() -> None:
    decide_readiness(GPU, ready=True, reason="")


def test_the_payload_policy_names_the_default_format_and_may_forbid_base64() -> None:
    base64_class = replace(GPU, payload_policy=PayloadPolicy(images_format="b64_json"))
    url_only = replace(GPU, payload_policy=PayloadPolicy(images_allow_base64=False))
    assert decide_response_format(GPU, None) == "url"
    assert decide_response_format(GPU, "b64_json") == "b64_json"
    assert decide_response_format(base64_class, None) == "b64_json"
    assert decide_response_format(base64_class, "url") == "url"
    assert decide_response_format(url_only, "url") == "url"
    with pytest.raises(PayloadPolicyViolation):
        decide_response_format(url_only, "b64_json")
