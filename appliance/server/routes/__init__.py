"""Routes: one file a resource, thin: read, call, answer. The table of all paths is here."""

OBSERVABILITY_PATHS = frozenset({"/health", "/readyz", "/health/upstreams", "/metrics"})
OPEN_PATHS = frozenset({"/health", "/readyz"})  # on the API listener; all four on the observability listener

API_PATHS = OBSERVABILITY_PATHS | {
    "/openapi.json",
    "/v1/gateway/status",
    "/v1/models",
    "/v1/models/<path:model_id>",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/images/generations",
    "/v1/tools",
    "/v1/tools/<name>",
    "/v1/tools/replay/<replay_id>",
    "/v1/agent/run",
    "/v1/agent/runs",
    "/v1/agent/replay/<run_id>",
    "/v1/images/edits",
    "/ui/images/<name>",
}

REFUSED = "(refused)"  # what the listener turns away before there is a path
METRIC_PATHS = API_PATHS | {REFUSED}
