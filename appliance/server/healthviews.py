"""Health views: the board's state as `/readyz`, `/health/upstreams` and the status page show it."""

from appliance.upstream.health import NOT_CONFIGURED, Health, HealthBoard


def readiness(board: HealthBoard) -> dict[str, dict[str, object]]:
    """Contract 2: healthy, ready, required, last_check, error for each class."""
    return {name: _readiness(health) for name, health in sorted(board.snapshot().items())}


def upstreams(board: HealthBoard) -> dict[str, dict[str, object]]:
    """Contract 2: ok, status, error, latency_ms for each class that has an address."""
    found = sorted(board.snapshot().items())
    return {name: _upstream(health) for name, health in found if health.error != NOT_CONFIGURED}


def _readiness(health: Health) -> dict[str, object]:
    return {
        "healthy": health.healthy,
        "ready": health.ready,
        "required": health.required,
        "last_check": health.last_check,
        "error": health.error,
    }


def _upstream(health: Health) -> dict[str, object]:
    return {
        "ok": health.ready,
        "status": health.status,
        "error": health.error,
        "latency_ms": health.latency_ms,
    }
