"""Admission: who may use a backend class right now."""
