"""What can go wrong for a user: each kind is one line on stderr and one exit code, without a traceback."""


class VaeJaxError(Exception):
    """An error that its message explains: which setting, what was given, what is allowed."""

    exit_code = 2


class InputError(VaeJaxError):
    """A setting, a name or a data set that cannot be used. Exit code 2."""


class NoExamplesError(InputError):
    """A split for which nothing is held out, and which the data set does not have. Exit code 2."""


class NotFiniteError(VaeJaxError):
    """Training met a loss, gradient or parameter that is not finite. Exit code 3."""

    exit_code = 3


class CheckpointError(VaeJaxError):
    """No checkpoint of the run can be used. Exit code 4."""

    exit_code = 4


class StorageError(VaeJaxError):
    """The file system refused a read or a write. Exit code 5."""

    exit_code = 5


class LostProcessError(VaeJaxError):
    """Another process of the same run has ended, and this one cannot go on without it. Exit code 7."""

    exit_code = 7


class LockedError(VaeJaxError):
    """Another process works in the same run directory. Exit code 6."""

    exit_code = 6
