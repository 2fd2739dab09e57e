"""The one exception that users meet.

Knows nothing about its causes.
"""


class ScantlingError(Exception):
    """A request that cannot be met. The message says what was wrong, the value, and the mend."""
