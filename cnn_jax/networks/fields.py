"""What the fields of a network may be, by their defaults."""

import math
import numbers
from typing import Any


def is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def in_tuples(value: Any) -> Any:
    """Makes tuples of the lists that JSON has: fields of modules must be hashable."""
    if isinstance(value, dict):
        return {key: in_tuples(item) for key, item in value.items()}
    return (tuple(map(in_tuples, value)) if isinstance(value, (list, tuple))
            else value)


def alike(value: Any, default: Any) -> bool:
    """Whether a field may have this value, by the type of its default: an integer may
    stand for a float, which must be finite, and a list for a tuple."""
    if isinstance(default, float):
        return (isinstance(value, numbers.Real) and not isinstance(value, bool)
                and math.isfinite(value))
    if isinstance(default, int) and not isinstance(default, bool):
        return is_integer(value)
    return isinstance(value, (tuple, list) if isinstance(default, tuple)
                      else type(default))
