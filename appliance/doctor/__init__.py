"""The doctor: is this box well, and what is to be done where it is not. One file a check, and the registry."""
