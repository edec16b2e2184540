"""Errors: each carries its answer; one table maps class to status, type, code and log level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
    "upstream_error",
    "unavailable_error",
]
Level = Literal["info", "warning", "error"]
Source = Literal["gateway", "upstream"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a class of errors looks like from outside, and how loud it is in the log."""

    status: int
    type: ErrorType
    code: str | None
    level: Level


class GatewayError(Exception):
    """An error that a client is told about: the message says what to change, `extra` are fields of the error body.

    `status` and `code` come from the table below; an instance may say otherwise where an upstream decided.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        source: Source = "gateway",
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        answer = ANSWERS[type(self)]
        self.message = message
        self.param = param
        self.code = code if code is not None else answer.code
        self.status = status if status is not None else answer.status
        self.type: ErrorType = answer.type
        self.level: Level = answer.level
        self.source: Source = source
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers or {}
        self.extra: Mapping[str, object] = extra or {}


class InvalidRequest(GatewayError):
    """A field, header or body that cannot be served as it is."""


class Unauthenticated(GatewayError):
    """No token, or not one that is known here."""

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(GatewayError):
    """This caller may not come in this way."""


class NotFound(GatewayError):
    """Nothing under this path or id, or nothing that this caller may see."""


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        allow = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not allowed here: use {allow}.", headers={"Allow": allow})


class PayloadTooLarge(GatewayError):
    """The body is larger than this gateway, or this token's policy, takes."""


class UnsupportedMediaType(GatewayError):
    """A content type or encoding that this route does not read."""


class RequestTimeout(GatewayError):
    """The client took too long to send its body."""


class MisdirectedHost(GatewayError):
    """The Host header names somebody else: a DNS rebinding, or a name that wants to be configured."""


class TooManyAttempts(GatewayError):
    """This peer guessed at tokens too often."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("Too many wrong tokens from this address: wait, then try again.", retry_after_s=retry_after_s)


class BackendOverloaded(GatewayError):
    """Every slot of this class and capability is taken. It does not queue and does not fall back."""

    def __init__(self, *, backend_class: str, route_kind: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{backend_class} is working on {limit} {route_kind} request(s), its limit: try again later.",
            retry_after_s=retry_after_s,
            extra={"backend_class": backend_class, "route_kind": route_kind, "limit": limit},
        )


class BackendNotFound(GatewayError):
    """The request names a backend class that is not configured."""

    def __init__(self, backend_class: str, available: Sequence[str]) -> None:
        names = sorted(available)
        message = f"No backend class is named {backend_class!r}: use one of {', '.join(names)}."
        super().__init__(message, param="X-Backend", extra={"available_backends": names})


class CapabilityNotSupported(GatewayError):
    """The class exists and does something else."""

    def __init__(self, *, backend_class: str, capability: str, supported: Sequence[str], able: Sequence[str]) -> None:
        way_out = f"use one of {', '.join(sorted(able))}" if able else "no configured class does"
        super().__init__(
            f"{backend_class} does not do {capability}: {way_out}.",
            extra={
                "backend_class": backend_class,
                "supported_capabilities": sorted(supported),
                "available_backends": sorted(able),
            },
        )


class BackendNotReady(GatewayError):
    """The class is configured, and its last health check failed, or it has no address."""

    def __init__(self, *, backend_class: str, reason: str, retry_after_s: float) -> None:
        extra = {"backend_class": backend_class}
        super().__init__(f"{backend_class} is not ready: {reason}.", retry_after_s=retry_after_s, extra=extra)


class PayloadPolicyViolation(GatewayError):
    """The class's payload_policy forbids what the request asks for."""


class UnknownTool(GatewayError):
    """No such tool, or none that this token may run: the two look alike."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no tool {name[:64]!r} for this token: GET /v1/tools lists what there is.")


class UndeclaredTool(GatewayError):
    """The operator allows a tool of this name, and nothing declares it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The tool {name[:64]!r} is allowed but not declared: add it to the tool registry.")


class InvalidArguments(GatewayError):
    """The arguments do not fit the tool's schema. `issues`: a JSON pointer (RFC 6901) and a reason each."""

    def __init__(self, tool: str, issues: Sequence[Mapping[str, str]]) -> None:
        super().__init__(
            f"The arguments do not fit the parameters of {tool}: {issues[0]['reason']}.",
            param="arguments",
            extra={"tool": tool, "issues": [dict(issue) for issue in issues]},
        )


class RateLimited(GatewayError):
    """This token calls tools too often, or all tool slots stayed taken for as long as a call may wait."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class AgentsBusy(GatewayError):
    """No place for one more run: `code` says whether it was refused at once or waited in vain."""


class ToolLoopExceeded(GatewayError):
    """A chat whose tools the gateway runs (X-Gateway-Tools) goes on calling them."""


class ShuttingDown(GatewayError):
    """The gateway is stopping; another one, or this one in a moment, will answer."""

    def __init__(self, retry_after_s: float = 5) -> None:
        super().__init__("The gateway is shutting down: try again in a moment.", retry_after_s=retry_after_s)


class StorageFull(GatewayError):
    """What had to be stored could not be: nothing was kept."""

    def __init__(self, what: str, *, remedy: str = "free some disk space on the gateway") -> None:
        super().__init__(f"{what} could not be stored: {remedy}.", retry_after_s=30)


class UpstreamFailed(GatewayError):
    """The backend refused, broke off, or answered what cannot be used."""

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        upstream_status: int | None = None,
        body: str | None = None,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        extra: dict[str, object] = {"upstream": upstream}
        if upstream_status is not None:
            extra["status"] = upstream_status
        if body is not None:
            extra["body"] = body
        super().__init__(
            message,
            source="upstream",
            param=param,
            status=status,
            code=code,
            retry_after_s=retry_after_s,
            extra=extra,
        )
        if status is not None and status < 500:
            self.type = "rate_limit_error" if status == 429 else "invalid_request_error"


class UpstreamTimeout(GatewayError):
    """The backend took longer than the deadline that this gateway is configured with."""

    def __init__(self, message: str, *, upstream: str) -> None:
        super().__init__(message, source="upstream", extra={"upstream": upstream})


class InternalError(GatewayError):
    """Our fault. The log has the reason under the request id; the client gets none of it."""

    def __init__(self) -> None:
        super().__init__("Internal error. The gateway's log has it under this request's x-request-id.")


ANSWERS: Mapping[type[GatewayError], Answer] = {
    InvalidRequest: Answer(400, "invalid_request_error", "invalid_request", "info"),
    Unauthenticated: Answer(401, "authentication_error", "invalid_api_key", "info"),
    Forbidden: Answer(403, "permission_error", "forbidden", "warning"),
    NotFound: Answer(404, "invalid_request_error", "not_found", "info"),
    MethodNotAllowed: Answer(405, "invalid_request_error", "method_not_allowed", "info"),
    RequestTimeout: Answer(408, "invalid_request_error", "request_timeout", "info"),
    PayloadTooLarge: Answer(413, "invalid_request_error", "payload_too_large", "info"),
    UnsupportedMediaType: Answer(415, "invalid_request_error", "unsupported_media_type", "info"),
    MisdirectedHost: Answer(421, "invalid_request_error", "misdirected_request", "warning"),
    TooManyAttempts: Answer(429, "rate_limit_error", "too_many_attempts", "warning"),
    BackendOverloaded: Answer(429, "rate_limit_error", "backend_overloaded", "info"),
    BackendNotFound: Answer(400, "invalid_request_error", "backend_not_found", "info"),
    CapabilityNotSupported: Answer(400, "invalid_request_error", "capability_not_supported", "info"),
    PayloadPolicyViolation: Answer(400, "invalid_request_error", "payload_policy_violation", "info"),
    BackendNotReady: Answer(503, "unavailable_error", "backend_not_ready", "warning"),
    UnknownTool: Answer(404, "invalid_request_error", "unknown_tool", "info"),
    UndeclaredTool: Answer(404, "invalid_request_error", "undeclared_tool", "info"),
    InvalidArguments: Answer(400, "invalid_request_error", "invalid_arguments", "info"),
    RateLimited: Answer(429, "rate_limit_error", "rate_limited", "info"),
    AgentsBusy: Answer(429, "rate_limit_error", "queue_full", "info"),
    ToolLoopExceeded: Answer(500, "server_error", "tool_loop_exceeded", "warning"),
    ShuttingDown: Answer(503, "unavailable_error", "shutting_down", "info"),
    StorageFull: Answer(507, "unavailable_error", "storage_full", "error"),
    UpstreamFailed: Answer(502, "upstream_error", "upstream_error", "warning"),
    UpstreamTimeout: Answer(504, "upstream_error", "upstream_timeout", "warning"),
    InternalError: Answer(500, "server_error", "internal_error", "error"),
}
