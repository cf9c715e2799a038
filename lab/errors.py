"""The errors of the lab, each with the exit status that the command reports.

0 done, 1 failed, 2 wrong usage, 3 no such lab or node, 4 lab busy or already there,
5 this machine lacks something, 130 interrupted.
"""


class LabError(Exception):
    """Base of all errors of this package; the message is fit for an operator."""

    exit_status = 1


class UsageError(LabError):
    """A value given by the operator cannot be used."""

    exit_status = 2


class NotFoundError(LabError):
    """The named lab or node does not exist."""

    exit_status = 3


class BusyError(LabError):
    """Another command works on this lab, or the lab is already there."""

    exit_status = 4


class PrerequisiteError(LabError):
    """This machine lacks something that the lab needs."""

    exit_status = 5
