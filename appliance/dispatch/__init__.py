"""Dispatch: from a checked request to a backend's answer, in one sequence for every route."""
