"""Server: the only room that knows hypercorn."""
