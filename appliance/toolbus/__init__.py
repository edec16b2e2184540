"""Tool bus: one gate, one record for every tool, whoever calls it."""
