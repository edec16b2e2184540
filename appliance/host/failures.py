"""Failures of commands that change the machine: what went wrong, what to do, and the exit code of sysexits(3)."""

import enum


class Exit(enum.IntEnum):
    """The codes that these commands end with."""

    DATA = 65  # the file that was given is not good
    UNAVAILABLE = 69  # something that is needed is not there: systemd, a free port
    SOFTWARE = 70  # the release does not run here; the box is as it was
    CANNOT_CREATE = 73
    IO = 74  # a full or failing disk
    TRY_LATER = 75  # another one is at work
    NO_PERMISSION = 77
    CONFIGURATION = 78


class HostFailure(Exception):
    """A command that changed nothing, or took back what it had changed. The message says what to do."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code
