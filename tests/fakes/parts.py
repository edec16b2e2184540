"""Parts of a gateway that move, hang or refuse as a test says."""

from collections.abc import Awaitable, Callable

import trio


class Parts:
    """Two of them, `first` and `second`, and who feeds and logs. `second`: moves, hangs or refuses."""

    def __init__(self) -> None:
        self.second = "moves"
        self.fed = 0
        self.logged: list[tuple[str, object]] = []

    def feed(self) -> None:
        self.fed += 1

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields.get("part")))

    def checks(self) -> dict[str, Callable[[], Awaitable[bool]]]:
        return {"first": self._first, "second": self._second}

    async def _first(self) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def _second(self) -> bool:
        if self.second == "hangs":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.second == "moves"
