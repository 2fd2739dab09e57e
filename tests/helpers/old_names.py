"""Files as they were before some of their keys were renamed."""

from collections.abc import Mapping
from typing import Any


def with_old_names(value: Any, renamed: Mapping[str, str]) -> Any:
    """Give keys back the names that they had (current names by old ones), at any depth."""
    if isinstance(value, list):
        return [with_old_names(entry, renamed) for entry in value]
    if not isinstance(value, dict):
        return value
    old = {new: name for name, new in renamed.items()}
    return {old.get(key, key): with_old_names(entry, renamed) for key, entry in value.items()}
