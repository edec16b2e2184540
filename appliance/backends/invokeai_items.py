"""InvokeAI's queue items: what is read of one, and nothing else of it reaches a client."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from appliance.backends.invokeai_graph import PICTURE
from appliance.backends.invokeai_pictures import image_name

_TERMINAL = frozenset({"completed", "failed", "canceled"})
_ERROR_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}")  # the name of a Python class


@dataclass(frozen=True, slots=True)
class Item:
    """`picture`: the result, once it is completed; `images`: all that its nodes left, told when the worker has left it.

    `begun`: the worker had it. `error_type`: of one that failed.
    """

    status: str
    picture: str | None = None
    images: tuple[str, ...] = ()
    begun: bool = False
    error_type: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in _TERMINAL


def read_item(said: dict[str, Any]) -> Item:
    """Messages and tracebacks hold the server's paths: only the name of an error's class is taken."""
    results = _results(said)
    error_type = said.get("error_type")
    known = isinstance(error_type, str) and _ERROR_TYPE.fullmatch(error_type)
    return Item(
        status=str(said.get("status")),
        picture=_image(results.get(_prepared(said))),
        begun=said.get("started_at") is not None,
        images=tuple(name for result in results.values() if (name := _image(result)) is not None),
        error_type=str(error_type) if known else None,
    )


def read_items(body: bytes) -> tuple[Item, ...]:
    """Those of a list; none where it is none."""
    try:
        said = from_json(body)
    except ValueError:
        return ()
    return tuple(read_item(each) for each in said if isinstance(each, dict)) if isinstance(said, list) else ()


def read_item_ids(said: dict[str, Any]) -> tuple[int, ...]:
    """In the order of the batch's data: the server gives the newest first."""
    ids = said.get("item_ids")
    return tuple(sorted(each for each in ids if type(each) is int)) if isinstance(ids, list) else ()


def is_elsewhere(said: dict[str, Any]) -> bool:
    """Of a queue's status, when none of our items is in progress: whether the worker has done with them all.

    `in_progress` counts other people's too, whose ids a plain user is not told.
    """
    processor, queue = said.get("processor"), said.get("queue")
    if not isinstance(processor, dict) or not isinstance(queue, dict):
        return False
    running = queue.get("in_progress")
    return processor.get("is_processing") is False or (isinstance(running, int) and running > 0)


def _results(said: dict[str, Any]) -> dict[str, Any]:
    session = said.get("session")
    results = session.get("results") if isinstance(session, dict) else None
    return results if isinstance(results, dict) else {}


def _prepared(said: dict[str, Any]) -> str:
    """Results go by the ids of a graph that was prepared from ours."""
    session = said.get("session")
    mapping = session.get("source_prepared_mapping") if isinstance(session, dict) else None
    prepared = mapping.get(PICTURE) if isinstance(mapping, dict) else None
    return str(prepared[0]) if isinstance(prepared, list) and prepared else ""


def _image(result: object) -> str | None:
    image = result.get("image") if isinstance(result, dict) else None
    return image_name(image) if isinstance(image, dict) else None
