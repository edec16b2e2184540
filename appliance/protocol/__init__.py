"""Sans-IO: what goes over the wire, and what it means. No trio, no sockets, no files."""
