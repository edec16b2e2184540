"""Language requests: what chat, completions, responses, embeddings and rerank have in common on their way through."""

import json
import time
from collections.abc import Mapping

from appliance.components import Components
from appliance.dispatch.language import LanguageJob, admit_language, answer, open_stream
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.protocol.language import LanguageKind, LanguageRequest, parse_language_request
from appliance.protocol.responses import from_chat
from appliance.protocol.responses_filter import TranslatedResponses
from appliance.protocol.responses_stream import ResponsesStream
from appliance.protocol.streams import PassThrough, StreamFilter, Usage, usage_in
from appliance.server.exchange import Answer, Handler, Request, SendPiece
from appliance.server.relay import SSE_HEADERS, SSE_TYPE, relay_events
from appliance.server.routing_headers import routing_headers
from appliance.server.tool_chats import serve_with_tools, wants_gateway_tools


def language_handler(components: Components, kind: LanguageKind) -> Handler:
    """The handler of one kind."""

    async def handle(request: Request) -> Answer:
        return await _serve(components, kind, request)

    return handle


async def _serve(components: Components, kind: LanguageKind, request: Request) -> Answer:
    """Check, admit, answer or stream. Raises GatewayError until the first byte; after it, errors are events."""
    visit = request.visit
    wanted = parse_language_request(kind, request.json(), request.raw)
    if wants_gateway_tools(request, kind):
        return await serve_with_tools(components, request, wanted)
    job = admit_language(
        components.dispatcher,
        visit.caller(),
        wanted,
        x_backend=request.header(b"x-backend"),
        request_type=request.header(b"x-request-type"),
    )
    visit.model = job.call.model
    try:
        if wanted.stream:
            return await _stream(components, request, wanted, job)
        return await _answer(components, wanted, job)
    except UpstreamFailed as error:
        if error.code != "model_not_found":
            raise
        unknown = error
    raise await _with_nearest(components, job, unknown)


async def _with_nearest(components: Components, job: LanguageJob, error: UpstreamFailed) -> GatewayError:
    """A backend does not know the model: say which ones there are."""
    nearest = await components.catalogue.nearest(job.call.model)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else " GET /v1/models lists what there is."
    return UpstreamFailed(
        error.message + hint,
        upstream=job.call.backend_class.name,
        upstream_status=404,
        status=error.status,
        code=error.code,
        param="model",
    )


async def _answer(components: Components, wanted: LanguageRequest, job: LanguageJob) -> Answer:
    body = await answer(components.dispatcher, job)
    _note_usage(components, job, usage_in(body))
    if job.translated:
        response = from_chat(json.loads(body), wanted.body, new_id=components.new_id, created=int(time.time()))
        body = compact_json(response)
    return Answer(body, headers=_headers(job))


async def _stream(components: Components, request: Request, wanted: LanguageRequest, job: LanguageJob) -> Answer:
    visit = request.visit
    source = await visit.stack.enter_async_context(open_stream(components.dispatcher, job))
    events = _filter(components, wanted, job)
    visit.events = True
    visit.stack.callback(lambda: _note_usage(components, job, events.usage))

    def note_error(error: GatewayError) -> None:
        visit.error_code = error.code

    async def write(send: SendPiece) -> None:
        await relay_events(source, events, send, on_error=note_error)

    return Answer(write, content_type=SSE_TYPE, headers={**SSE_HEADERS, **_headers(job)})


def _filter(components: Components, wanted: LanguageRequest, job: LanguageJob) -> StreamFilter:
    upstream = job.call.backend_class.name
    if not job.translated:
        return PassThrough(upstream)
    stream = ResponsesStream(wanted.body, new_id=components.new_id, created=int(time.time()), model=job.call.model)
    return TranslatedResponses(stream, upstream)


def _note_usage(components: Components, job: LanguageJob, usage: Usage | None) -> None:
    if usage is not None:
        name = job.call.backend_class.name
        components.metrics.note_tokens(name, usage.prompt_tokens, usage.completion_tokens)


def _headers(job: LanguageJob) -> Mapping[str, str]:
    return routing_headers(job.call.backend_class.name, job.call.model, job.route.reason)
