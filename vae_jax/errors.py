"""Errors that a user can cause or meet. The command line prints each as one line on stderr, with an exit code."""


class VaeJaxError(Exception):
    """An error whose message is one line: which setting, what is wrong with its value, and what to do.

    Attributes:
      exit_code: exit code of the command line.
    """

    exit_code = 2


class InputError(VaeJaxError):
    """A setting, a name or a data set that cannot be used. Exit code 2."""


class NoExamplesError(InputError):
    """A split that the data set does not have, and for which no training examples are held out. Exit code 2."""


class NotFiniteError(VaeJaxError):
    """A loss, gradient or parameter that is not finite during training. Exit code 3."""

    exit_code = 3


class CheckpointError(VaeJaxError):
    """A run without a checkpoint that can be used. Exit code 4."""

    exit_code = 4


class StorageError(VaeJaxError):
    """A read or write that the file system refused. Exit code 5."""

    exit_code = 5


class LockedError(VaeJaxError):
    """A run directory in which another process is working. Exit code 6."""

    exit_code = 6


class LostProcessError(VaeJaxError):
    """The end of another process of the same run, without which this process cannot continue. Exit code 7."""

    exit_code = 7
