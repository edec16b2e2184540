"""Backends: one file a provider, and the registry."""
