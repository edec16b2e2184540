"""The tool bus: one gate, one executor and one record for every tool, whoever calls it."""
