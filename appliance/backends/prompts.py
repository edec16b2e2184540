"""Prompts: what must not ride inside them to a server that would obey."""

import re

_TAG = re.compile(r"<(/?)sd_cpp_extra_args>", re.IGNORECASE)


def strip_extra_args(prompt: str) -> str:
    """Take out `<sd_cpp_extra_args>{...}</sd_cpp_extra_args>`, which stable-diffusion.cpp's server reads as arguments.

    A blank takes its place, so that removing one block never joins the halves of another.
    """
    kept = []
    at = 0
    tags = list(_TAG.finditer(prompt))
    for tag in tags:
        if tag.start() < at:
            continue
        kept.append(prompt[at : tag.start()])
        at = tag.end()
        if not tag.group(1):
            at = next((close.end() for close in tags if close.group(1) and close.start() >= at), at)
    kept.append(prompt[at:])
    return " ".join(kept).strip() if tags else prompt
