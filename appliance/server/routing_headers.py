"""Routing headers: where a request went, said in its answer."""

from collections.abc import Mapping
from functools import lru_cache


@lru_cache(512)  # a handful of models, asked for all day; taking a name apart costs more than the look-up
def routing_headers(backend_class: str, model: str | None, reason: str) -> Mapping[str, str]:
    """Contract 1, "Headers out". A model whose name cannot be a header value is left out."""
    headers = {"X-Backend-Used": backend_class, "X-Router-Reason": _header_value(reason)}
    if model and _header_value(model) == model:
        headers["X-Model-Used"] = model
    return headers


def _header_value(text: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
