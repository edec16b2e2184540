"""App: the quart applications of both listeners, their error answers, and what a route needs to read and answer."""

import json
from collections.abc import Mapping
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from appliance.protocol.error_answers import error_body, error_headers
from appliance.protocol.errors import GatewayError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from appliance.server.gateway import log_fault
from appliance.server.visit import Visit, visit_of
from appliance.telemetry.log import Log


def make_app(name: str, log: Log) -> QuartTrio:
    """A quart application without routes: quart's own limits are off, ours apply; every error has our shape."""
    app = QuartTrio(name, static_folder=None)
    # Quart's own limits cut streams short and know nothing of our error shapes: the listener and the gateway have theirs.
    app.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None, PROPAGATE_EXCEPTIONS=False)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False

    @app.before_request
    async def note_route() -> None:
        if request.url_rule is not None:
            current_visit().route = request.url_rule.rule

    @app.errorhandler(GatewayError)
    async def answer_gateway_error(error: GatewayError) -> Response:
        return error_response(error)

    @app.errorhandler(HTTPException)
    async def answer_http_exception(error: HTTPException) -> Response:
        return error_response(_from_werkzeug(error))

    @app.errorhandler(Exception)
    async def answer_fault(fault: Exception) -> Response:
        log_fault(log, current_visit().request_id, fault)
        return error_response(InternalError())

    return app


def current_visit() -> Visit:
    """The visit of the request that this task is serving."""
    return visit_of(request.scope)


def json_response(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON, compact."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return Response(body, status=status, content_type="application/json", headers=dict(headers or {}))


def error_response(error: GatewayError) -> Response:
    """Answer with an error, and note its code for the journal."""
    current_visit().error_code = error.code
    return json_response(error_body(error), error.status, error_headers(error))


def _from_werkzeug(error: HTTPException) -> GatewayError:
    if isinstance(error, WerkzeugMethodNotAllowed):
        return MethodNotAllowed(request.method, sorted(error.valid_methods or ()))
    if error.code == 404:
        return NotFound("Nothing is served under this path: see the endpoint table of the README.")
    if error.code is not None and 400 <= error.code < 500:
        return InvalidRequest("This request cannot be read: check its path, headers and body.")
    return InternalError()
