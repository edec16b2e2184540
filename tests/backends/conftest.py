"""Fixtures of the backend tests."""

from tests.fakes.clock import loopback_clock

__all__ = ["loopback_clock"]
