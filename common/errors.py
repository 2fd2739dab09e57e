"""The errors that users meet, as one tree, so that each ``except`` can name the narrow class.

Every message says what was wrong, with the value, and how to mend it.
"""


class ScantlingError(Exception):
    """Base of all errors that scantling raises on purpose."""


class InputError(ScantlingError):
    """A flag, an argument, a rule or a combination of them makes no sense."""


class FileFormatError(InputError):
    """A file is missing, damaged, of another version, or of another kind."""


class StorageError(ScantlingError):
    """A file or folder cannot be written: no space, no permission, or the place is taken."""


class MissingDependencyError(ScantlingError):
    """An optional package or program is not installed; the message names the extra that brings it."""


class UnsupportedModelError(ScantlingError):
    """The model's architecture, weights or tokenizer are outside what scantling handles."""


class CalibrationError(ScantlingError):
    """Nothing sound could be measured: too little text, or activations that are not finite."""


class MissingFigureError(InputError):
    """A prediction needs a number of the hardware, the workload or the model's config that is not known."""


class OutOfRangeError(InputError):
    """A limit, a rate or a sum lies outside what the formats can give or 64-bit integers can hold."""


class SolverError(ScantlingError):
    """A solver failed, or returned something that does not hold."""


class SolverTimeout(SolverError):  # noqa: N818 - the field's word, beside SolverError
    """No plan was found within the time limit; one may exist."""


class EngineError(ScantlingError):
    """An inference engine refused a checkpoint or failed on it."""
