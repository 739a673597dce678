"""What values the fields of a network may have, judged by their defaults."""

import math
import numbers
from typing import Any

from cnn_jax.ops import is_integer


def as_tuples(value: Any) -> Any:
    """Turns lists, which JSON has, into tuples: fields of modules must be hashable."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return (tuple(map(as_tuples, value)) if isinstance(value, (list, tuple))
            else value)


def fits_default(value: Any, default: Any) -> bool:
    """Whether a field may have this value, by the type of its default.

    An integer may stand for a float, which must be finite, and a list for a tuple.
    """
    if isinstance(default, float):
        return (isinstance(value, numbers.Real) and not isinstance(value, bool)
                and math.isfinite(value))
    if isinstance(default, int) and not isinstance(default, bool):
        return is_integer(value)
    return isinstance(value, (tuple, list) if isinstance(default, tuple)
                      else type(default))
