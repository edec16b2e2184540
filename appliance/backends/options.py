"""Options: the several spellings that clients use for one thing, brought to one value."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.images import ImageOptions

STEPS = ("steps", "num_inference_steps")
GUIDANCE = ("guidance", "guidance_scale", "cfg_scale")
NEGATIVE = ("negative_prompt", "negative")

_HARMLESS_EXTRAS = frozenset({"user"})


def chosen(options: ImageOptions, names: tuple[str, ...]) -> Any:
    """The one value given under any of these names, None for none. Raises InvalidRequest for two that differ."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if len(set(given.values())) > 1:
        spelled = " and ".join(f"{name} ({value})" for name, value in given.items() if names is not NEGATIVE)
        raise InvalidRequest(
            f"{spelled or ' and '.join(given)} mean the same and differ: send one of them.",
            param=next(iter(given)),
            code="invalid_value",
        )
    return next(iter(given.values()), None)


def present(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Extra fields without the null and the blank: web forms send every field they have."""
    return {key: value for key, value in extra.items() if value is not None and not _is_blank(value)}


def refuse_unknown(extra: Mapping[str, Any]) -> None:
    """For servers that would run what they like: raises InvalidRequest for any extra field but the harmless."""
    for name in present(extra):
        if name not in _HARMLESS_EXTRAS:
            raise InvalidRequest(
                f"{name} cannot be honoured by this image server: leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()
