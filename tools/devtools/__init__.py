"""What `tools/dev.py` is made of; the standard library only."""
