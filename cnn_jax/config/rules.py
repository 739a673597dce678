"""Rules: what the value of one config field may be."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax.user_code import is_reference


MONITORS = ("accuracy", "loss", "val_accuracy", "val_loss")


class Rule(NamedTuple):
    """Tests a value, and describes the values that pass."""

    holds: Callable[[Any], bool]
    allowed: str
    kind: type = object           # the type of the values that pass
    names: tuple[str, ...] = ()   # all values that pass, if these are names


def integer(low: int, high: int = 2**31 - 1) -> Rule:
    """Allows a whole number from `low` to `high`."""
    def holds(value: Any) -> bool:
        return (isinstance(value, int) and not isinstance(value, bool)
                and low <= value <= high)
    return Rule(holds, f"a whole number from {low} to {high}", int)


def number(low: float, high: float = math.inf, open_low: bool = False,
           open_high: bool = False) -> Rule:
    """Allows a finite number in an interval; an open end is excluded."""
    def holds(value: Any) -> bool:
        return (isinstance(value, (int, float)) and not isinstance(value, bool)
                and math.isfinite(value)
                and (low < value if open_low else low <= value)
                and (value < high if open_high else value <= high))
    allowed = f"a finite number {'>' if open_low else '>='} {low:g}"
    if high < math.inf:
        allowed += f" and {'<' if open_high else '<='} {high:g}"
    return Rule(holds, allowed, float)


def one_of(names: Iterable[str]) -> Rule:
    """Allows one of the given names."""
    known = tuple(names)
    return Rule(lambda value: isinstance(value, str) and value in known,
                "one of " + ", ".join(sorted(known)), str, known)


def row_of(table: Mapping[str, Any], form: str = "MODULE:FUNCTION") -> Rule:
    """Allows a name of a table, which may grow, and the user's own MODULE:NAME."""
    def holds(value: Any) -> bool:
        return isinstance(value, str) and (value in table or is_reference(value))
    known = ", ".join(sorted(table))
    return Rule(holds, "one of " * bool(known) + known + ", or " * bool(known)
                + f"{form} of your own", str, tuple(table))


def sequence(item: Rule, length: int | None = None) -> Rule:
    """Allows a tuple whose items all follow one rule, of `length` items if given."""
    def holds(value: Any) -> bool:
        return (isinstance(value, (tuple, list))
                and len(value) == (len(value) if length is None else length)
                and all(map(item.holds, value)))
    count = "some" if length is None else length
    return Rule(holds, f"a tuple of {count} items, each {item.allowed}", tuple)


def interval(item: Rule) -> Rule:
    """Allows a tuple (low, high) with low <= high, both as `item` allows."""
    pair = sequence(item, 2)
    return Rule(lambda value: pair.holds(value) and value[0] <= value[1],
                f"a tuple (low, high) with low <= high, each {item.allowed}", tuple)


def optional(rule: Rule) -> Rule:
    """Allows the values of a rule, and None, which means "not set"."""
    return Rule(lambda value: value is None or rule.holds(value),
                f"{rule.allowed}, or None", rule.kind, rule.names)


def is_coordinator(value: Any) -> bool:
    """Tells whether a value is 'auto' or 'host:port'."""
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    return value == "auto" or (
        bool(host) and port.isdecimal() and 0 < int(port) < 65536)


boolean = Rule(lambda value: isinstance(value, bool), "true or false", bool)
text = Rule(lambda value: isinstance(value, str) and value != "",
            "a string that is not empty", str)
fraction = number(0, 1, open_high=True)
monitor = Rule(lambda value: isinstance(value, str) and (
                   value in MONITORS or value.startswith("val_")),
               "one of " + ", ".join(MONITORS) + ", or val_NAME of a metric of the "
               "task or of eval.metrics", str)
image_channels = Rule(lambda value: integer(1).holds(value) and value in (1, 3),
                      "1 (grey) or 3 (colour)", int)
coordinator = Rule(is_coordinator, "'auto' or 'host:port'", str)
norm_groups = Rule(
    lambda value: isinstance(value, str) and (
        value in ("all", "device") or value.isdecimal() and int(value) > 1),
    "'all', 'device', or a number of images from '2'", str)
mapping = Rule(lambda value: isinstance(value, Mapping | ConfigDict),
               "a mapping of names to values")
