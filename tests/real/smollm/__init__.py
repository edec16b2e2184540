"""A real language model for tests: SmolLM2 with 135 million weights, behind llama.cpp's engine."""

from tests.real.smollm.build import SmolLM, ensure_smollm
from tests.real.smollm.launch import RunningSmolLM, open_smollm
from tests.real.venvs import CannotInstall

__all__ = ["CannotInstall", "RunningSmolLM", "SmolLM", "ensure_smollm", "open_smollm"]
