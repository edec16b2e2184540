"""Caps: what an alias lets a request ask of its model. Pure."""

from collections.abc import Mapping
from typing import Any

from appliance.config.alias import Alias
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.language import LanguageKind, LanguageRequest, with_body

# The fields by which a kind's answer is bounded, OpenAI's own first. n_predict: llama.cpp's, which beats max_tokens
# there; num_predict: Ollama's. A kind that is missing generates nothing.
_LENGTHS: Mapping[LanguageKind, tuple[str, ...]] = {
    "chat": ("max_tokens", "max_completion_tokens", "n_predict", "num_predict"),
    "completions": ("max_tokens", "n_predict", "num_predict"),
    "responses": ("max_output_tokens", "max_completion_tokens", "n_predict", "num_predict"),
}


def apply_caps(request: LanguageRequest, alias: Alias | None) -> Mapping[str, Any]:
    """The request's body within the alias's caps: `request.body` itself where nothing had to change.

    Raises InvalidRequest for tools where the alias has none.
    """
    if alias is None:
        return request.body
    if request.has_tools and alias.tools is False:
        raise InvalidRequest(
            f"The model {alias.name!r} takes no tools: leave tools out, or choose another model.",
            param="tools" if request.body.get("tools") else "functions",
            code="tools_not_supported",
        )
    body, _ = with_body(request, {**_lengths(request, alias.max_tokens_cap), **_temperature(request, alias)})
    return body


def _lengths(request: LanguageRequest, cap: int | None) -> dict[str, Any]:
    """A request that names no length gets the cap as its length: left out, it would mean "as long as you like"."""
    names = _LENGTHS.get(request.kind, ())
    if cap is None or not names:
        return {}
    given = [name for name in names if request.body.get(name) is not None]
    return {name: _clamped(request.body[name], cap) for name in given} or {names[0]: cap}


def _clamped(value: Any, cap: int) -> int:
    """Dialects write "without end" as -1: only a length of 1 or more is one."""
    return min(value, cap) if isinstance(value, int) and value >= 1 else cap


def _temperature(request: LanguageRequest, alias: Alias) -> dict[str, Any]:
    """One that is not named stays away: the model's own was set by the operator too, and may well be lower."""
    value = request.body.get("temperature")
    if alias.temperature_cap is None or not isinstance(value, int | float) or request.kind not in _LENGTHS:
        return {}
    return {"temperature": min(value, alias.temperature_cap)}
