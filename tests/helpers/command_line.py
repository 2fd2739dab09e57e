"""The command line, called in this process."""

import pytest
from typer.testing import CliRunner, Result

from scantling.__main__ import app
from scantling.common.errors import ScantlingError

SMALL = ["--sequences", "3", "--pricing-sequences", "3", "--length", "32"]


def invoke(*words, columns=None) -> Result:
    """Call a command; what it raised is in the result."""
    env = None if columns is None else {"COLUMNS": str(columns)}
    return CliRunner().invoke(app, [str(word) for word in words], env=env)


def run(*words, columns=None) -> Result:
    """Call a command, and raise what it raised, unless it only exited."""
    result = invoke(*words, columns=columns)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refusal(*words) -> str:
    """Call a command that is refused, and give its message."""
    with pytest.raises(ScantlingError) as caught:
        run(*words)
    return str(caught.value)


def refused(match, *words):
    """Call a command that is refused with a message that matches."""
    with pytest.raises(ScantlingError, match=match):
        run(*words)
