"""A real image server for tests: stable-diffusion.cpp's, built from its sdist, drawing from random weights."""

from tests.real.sdserver.build import CannotBuild, SdServer, ensure_sd_server
from tests.real.sdserver.launch import RunningSdServer, ServerNeverAnswered, open_sd_server

__all__ = ["CannotBuild", "RunningSdServer", "SdServer", "ServerNeverAnswered", "ensure_sd_server", "open_sd_server"]
