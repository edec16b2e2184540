"""An allocator for tests of who needs its memory kept."""

import trio


class AllocatorRecorder:
    """An allocator that only remembers what it was told."""

    def __init__(self) -> None:
        self.kept = 0
        self.given_back: list[float] = []

    def keep(self) -> None:
        self.kept += 1

    def give_back(self) -> None:
        self.given_back.append(trio.current_time())
