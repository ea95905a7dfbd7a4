"""Errors a user may meet, each with its exit code and what to do about it."""

from __future__ import annotations


class SynsentError(Exception):
    """Something that ends the program: what failed, on what, and a hint at the remedy.

    `exit_code` is the process's exit status; `hint` is a sentence, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SynsentError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class NotPermitted(SynsentError):
    """The kernel refuses what the trace needs to this user."""

    exit_code = 3


class NoSource(SynsentError):
    """Nothing on this machine can observe sockets."""

    exit_code = 4


class OutputError(SynsentError):
    """What was asked for could not be written."""

    exit_code = 4


class InputError(SynsentError):
    """Something that was to be read could not be."""

    exit_code = 5


class KubeError(SynsentError):
    """The Kubernetes API, or a container through it, could not be asked."""

    exit_code = 5


class KubeForbidden(KubeError):
    """The API server refuses what was asked to this user."""

    exit_code = 3
