"""Errors: one table, one shape."""

import inspect

import pytest

from appliance.protocol import errors
from appliance.protocol.error_answers import error_body, error_headers
from appliance.protocol.errors import ANSWERS, BackendOverloaded, GatewayError, InvalidRequest, UpstreamFailed

TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "upstream_error",
    503: "unavailable_error",
    504: "upstream_error",
    507: "unavailable_error",
}


def test_every_error_class_is_in_the_table_with_the_type_of_its_status() -> None:
    classes = {value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, GatewayError)}
    assert classes - {GatewayError} == set(ANSWERS)
    for answer in ANSWERS.values():
        assert answer.type == TYPE_BY_STATUS.get(answer.status, "invalid_request_error")


def test_the_body_has_all_five_fields_even_when_they_are_null() -> None:
    body = error_body(InvalidRequest("no"))["error"]
    assert body == {
        "message": "no",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
        "source": "gateway",
    }


def test_an_overloaded_class_says_which_and_when_to_come_back() -> None:
    error = BackendOverloaded(backend_class="gpu_heavy", route_kind="images", limit=2, retry_after_s=5)
    body = error_body(error)["error"]
    assert isinstance(body, dict)
    assert {key: body[key] for key in ("code", "backend_class", "route_kind", "limit")} == {
        "code": "backend_overloaded",
        "backend_class": "gpu_heavy",
        "route_kind": "images",
        "limit": 2,
    }
    assert error_headers(error) == {"Retry-After": "5", "retry-after-ms": "5000"}


def test_retry_after_is_never_earlier_than_true() -> None:
    error = BackendOverloaded(backend_class="x", route_kind="images", limit=1, retry_after_s=1.2)
    assert error_headers(error) == {"Retry-After": "2", "retry-after-ms": "1200"}


@pytest.mark.parametrize(
    ("status", "kind"), [(None, "upstream_error"), (400, "invalid_request_error"), (429, "rate_limit_error")]
)
def test_an_upstreams_own_status_decides_the_type(status: int | None, kind: str) -> None:
    error = UpstreamFailed("no", upstream="gpu_heavy", upstream_status=status, status=status)
    assert (error.status, error.type, error.source) == (status or 502, kind, "upstream")


def test_every_429_and_503_says_when_to_come_back() -> None:
    made = [
        errors.TooManyAttempts(1),
        errors.BackendOverloaded(backend_class="x", route_kind="images", limit=1, retry_after_s=5),
        errors.BackendNotReady(backend_class="x", reason="dead", retry_after_s=30),
        errors.ShuttingDown(),
        errors.RateLimited("Too many calls: wait a second.", 1),
        errors.AgentsBusy("Wait.", retry_after_s=5),
    ]
    assert {type(error) for error in made} == {kind for kind, answer in ANSWERS.items() if answer.status in {429, 503}}
    assert all("Retry-After" in error_headers(error) for error in made)
