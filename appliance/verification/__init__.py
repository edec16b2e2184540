"""Verification: programs that look at a running gateway from outside. Standard library only."""
