"""Tool calls of a chat stream: which call a piece belongs to, whatever numbers and ids the server gives it."""

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.protocol.canonical import compact_json
from appliance.protocol.ids import NewId
from appliance.protocol.responses_items import CallItem


class Call:
    """A call as it comes: it becomes an output item once its name is known; arguments before that are kept."""

    def __init__(self, given_id: str) -> None:
        self.given_id = given_id
        self.name = ""
        self.pending = ""
        self.item: CallItem | None = None


class Calls:
    """Every call of one answer, in the order of their first pieces."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._all: list[Call] = []
        self._latest: dict[int | None, Call] = {}
        self._used_ids: set[str] = set()

    def take(self, entry: Mapping[str, Any]) -> tuple[Call, str]:
        """The call that a piece belongs to, and the arguments in it.

        Pieces are numbered by `index`. Seen beside that: every call numbered 0 with an id of its own, no numbers at
        all, the name repeated in every piece, arguments as an object.
        """
        function = entry.get("function")
        function = function if isinstance(function, Mapping) else {}
        name = _string(function.get("name"))
        call = self._find(entry.get("index"), _string(entry.get("id")), name)
        call.name = call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            return call, compact_json(arguments).decode()
        return call, _string(arguments)

    def _find(self, number: object, given_id: str, name: str) -> Call:
        index = number if isinstance(number, int) else None
        call = self._latest.get(index)
        is_other = call is not None and bool(given_id and call.given_id) and given_id != call.given_id
        is_next = call is not None and index is None and not given_id and bool(name and call.name)
        if call is None or is_other or is_next:
            call = Call(given_id)
            self._latest[index] = call
            self._all.append(call)
        call.given_id = call.given_id or given_id
        return call

    def call_id(self, call: Call) -> str:
        """The id by which the client answers this call: the server's, unless it gave none or gave it twice."""
        chosen = call.given_id
        if not chosen.strip() or chosen in self._used_ids:
            chosen = self._new_id("toolcall")
        self._used_ids.add(chosen)
        return chosen

    def unnamed(self) -> Iterator[Call]:
        """Calls that say something and never became items."""
        return (call for call in self._all if call.item is None and call.pending)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
