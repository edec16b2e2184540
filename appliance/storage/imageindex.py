"""Image index: which pictures are kept, when each was last used, and which must go. Pure: no disk, no waiting."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

MAX_ITEMS = 20_000  # 6 MB of index, and no directory that takes seconds to list: tiny pictures never fill the cap
TOUCH_INTERVAL_S = 30.0  # last use reaches the disk this often per picture: a restart forgets no more than that


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What is kept now, and what happened since the start."""

    items: int = 0
    bytes: int = 0
    saved: int = 0
    evictions: int = 0
    expired: int = 0
    failures: int = 0
    corrupt: int = 0
    failing: bool = False  # the last attempt to write failed


@dataclass(frozen=True, slots=True)
class Victims:
    """Names to remove: their time is over, others need the room, or the file is not what it was and comes anew."""

    expired: tuple[str, ...]
    evicted: tuple[str, ...]
    replaced: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.expired + self.evicted + self.replaced


@dataclass(slots=True)
class _Entry:
    """A picture. Times are Unix seconds; `touched_at` is the last use that the disk knows."""

    size: int
    used_at: float
    touched_at: float


class ImageIndex:
    """The pictures by name, least recently used first. Times are Unix seconds."""

    def __init__(self, *, ttl_s: float, max_total_bytes: int, max_items: int = MAX_ITEMS) -> None:
        self._ttl_s = ttl_s
        self._max_total_bytes = max_total_bytes
        self._max_items = max_items
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.statistics = StoreStatistics()

    def __repr__(self) -> str:
        return f"<ImageIndex {self.statistics.items} items, {self.statistics.bytes}/{self._max_total_bytes} bytes>"

    def has_fresh(self, name: str, now: float) -> bool:
        """Say whether a picture is kept and not expired."""
        entry = self._entries.get(name)
        return entry is not None and not self._is_expired(entry, now)

    def wants_touch(self, name: str, now: float) -> bool:
        """Say whether it is time to tell the disk of a use."""
        entry = self._entries.get(name)
        return entry is not None and abs(now - entry.touched_at) >= TOUCH_INTERVAL_S

    def choose_victims(self, now: float, incoming: str | None = None, size: int = 0) -> Victims:
        """Name what must go, before a picture of `size` bytes comes in."""
        expired: list[str] = []
        evicted: list[str] = []
        bytes_left, items_left = self.statistics.bytes + size, self.statistics.items + (incoming is not None)
        replaced = (incoming,) if incoming is not None and incoming in self._entries else ()
        for name in replaced:
            bytes_left -= self._entries[name].size
            items_left -= 1
        for name, entry in self._entries.items():
            if name == incoming:
                continue
            if self._is_expired(entry, now):
                expired.append(name)
            elif bytes_left > self._max_total_bytes or items_left > self._max_items:
                evicted.append(name)
            else:
                break  # all that follow were used later
            bytes_left -= entry.size
            items_left -= 1
        return Victims(tuple(expired), tuple(evicted), replaced)

    def forget(self, victims: Victims, removed: Iterable[str]) -> None:
        """Drop those of the victims that are gone from the disk."""
        gone = set(removed)
        for name in gone:
            self.remove(name)
        self.count(expired=len(gone & set(victims.expired)), evictions=len(gone & set(victims.evicted)))

    def add(self, name: str, size: int, used_at: float) -> None:
        """Note a picture that the disk holds now, as the one used last."""
        self.remove(name)
        self._entries[name] = _Entry(size, used_at, used_at)
        self.count(items=1, bytes=size)

    def use(self, name: str, now: float, *, touched: bool) -> None:
        """Note a use; `touched`: the disk knows of it. One that went meanwhile is left alone."""
        entry = self._entries.get(name)
        if entry is None:
            return
        entry.used_at = now
        if touched:
            entry.touched_at = now
        self._entries.move_to_end(name)

    def remove(self, name: str) -> bool:
        """Drop a picture that the disk does not hold any more; False: it was not kept."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self.count(items=-1, bytes=-entry.size)
        return True

    def count(self, **changes: int) -> None:
        """Add to the statistics."""
        changed = {key: getattr(self.statistics, key) + change for key, change in changes.items()}
        self.statistics = replace(self.statistics, **changed)

    def note_write(self, *, failed: bool) -> None:
        """Note how an attempt to write ended."""
        self.statistics = replace(self.statistics, failing=failed)
        self.count(failures=int(failed), saved=int(not failed))

    def _is_expired(self, entry: _Entry, now: float) -> bool:
        return abs(now - entry.used_at) > self._ttl_s  # from the future: the clock was set back since
