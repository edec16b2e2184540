"""Agents: a loop of model calls and tools whose every run can be shown, verified and forked."""
