"""A real ComfyUI for tests, on the processor alone, drawing from random weights; a process of its own, never bundled."""

from tests.real.comfyui.build import ComfyUI, ensure_comfyui
from tests.real.comfyui.launch import RunningComfyUI, open_comfyui
from tests.real.venvs import CannotInstall

__all__ = ["CannotInstall", "ComfyUI", "RunningComfyUI", "ensure_comfyui", "open_comfyui"]
