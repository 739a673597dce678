"""Checks that a value is an integer, as sizes and counts must be."""

import operator
from typing import Any


def integer(value: Any) -> int:
    """Converts a Python or NumPy integer to int; TypeError for a bool and all else."""
    if isinstance(value, bool):
        raise TypeError(f"{value} is not an integer")
    return operator.index(value)


def is_integer(value: Any) -> bool:
    """Tells whether `integer` accepts the value."""
    try:
        integer(value)
    except TypeError:
        return False
    return True
