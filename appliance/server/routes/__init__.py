"""Routes: one file a resource, thin: read, call, answer. The table of all paths is here."""

OBSERVABILITY_PATHS = frozenset({"/health", "/readyz", "/health/upstreams", "/metrics"})
OPEN_PATHS = frozenset({"/health", "/readyz"})  # on the API listener; all four on the observability listener

API_PATHS = OBSERVABILITY_PATHS | {
    "/v1/gateway/status",
    "/v1/images/generations",
    "/ui/images/<name>",
}

REFUSED = "(refused)"  # what the listener turns away before there is a path
METRIC_PATHS = API_PATHS | {REFUSED}
