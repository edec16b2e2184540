"""Fakes: image servers that behave, and misbehave, like the real ones, on loopback sockets inside the test."""

from tests.fakes.a1111 import FakeA1111, open_fake_a1111
from tests.fakes.openai_images import FakeOpenAIImages, open_fake_openai_images

__all__ = ["FakeA1111", "FakeOpenAIImages", "open_fake_a1111", "open_fake_openai_images"]
