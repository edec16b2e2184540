"""A1111's `shared.state`, as `modules/shared_state.py` has it."""

from dataclasses import dataclass

import trio


@dataclass
class State:
    """A1111's `shared.state`: global, one for all jobs."""

    interrupted: bool = False
    job: str = ""
    job_count: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    time_start: float = 0.0
    id_live_preview: int = 0
    previewed_step: int = 0
    preview: bytes | None = None

    def begin(self, job: str) -> None:
        self.interrupted = False
        self.job = job
        self.job_count = 0
        self.sampling_step = 0
        self.sampling_steps = 0
        self.time_start = trio.current_time()
        self.id_live_preview = self.previewed_step = 0
        self.preview = None

    def end(self) -> None:
        self.job = ""
        self.job_count = 0
