"""InvokeAI's names: a sampler and a scheduler as other servers call them, brought to the one name it has for both.

A name that is none of these goes to the server as it is: it knows what it has, and refuses with the list.
"""

from collections.abc import Mapping

DEFAULT = "euler"  # the denoise node's own

_KARRAS = "karras"
_KARRAS_SUFFIX = "_k"
_PLAIN = frozenset({"automatic", "normal"})  # A1111's and ComfyUI's word for no schedule in particular

# A1111's on the left of these lines, then ComfyUI's; what differs in spelling alone is not here.
_ALIASES: Mapping[str, str] = {
    "dpm2": "kdpm_2",
    "dpm2_a": "kdpm_2_a",
    "dpmpp_2s_a": "dpmpp_2s",
    "plms": "pndm",
    "euler_ancestral": "euler_a",
    "dpm_2": "kdpm_2",
    "dpm_2_ancestral": "kdpm_2_a",
    "dpmpp_2s_ancestral": "dpmpp_2s",
    "uni_pc": "unipc",
}


def scheduler_of(sampler: str | None, scheduler: str | None) -> str | None:
    """What `denoise_latents.scheduler` is to be; None where nothing was asked for."""
    if sampler is None and scheduler is None:
        return None
    schedule = _spelled(scheduler or "")
    if sampler is None and schedule not in {*_PLAIN, _KARRAS}:
        return _named(schedule)
    name = _named(_spelled(sampler or DEFAULT))
    if schedule == _KARRAS:
        return name.removesuffix(_KARRAS_SUFFIX) + _KARRAS_SUFFIX
    return name if schedule in {"", *_PLAIN} else f"{name}_{schedule}"


def _named(name: str) -> str:
    """`DPM++ 2M Karras` is one name in older clients."""
    plain = name.removesuffix("_" + _KARRAS)
    return _ALIASES.get(plain, plain) + (_KARRAS_SUFFIX if plain != name else "")


def _spelled(name: str) -> str:
    return "_".join(name.lower().replace("++", "pp").replace("-", " ").split())
