"""Configuration: settings from the environment, and the files that they point to."""
