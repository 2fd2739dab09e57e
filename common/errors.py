"""The errors that users meet: one tree, so that each catch can take the narrow one.

Every message says what was wrong, with the value, and what to do about it.
"""


class ScantlingError(Exception):
    """Anything that scantling refuses or fails at, said in words; the base of all others."""


class InputError(ScantlingError):
    """A flag, an argument, a rule or a combination of them makes no sense."""


class FileFormatError(InputError):
    """A file is missing, damaged, of another version, or not what it should be."""


class StorageError(ScantlingError):
    """A file or folder cannot be written: no room, no permission, or something is there already."""


class MissingDependencyError(ScantlingError):
    """An optional package or program is not installed; the message names the extra that brings it."""


class UnsupportedModelError(ScantlingError):
    """The model's architecture, weights or tokenizer are outside what scantling handles."""


class CalibrationError(ScantlingError):
    """Nothing sound could be measured: too little text, or activations that are not finite."""


class MissingFigureError(InputError):
    """A prediction needs a number of the hardware or the workload that was not given."""


class OutOfRangeError(InputError):
    """A limit or a size lies outside what the profile's formats can give."""


class SolverError(ScantlingError):
    """A solver failed, or returned something that does not hold."""


class SolverTimeout(SolverError):  # noqa: N818
    """No plan was found within the time limit; there may be one."""


class EngineError(ScantlingError):
    """An inference engine refused a checkpoint or failed on it."""
