"""Error answers: the body and the headers that an error goes out with."""

import math

from appliance.protocol.errors import GatewayError


def error_body(error: GatewayError) -> dict[str, object]:
    """The body of the answer: message, type, param, code and source always, then the extra fields."""
    fields: dict[str, object] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "source": error.source,
    }
    return {"error": {**fields, **error.extra}}


def error_headers(error: GatewayError) -> dict[str, str]:
    """The headers that go with it. Retry-After is whole seconds, rounded up: never earlier than true."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return headers
