"""A real InvokeAI for tests: its own wheel in an environment of its own, drawing from random weights on a CPU."""

from tests.real.invokeai.build import InvokeAI, ensure_invokeai
from tests.real.invokeai.launch import InvokeAINeverAnswered, RunningInvokeAI, open_invokeai

__all__ = ["InvokeAI", "InvokeAINeverAnswered", "RunningInvokeAI", "ensure_invokeai", "open_invokeai"]
