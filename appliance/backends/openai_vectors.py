"""Embeddings and rankings of OpenAI-style servers: the shapes they come in, and the one a client gets. No I/O.

| server | embeddings | rankings |
|---|---|---|
| OpenAI, vLLM, LM Studio, LocalAI | `data[].embedding`, numbers or base64 | |
| llama.cpp, older | a bare list of `{index, embedding: [[numbers]]}` | `results[].relevance_score` |
| Jina, Cohere, vLLM, Infinity | | `results[].relevance_score`, `document` a string or `{text}` |
| text-embeddings-inference | a bare list of lists | a bare list of `{index, score}` |
| Ollama, Cohere | `embeddings: [[numbers]]` | |
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from appliance.backends.base import LanguageCall
from appliance.protocol.errors import UpstreamFailed


def mended_embeddings(body: bytes, said: Any, call: LanguageCall) -> bytes:
    """OpenAI's shape, the bytes unchanged where they have it. Raises UpstreamFailed for what holds no embeddings."""
    items = _embedding_items(said)
    if items is None:
        raise _unusable(call, "no list of embeddings")
    wanted = _input_count(call.body.get("input"))
    if len(items) != wanted:
        raise _unusable(call, f"{len(items)} embedding(s) for {wanted} input(s)")
    in_place = isinstance(said, dict) and said.get("data") is items
    if in_place and all(map(_is_openai_embedding, items)):
        return body
    data = [_mended_embedding(item, index, call) for index, item in enumerate(items)]
    data.sort(key=lambda entry: entry["index"])
    usage = said.get("usage") if isinstance(said, dict) else None
    kept = {"usage": usage} if isinstance(usage, dict) else {"usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return written({"object": "list", "data": data, "model": _model(said, call), **kept})


def _embedding_items(said: Any) -> list[Any] | None:
    if isinstance(said, dict):
        if "embedding" in said:
            return [said]
        said = next((said[key] for key in ("data", "embeddings", "results") if key in said), None)
    return said if isinstance(said, list) else None


def _input_count(given: object) -> int:
    """How many texts were sent: a string is one, a list of token ids too."""
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1


def _is_openai_embedding(item: object) -> bool:
    return isinstance(item, dict) and "index" in item and _is_vector(item.get("embedding"))


def _is_vector(value: object) -> bool:
    """Numbers or base64. Only the first number is looked at: there may be a million of them."""
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and _is_number(value[0])


def _is_finite(vector: Any) -> bool:
    """Say whether a vector holds numbers only, at the speed of `sum`."""
    if isinstance(vector, str):
        return True
    try:
        return math.isfinite(sum(vector))
    except (TypeError, OverflowError):
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mended_embedding(item: object, position: int, call: LanguageCall) -> dict[str, Any]:
    fields = item if isinstance(item, dict) else {"embedding": item}
    vector = fields.get("embedding")
    if isinstance(vector, list) and vector and isinstance(vector[0], list):
        if len(vector) != 1:
            raise _unusable(call, "an embedding for every token: start it with a pooling that gives one for a text")
        vector = vector[0]
    if not _is_vector(vector) or not _is_finite(vector):
        raise _unusable(call, "an embedding that is no list of numbers")
    index = fields.get("index")
    return {"object": "embedding", "index": index if type(index) is int else position, "embedding": vector}


def mended_rerank(said: Any, call: LanguageCall) -> bytes:
    """The contract's shape, best first, `top_n` at most. Raises UpstreamFailed for what holds no ranking."""
    documents: list[Any] = call.body["documents"]
    echo = call.body.get("return_documents") is not False
    ranking = [_ranked(item, documents, call, echo=echo) for item in _rerank_items(said, call)]
    if len({entry["index"] for entry in ranking}) != len(ranking):
        raise _unusable(call, "a ranking that names a document twice")
    ranking.sort(key=lambda entry: (-entry["relevance_score"], entry["index"]))
    answer = {"object": "list", "data": ranking[: call.body.get("top_n")], "model": _model(said, call)}
    usage = said.get("usage") if isinstance(said, dict) else None
    return written(answer | ({"usage": usage} if isinstance(usage, dict) else {}))


def _rerank_items(said: Any, call: LanguageCall) -> list[Any]:
    if isinstance(said, dict):
        said = next((said[key] for key in ("results", "data", "rankings") if key in said), None)
    if not isinstance(said, list):
        raise _unusable(call, "no list of results")
    return said


def _ranked(item: object, documents: list[Any], call: LanguageCall, *, echo: bool) -> dict[str, Any]:
    fields: Mapping[str, Any] = item if isinstance(item, dict) else {}
    index = fields.get("index")
    score = next((fields[key] for key in ("relevance_score", "score", "logit") if key in fields), None)
    if type(index) is not int or not 0 <= index < len(documents):
        raise _unusable(call, "a result whose index is none of the documents")
    if not _is_number(score) or not _is_finite([score]):
        raise _unusable(call, "a result without a score")
    document = documents[index]
    shown = {"document": {"text": document} if isinstance(document, str) else document} if echo else {}
    return {"index": index, "relevance_score": score, **shown}


def _model(said: Any, call: LanguageCall) -> str:
    model = said.get("model") if isinstance(said, dict) else None
    return model if isinstance(model, str) and model else call.model


def written(value: object) -> bytes:
    """Compact JSON of what a backend said; the numbers of its that JSON does not have become null.

    16 MiB of embeddings take 50 ms; `compact_json` holds up everyone else for 300.
    """
    return to_json(value, inf_nan_mode="null")


def unusable(upstream: str, what: str) -> UpstreamFailed:
    return UpstreamFailed(f"{upstream} answered {what}.", upstream=upstream)


def _unusable(call: LanguageCall, what: str) -> UpstreamFailed:
    return unusable(call.backend_class.name, what)
