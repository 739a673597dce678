"""Parses a pickle into plain values. Nothing is imported, called or built.

Python's own unpickler runs instructions that may call any function. Here, the few
instructions that weight files use give a tree of plain values instead, in which a call
is only recorded with its name and arguments. All other instructions are refused, and
so is a name that is not on the caller's list.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple


class Global(NamedTuple):
    """Names a function or class, "module.name"."""

    name: str


@dataclasses.dataclass
class Call:
    """Records a call that was not made, and the state that its result would get."""

    name: str
    arguments: tuple
    state: Any = None


ORDERED_DICT = "collections.OrderedDict"  # becomes a dict, which keeps its order too
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING",
    "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _no_reference(reference: Any) -> Any:
    raise ValueError("its pickle refers to something outside it")


def parse(stream: Any, allowed: Collection[str],
          resolve: Callable[[Any], Any] = _no_reference) -> Any:
    """Parses one pickle, and leaves the stream at its end.

    Args:
        stream: BytesIO or mmap; their `read` does not allocate more bytes than there
            are.
        allowed: the "module.name" of the functions and classes that may be named.
        resolve: returns the value of a reference to something outside the pickle, such
            as a storage of PyTorch.

    Returns:
        None, bool, int, float, str, bytes, `Global`, `Call`, and tuples, lists and
        dicts of them. An OrderedDict becomes a dict; its attributes are left out.

    Raises:
        ValueError, IndexError, TypeError: another instruction or name, or a damaged
            pickle.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}
    argument: Any

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name]:] = [tuple(stack[-_TUPLES[name]:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else pop_to_mark()
            _require(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else pop_to_mark()
            _set_items(_require(stack[-1], dict), zip(items[::2], items[1::2],
                                                      strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ") if name == "GLOBAL" else [stack.pop(-2),
                                                                  stack.pop()]
            stack.append(Global(_allowed(".".join(parts), allowed)))
        elif name == "REDUCE":
            arguments = _require(stack.pop(), tuple)
            stack.append(_call(_require(stack.pop(), Global).name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Call):
                stack[-1].state = state
            else:
                _require(stack[-1], dict)  # attributes of an OrderedDict are dropped
        elif name == "BINPERSID":
            stack.append(resolve(stack.pop()))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it holds the pickle instruction {name}, which weight "
                             "files do not need, so it was not read")
    raise ValueError("its pickle has no end")


def _allowed(name: str, allowed: Collection[str]) -> str:
    if name not in allowed:
        raise ValueError(f"it names {name}, which weights do not need, so it was not "
                         "read; nothing in it was run. Save only the state dict")
    return name


def _call(name: str, arguments: tuple) -> Call | dict:
    """Records a call. An OrderedDict becomes a dict at once, because items follow."""
    if name != ORDERED_DICT:
        return Call(name, arguments)
    mapping: dict = {}
    for pairs in arguments:  # Python 2 gives the items as an argument
        _set_items(mapping, _require(pairs, list))
    return mapping


def _set_items(mapping: dict, items: Iterable) -> None:
    for key, value in items:
        # The hash of tuples within tuples would recurse without a limit.
        mapping[_require(key, str, int)] = value


def _require(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"its pickle uses a {type(value).__name__} as a "
                        f"{kinds[0].__name__}")
    return value
