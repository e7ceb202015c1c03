"""Errors for people: one line that says what, where, what was got, and what to do.

Anything that is not a `DistillError` is a bug and keeps its traceback.
"""


class DistillError(Exception):
    """A fault the user can mend. The CLI prints its text and exits with `exit_code`."""

    exit_code = 1


class ConfigError(DistillError):
    """A wrong command or experiment file; nothing was run."""

    exit_code = 2


class MissingExtra(DistillError):
    """An optional package is not installed; the text names the install line."""

    exit_code = 2


class Busy(DistillError):
    """Another process is writing the same stage."""


class ThresholdMissed(DistillError):
    """The work finished, but a stated bound was missed (an export proof, too many ungraded answers)."""

    exit_code = 3
