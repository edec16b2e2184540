"""Benches: what the running gateway reaches, measured from outside and printed beside its goal."""
