"""The image store against a model: any order of saving, loading, waiting, sweeping, damage, full disks and restarts."""

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.protocol.errors import StorageFull
from appliance.storage.imageindex import TOUCH_INTERVAL_S
from appliance.storage.images import ImageStore
from tests.storage.support import TTL_S, Clock, Disk, assert_consistent, make_store, picture, sha256_of

T = TypeVar("T")
MAX_TOTAL_BYTES = 450
SEEDS = st.integers(0, 6)


def size_of(seed: int) -> int:
    return 100 + 10 * seed


class ImageStoreMachine(RuleBasedStateMachine):
    """The model: names in order of use, with the time of the last use."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock, self.disk = Clock(), Disk()
        self.store = self._make()
        self.used_at: OrderedDict[int, float] = OrderedDict()
        self.damaged: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def _make(self) -> ImageStore:
        return make_store(self.directory, self.clock, max_total_bytes=MAX_TOTAL_BYTES, disk=self.disk)

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        return trio.run(call)

    def _fresh(self, seed: int) -> bool:
        return seed in self.used_at and self.clock.time_s - self.used_at[seed] <= TTL_S

    def _use(self, seed: int) -> None:
        self.used_at[seed] = self.clock.time_s
        self.used_at.move_to_end(seed)

    def _drop_expired(self) -> None:
        for seed in [seed for seed in self.used_at if not self._fresh(seed)]:
            self._drop(seed)

    def _drop(self, seed: int) -> None:
        del self.used_at[seed]
        self.damaged.discard(seed)

    @rule(seed=SEEDS)
    def save(self, seed: int) -> None:
        self.clock.time_s += 1  # no two uses at the same time: their order is the disk's to remember
        kept = self._fresh(seed)
        if not kept:
            self._drop_expired()
            while sum(map(size_of, self.used_at)) + size_of(seed) > MAX_TOTAL_BYTES:
                self._drop(next(iter(self.used_at)))
        try:
            self._run(lambda: self.store.save(picture(seed, size_of(seed))))
        except StorageFull:
            assert self.disk.error is not None
            assert not kept
            return
        assert kept or self.disk.error is None
        self._use(seed)

    @rule(seed=SEEDS)
    def load(self, seed: int) -> None:
        self.clock.time_s += 1
        data = self._run(lambda: self.store.load(sha256_of(picture(seed, size_of(seed))), "png"))
        if not self._fresh(seed):
            assert data is None
        elif seed in self.damaged:
            assert data is None
            self._drop(seed)
        else:
            assert data == picture(seed, size_of(seed)).data
            self._use(seed)

    @rule()
    def sweep(self) -> None:
        self._run(self.store.sweep)
        self._drop_expired()

    @rule(seconds=st.sampled_from([1, 29, 31, 300, TTL_S - 1, TTL_S + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.time_s += seconds

    @rule(full=st.booleans())
    def fill_or_free_the_disk(self, full: bool) -> None:
        self.disk.fill() if full else self.disk.free()

    @rule(seed=SEEDS)
    def flip_a_bit(self, seed: int) -> None:
        path = self.directory / f"{sha256_of(picture(seed, size_of(seed)))}.png"
        if seed in self.used_at and seed not in self.damaged:
            mtime = path.stat().st_mtime
            path.write_bytes(b"!" + path.read_bytes()[1:])
            imitate_mtime(path, mtime)
            self.damaged.add(seed)

    @rule()
    def restart(self) -> None:
        """The disk knows the last use to within TOUCH_INTERVAL_S: the model takes over what it knows."""
        self.store = self._make()
        self._run(self.store.scan)
        for seed, used_at in self.used_at.items():
            known = (self.directory / f"{sha256_of(picture(seed, size_of(seed)))}.png").stat().st_mtime
            assert used_at - TOUCH_INTERVAL_S < known <= used_at
            self.used_at[seed] = known
        self.used_at = OrderedDict(sorted(self.used_at.items(), key=lambda item: item[1]))

    @invariant()
    def index_disk_and_model_agree(self) -> None:
        assert_consistent(self.store, self.directory)
        assert self.store.statistics().items == len(self.used_at)
        assert self.store.statistics().bytes == sum(map(size_of, self.used_at)) <= MAX_TOTAL_BYTES


def imitate_mtime(path: Path, mtime: float) -> None:
    os.utime(path, (mtime, mtime))


ImageStoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestImageStore = ImageStoreMachine.TestCase
