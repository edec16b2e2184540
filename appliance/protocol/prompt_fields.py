"""The fields of requests that have texts instead of messages: completions, embeddings, rerank."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.chat_fields import MAX_TOKENS_LIMIT, SAMPLING, check_stream_options
from appliance.protocol.fields import (
    Check,
    boolean,
    check_fields,
    check_length,
    integer,
    json_object,
    list_of,
    non_empty_string,
    one_of,
    required,
    string,
    wrong_type,
)

MAX_INPUTS = 2048

_token = integer(0, 2**31 - 1)
_tokens = list_of(_token, lowest=1)


def check_completions(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/completions`. Raises InvalidRequest."""
    _texts(required(body, "prompt"), "prompt", string)
    check_fields(body, _COMPLETIONS)
    check_stream_options(body)


def check_embeddings(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/embeddings`. Raises InvalidRequest."""
    _texts(required(body, "input"), "input", non_empty_string)
    check_fields(body, _EMBEDDINGS)


def check_rerank(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/rerank`. Raises InvalidRequest."""
    non_empty_string(required(body, "query"), "query")
    list_of(_document, lowest=1, highest=MAX_INPUTS)(required(body, "documents"), "documents")
    check_fields(body, _RERANK)


def _texts(value: Any, param: str, check_text: Check) -> None:
    """A string, strings, tokens, or lists of tokens; what the first entry is, all are."""
    if isinstance(value, str):
        check_text(value, param)
        return
    if not isinstance(value, list):
        raise wrong_type(param, "a string, or an array of strings or tokens", value)
    check_length(value, param, lowest=1)
    if isinstance(value[0], int):
        _tokens(value, param)
        return
    check = _tokens if isinstance(value[0], list) else check_text
    list_of(check, highest=MAX_INPUTS)(value, param)


def _document(value: Any, param: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, dict):
        raise wrong_type(param, "a string or an object with 'text'", value)
    string(required(value, "text", param), f"{param}.text")


_COMPLETIONS: Mapping[str, Check] = {
    **SAMPLING,
    "max_tokens": integer(0, MAX_TOKENS_LIMIT),  # 0: score the prompt, with `echo`
    "best_of": integer(1, 128),
    "logprobs": integer(0, 20),
    "echo": boolean,
    "suffix": string,
}

_EMBEDDINGS: Mapping[str, Check] = {
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1, 2**31 - 1),
    "user": string,
}

_RERANK: Mapping[str, Check] = {
    "top_n": integer(1, 2**31 - 1),
    "return_documents": boolean,
    "metadata": json_object,
}
