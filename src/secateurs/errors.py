"""Errors: what was asked, what was found, what to do; each knows the exit code of the command line.

To add one: subclass SecateursError and give it one of the documented exit codes.
"""


class SecateursError(Exception):
    """Anything that is the input's fault, told in one message without a traceback."""

    exit_code = 2


class RecipeError(SecateursError, ValueError):
    """A recipe, training or experiment that cannot mean anything (exit 2)."""


class PatternError(RecipeError):
    """A unit, pool or budget that does not fit the shape of a weight (exit 2)."""


class ScalingError(RecipeError):
    """A mean and standard deviation that do not belong to the data (exit 2)."""


class InputError(SecateursError):
    """A file, data set or model that is missing, corrupt, foreign or unusable (exit 3)."""

    exit_code = 3


class RanksError(SecateursError, RuntimeError):
    """Processes that train one network and no longer agree on it (exit 3)."""

    exit_code = 3


class OutputError(SecateursError):
    """An output that cannot be written: permissions, disk full (exit 4)."""

    exit_code = 4


class LockedError(SecateursError):
    """An output directory that another process is writing (exit 5)."""

    exit_code = 5


class MissingExtraError(SecateursError, ImportError):
    """An optional dependency that is not installed; the message says which extra to install (exit 2)."""


class CollapseWarning(UserWarning):
    """A layer is about to lose every weight."""


class RequestWarning(UserWarning):
    """What was asked for could only be done in part; the message says where."""
