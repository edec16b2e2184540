"""Clients of others, each in an environment of its own: their pins, and the programs that are run in them."""
