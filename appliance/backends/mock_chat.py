"""Mock chat: a scripted model for tests, demos and evals. It has no upstream; its script is docs/mock_chat.md's."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from appliance.backends.base import ByteSource, LanguageCall, ModelEntry
from appliance.backends.chat_shapes import Head, whole_chat, whole_embeddings, whole_text
from appliance.backends.mock_asked import Asked, fill, find_answer, read_chat, read_completion
from appliance.backends.mock_said import Said, chat_events, count_tokens, derived_hex, say, text_events
from appliance.backends.mock_stream import ScriptedStream, fail, pace, wait_for_all
from appliance.backends.mock_vectors import DIMENSIONS, MAX_DIMENSIONS, document_text, embed, read_query, score
from appliance.config.classes import BackendClass
from appliance.config.mock_demo import demo_script
from appliance.config.mock_script import Answer, MockScript
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import InvalidRequest, UpstreamFailed
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient

_KINDS: frozenset[LanguageKind] = frozenset({"chat", "completions", "embeddings", "rerank"})
# What would change the shape of an answer. Sampling fields have nothing to change here and are taken.
_REFUSED = ("logprobs", "top_logprobs", "logit_bias", "audio", "echo", "suffix")


@dataclass(frozen=True, slots=True)
class MockChatBackend:
    """Same request, same request id, same script: same answer, but for `created`. `now`: Unix seconds."""

    now: Callable[[], float] = time.time

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        return _KINDS

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        if call.kind == "embeddings":
            return await _embeddings(call)
        if call.kind == "rerank":
            return await _rerank(call)
        part = self._compose(call)
        events = sum(1 for _ in part.events(include_usage=False))
        await wait_for_all(part.answer, events, call)
        said = part.said
        if call.kind == "completions":
            return whole_text(part.head, text=said.content, finish_reason=said.finish_reason, tokens=said.tokens)
        return whole_chat(
            part.head,
            content=said.content,
            reasoning=said.reasoning,
            tool_calls=said.tool_calls,
            finish_reason=said.finish_reason,
            tokens=said.tokens,
        )

    @asynccontextmanager
    async def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AsyncIterator[ByteSource]:
        part = self._compose(call)
        if part.answer.fail is not None:
            await fail(part.answer, part.answer.fail, call)
        options = call.body.get("stream_options") or {}
        events = part.events(include_usage=bool(options.get("include_usage")))
        yield ScriptedStream(pace(events, part.answer, call), call)

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        return tuple(ModelEntry(name) for name in _script(backend_class).names)

    def _compose(self, call: LanguageCall) -> "_Part":
        script = _script(call.backend_class)
        model = _model(call, script)
        _refuse_fields(call)
        asked = _read(call, model)
        answer = find_answer(script, asked)
        if answer.fail is not None:
            message = fill(answer.fail.message, asked)
            answer = answer.model_copy(update={"fail": answer.fail.model_copy(update={"message": message})})
        prefix = "cmpl" if call.kind == "completions" else "chatcmpl"
        head = Head(f"{prefix}-{derived_hex(f'{call.request_id}/{asked.messages}')}", int(self.now()), model)
        return _Part(call.kind, head, answer, say(answer, asked, call.body, call.request_id))


@dataclass(frozen=True, slots=True)
class _Part:
    """What a call is to be answered, and how."""

    kind: LanguageKind
    head: Head
    answer: Answer
    said: Said

    def events(self, *, include_usage: bool) -> Iterator[bytes]:
        make = text_events if self.kind == "completions" else chat_events
        return make(self.head, self.said, include_usage=include_usage)


def _script(backend_class: BackendClass) -> MockScript:
    return backend_class.script or demo_script()


def _model(call: LanguageCall, script: MockScript) -> str:
    name = call.backend_class.name
    if not call.model or script.serves(call.model):
        return call.model or script.names[0]
    raise UpstreamFailed(
        f"{name} has no model {call.model!r}: use one of {', '.join(script.names)}.",
        upstream=name,
        status=404,
        code="model_not_found",
    )


def _refuse_fields(call: LanguageCall) -> None:
    body = call.body
    for field in _REFUSED:
        if body.get(field):
            raise _cannot(field, call)
    for field in ("n", "best_of"):
        if (body.get(field) or 1) > 1:
            raise _cannot(field, call)


def _cannot(field: str, call: LanguageCall) -> InvalidRequest:
    name = call.backend_class.name
    return InvalidRequest(
        f"{name} is a scripted model, which cannot do {field!r}: leave it out.",
        param=field,
        code="unsupported_parameter",
    )


def _read(call: LanguageCall, model: str) -> Asked:
    if call.kind != "completions":
        return read_chat(call.body, model)
    texts = _texts(call, "prompt")
    if len(texts) != 1:
        raise InvalidRequest("A scripted model takes one prompt at a time.", param="prompt")
    return read_completion(call.body, texts[0], model)


def _texts(call: LanguageCall, field: str) -> list[str]:
    value = call.body[field]
    texts = [value] if isinstance(value, str) else value
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f"A scripted model reads no tokens: send {field!r} as text.", param=field)
    return list(texts)


async def _embeddings(call: LanguageCall) -> bytes:
    model = _model(call, _script(call.backend_class))
    dimensions = call.body.get("dimensions") or DIMENSIONS
    if dimensions > MAX_DIMENSIONS:
        raise InvalidRequest(f"'dimensions' must be at most {MAX_DIMENSIONS}.", param="dimensions")
    texts = _texts(call, "input")
    vectors = []
    for text in texts:
        await trio.lowlevel.checkpoint()  # each is a piece of work
        vectors.append(embed(text, dimensions))
    return whole_embeddings(
        vectors,
        model=model,
        encoding_format=call.body.get("encoding_format"),
        prompt_tokens=sum(count_tokens(len(text)) for text in texts),
    )


async def _rerank(call: LanguageCall) -> bytes:
    model = _model(call, _script(call.backend_class))
    documents = call.body["documents"]
    wanted = read_query(call.body["query"])
    scores = []
    for document in documents:
        await trio.lowlevel.checkpoint()  # each is a piece of work
        scores.append(score(wanted, document_text(document)))
    ranked = sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))
    echo = call.body.get("return_documents") is not False
    data = [
        {"index": index, "relevance_score": score, **({"document": _document(documents[index])} if echo else {})}
        for index, score in ranked
    ]
    return compact_json({"object": "list", "data": data[: call.body.get("top_n")], "model": model})


def _document(document: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Jina's and Cohere's shape: a text as an object too."""
    return {"text": document} if isinstance(document, str) else document
