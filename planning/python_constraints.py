"""A user's own Python that adds to a program; run only where a flag names it.

Knows nothing about what it adds.
"""

import importlib.util
import traceback
from pathlib import Path

from ..common.errors import InputError, ScantlingError
from .program import Program


def run_constraints_py(program: Program, spelled: str) -> Program:
    """Call ``FUNCTION(program)`` of a Python file.

    Args:
        program: the program so far.
        spelled: ``FILE:FUNCTION``.

    Returns:
        What the function returns, a program.

    Raises:
        InputError: there is no such file or function, it raises, or it returns no program.
        ScantlingError: raised by the function itself.
    """
    file_name, _, function_name = spelled.rpartition(":")
    path = Path(file_name)
    if not file_name or not function_name.isidentifier():
        raise InputError(f"--constraints-py {spelled}: write FILE:FUNCTION, such as mine.py:add_rows.")
    if not path.is_file():
        raise InputError(f"--constraints-py {spelled}: there is no file {file_name}.")
    spec = importlib.util.spec_from_file_location("scantling_constraints_py", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--constraints-py {spelled}: {file_name} is no Python file. Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise InputError(f"--constraints-py {spelled}: {file_name} has no function {function_name}.")
        changed = function(program)
    except ScantlingError:
        raise
    except Exception as error:  # whatever a user's own code raises
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise InputError(
            f"--constraints-py {spelled}: {type(error).__name__} in line {line}: {error}. Correct the function."
        ) from error
    if not isinstance(changed, Program):
        raise InputError(
            f"--constraints-py {spelled}: {function_name} returned {type(changed).__name__}, not a program. A program "
            "never changes: return what its methods give, as in: return program.row(…)."
        )
    return changed
