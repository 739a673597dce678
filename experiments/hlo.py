"""Reads from a compiled XLA program what it sends and what it computes in float32.

The text of `compiled.as_text()` has the body of a loop once, so its collectives are
those of one step.
"""

import collections
import math
import re
from typing import NamedTuple

from cnn_jax.training.steps import AUGMENTATION

BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
        "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all",
               "collective-permute", "collective-broadcast")
TRANSFERS = ("infeed", "outfeed")
HOST_MEMORY = "S(5)"  # the memory space of the host in a TPU's layouts
ON_CHIP = "S(1)"      # that of a TPU's on-chip memory
# Instructions that move no data, or whose start is counted.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


class Instruction(NamedTuple):
    """One line of a program: `name = type opcode(operands), attributes`."""

    name: str
    type: str                  # 'f32[8,128]{1,0}', or a tuple '(f32[8]{0}, ...)'
    opcode: str
    operands: tuple[str, ...]  # their names
    attributes: str


def instructions(text: str) -> list[Instruction]:
    """Lists the instructions of all computations of a program."""
    return [made for line in text.splitlines() if (made := instruction(line))]


def instruction(line: str) -> Instruction | None:
    """Parses a line; returns None for a line without an instruction."""
    start = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line)
    if not start:
        return None
    rest = line[start.end():]
    cut = closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:cut], rest[cut:].lstrip()
    opcode = re.match(r"[\w-]+(?=\()", rest)
    if not opcode:
        return None
    end = closing(rest[opcode.end():]) + opcode.end()
    operands = re.findall(r"%([\w.-]+)", rest[opcode.end():end])
    return Instruction(start[1], kind, opcode[0], tuple(operands), rest[end + 1:])


def closing(text: str) -> int:
    """Finds the parenthesis that closes the one at the start of the text."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def size_in_bytes(kind: str) -> int:
    """Adds up the bytes of all arrays of a type."""
    return sum(
        BITS.get(name, 0) // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for name, dims in re.findall(r"(\w+)\[([\d,]*)\]", kind))


def hbm_traffic(text: str) -> int:
    """Counts the bytes that a program moves from and to a TPU's memory (HBM).

    It adds the operands and results of each instruction of the main computation, except
    arrays in on-chip memory. XLA's own count includes those, so it grows with each copy
    to on-chip memory, which makes a program faster. The body of a loop is left out.
    """
    lines = instructions(text[text.rfind("\nENTRY "):])
    types = {line.name: line.type for line in lines}
    total = 0
    for line in lines:
        if line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        kinds = [types.get(name, "") for name in line.operands]
        if line.opcode in ("copy-start", "slice-start"):  # type: its operand too
            copy = line.type.replace(kinds[0], "", 1)
            total += of_hbm(copy) + (size_in_bytes(copy) if of_hbm(kinds[0]) else 0)
        else:
            total += of_hbm(line.type) + sum(map(of_hbm, kinds))
    return total


def of_hbm(kind: str) -> int:
    """Adds up the bytes of the arrays of a type that are not in on-chip memory."""
    arrays = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", kind)
    return sum(size_in_bytes(array) for array in arrays if ON_CHIP not in array)


class Facts(NamedTuple):
    """Counts what a program sends and computes."""

    collectives: dict[str, int]    # {'all-reduce': how many}
    collective_bytes: int          # of their results on a device
    host_transfers: list[str]      # instructions that exchange data with the host
    float32_convolutions: list[str]  # of the network, see `is_float32`


def facts(text: str) -> Facts:
    """Extracts the facts from the text of a compiled program."""
    lines = instructions(text)
    types = {line.name: line.type for line in lines}
    kinds = collections.Counter[str]()
    size, transfers, wide = 0, [], []
    for line in lines:
        opcode = line.opcode.removesuffix("-start")
        if opcode in COLLECTIVES:
            kinds[opcode] += 1
            size += size_in_bytes(line.type)
        if is_transfer(line):
            transfers.append(line.name)
        if is_float32(line, types) and of_network(line):
            wide.append(line.name)
    return Facts(dict(kinds), size, transfers, wide)


def is_float32(line: Instruction, types: dict[str, str]) -> bool:
    """Tells whether a convolution or matrix product computes in float32.

    Its result and an operand are in float32. With a result in bfloat16, a kernel in
    float32 is the compiler's choice: it lets the matrix unit round the kernel.
    """
    return (line.opcode in ("convolution", "dot") and line.type.startswith("f32[")
            and any(types.get(name, "").startswith("f32[") for name in line.operands))


def of_network(line: Instruction) -> bool:
    """Tells whether a convolution or matrix product belongs to the network.

    Augmentation multiplies matrices too, in float32 on purpose. XLA's metadata names
    the source of an instruction.
    """
    source = re.search(r'op_name="([^"]*)"', line.attributes)
    return not source or AUGMENTATION not in source[1]


def is_transfer(line: Instruction) -> bool:
    """Tells whether an instruction exchanges data with the host."""
    return (line.opcode in TRANSFERS or HOST_MEMORY in line.type
            or "is_host_transfer=true" in line.attributes
            or line.opcode == "custom-call" and "callback" in line.attributes)
