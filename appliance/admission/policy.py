"""Policy: may this request use this class? Pure: a table of inputs decides."""

from appliance.config.classes import BackendClass, Backends, Capability
from appliance.protocol.errors import (
    BackendNotFound,
    BackendNotReady,
    CapabilityNotSupported,
    PayloadPolicyViolation,
)
from appliance.protocol.images import ResponseFormat

RETRY_AFTER_S = 30.0  # contract 5: the next health check is that far away at most


def decide_class(backends: Backends, name: str, capability: Capability) -> BackendClass:
    """Find the class that a request was routed to. Raises BackendNotFound, CapabilityNotSupported."""
    backend_class = backends.classes.get(name)
    if backend_class is None:
        raise BackendNotFound(name, list(backends.classes))
    if capability not in backend_class.capabilities:
        raise CapabilityNotSupported(
            backend_class=name,
            capability=capability,
            supported=list(backend_class.capabilities),
            able=[other.name for other in backends.classes.values() if capability in other.capabilities],
        )
    return backend_class


def decide_readiness(backend_class: BackendClass, *, ready: bool, reason: str) -> None:
    """Raises BackendNotReady for a class without an address, or whose last health check failed."""
    if not backend_class.base_url:
        raise BackendNotReady(
            backend_class=backend_class.name, reason="it has no base_url configured", retry_after_s=RETRY_AFTER_S
        )
    if not ready:
        raise BackendNotReady(backend_class=backend_class.name, reason=reason.rstrip("."), retry_after_s=RETRY_AFTER_S)


def decide_response_format(backend_class: BackendClass, requested: ResponseFormat | None) -> ResponseFormat:
    """Choose how pictures are handed out. Raises PayloadPolicyViolation where the class forbids what was asked."""
    policy = backend_class.payload_policy
    chosen = requested or policy.images_format
    if chosen == "b64_json" and not policy.images_allow_base64:
        raise PayloadPolicyViolation(
            f"{backend_class.name} hands out pictures by url only: leave response_format out, or ask for url.",
            param="response_format",
        )
    return chosen
