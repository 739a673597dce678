"""Reads a trace of `jax.profiler`: which operations took how much time."""

import collections
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import msgspec

from cnn_jax.files import read_json, write_json

FOLDER, FILE = "profile", "operations.json"  # in a workdir
MOST = 10  # operations in the table
DEVICES = ("/device:GPU", "/device:TPU")  # starts of the names of their planes


class Operation(msgspec.Struct, frozen=True):
    """Holds the time of an operation of the compiled program, or of a fusion."""

    name: str        # XLA's name, such as 'fusion.12'
    source: str      # layer and primitive, such as 'conv1/conv_general_dilated'
    seconds: float   # in all steps; without the operations inside it
    fraction: float  # of the time of all operations


class Profile(msgspec.Struct, frozen=True):
    """Holds the most expensive operations of some steps."""

    first: int  # step, counted from 0
    stop: int   # the step after the last one
    device: str
    seconds: float  # of all operations, on all devices and threads
    operations: list[Operation]


def read_profile(workdir: Path) -> Profile | None:
    """Reads the table of a run; None if there is none."""
    path = workdir / FOLDER / FILE
    return read_json(path, Profile, "profile the run again") if path.exists() else None


def write_profile(workdir: Path, profile: Profile) -> None:
    write_json(workdir / FOLDER / FILE, profile)


def sources(program: str) -> dict[str, str]:
    """Maps the names of operations in a compiled program to their sources."""
    matches = re.finditer(r"^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name=\"([^\"]*)\"",
                          program, re.MULTILINE)
    return {match[1]: short_source(match[2]) for match in matches}


def short_source(path: str) -> str:
    """Shortens 'jit(train)/transpose(jvp(LeNet5))/conv1/mul' to 'conv1/mul, gradient'.
    """
    parts = [part for part in path.split("/")
             if not re.fullmatch(r"jit\(.*\)|while|body|closed_call|(transpose\()?"
                                 r"jvp\(.*\)+|cond|branch_\d+_fun", part)]
    return "/".join(parts) + ", gradient" * ("transpose(" in path)


def trace_folder(workdir: Path) -> Path:
    """Returns the folder of this process's traces; JAX names a trace by its host alone.
    """
    folder = workdir / FOLDER
    return (folder / f"process_{jax.process_index()}" if jax.process_count() > 1
            else folder)


def traces(folder: Path) -> set[Path]:
    """Finds the traces in a folder, those of earlier runs included."""
    return {*folder.rglob("*.xplane.pb")}


def read_trace(path: Path) -> dict[str, float]:
    """Returns {operation: seconds} of a trace.

    It sums over devices, or over the threads of a CPU. The time of an operation does
    not include that of operations inside it, such as the body of a loop. If there is a
    GPU, the host's events are left out, because they only launch the operations.
    """
    seconds: dict[str, float] = collections.defaultdict(float)
    planes = [*jax.profiler.ProfileData.from_file(str(path)).planes]
    devices = [plane for plane in planes if plane.name.startswith(DEVICES)]
    for plane in devices or planes:
        for line in plane.lines:
            events = [(event.start_ns, event.duration_ns, name)
                      for event in line.events
                      if (name := operation(plane.name, line.name, event))]
            for name, nanoseconds in self_time(events):
                seconds[name] += nanoseconds / 1e9
    return dict(seconds)


def operation(plane: str, line: str, event: "jax.profiler.ProfileEvent") -> str:
    """Names the operation of an event; '' if it is something else."""
    if (name := dict(event.stats).get("hlo_op")) is not None:
        return str(name)
    if plane.startswith("/device:TPU") and line == "XLA Ops":
        return event.name.partition(" = ")[0].lstrip("%")
    return ""


def self_time(events: Iterable[tuple[float, float, str]]
             ) -> Iterable[tuple[str, float]]:
    """Yields (name, duration without the events inside) of each event.

    events: (start, duration, name). Two of them are either nested or disjoint.
    """
    open_events: list[list] = []  # [end, name, self time], the outer ones first
    for start, duration, name in sorted(events, key=lambda event: (event[0],
                                                                   -event[1])):
        while open_events and open_events[-1][0] <= start:
            _, ended, self_duration = open_events.pop()
            yield ended, self_duration
        if open_events:
            open_events[-1][2] -= duration
        open_events.append([start + duration, name, duration])
    for _, ended, self_duration in reversed(open_events):
        yield ended, self_duration


def make_profile(seconds: Mapping[str, float], names: Mapping[str, str], first: int,
                 stop: int, device: str) -> Profile:
    """Makes the table of the most expensive operations."""
    total = sum(seconds.values())
    most = sorted(seconds, key=lambda name: -seconds[name])[:MOST]
    return Profile(first, stop, device, total, [
        Operation(name, names.get(name, ""), seconds[name], seconds[name] / total)
        for name in most])


def rows(profile: Profile) -> list[tuple[str, str, str, str]]:
    """Formats (operation, source, ms per step, fraction) of each operation."""
    steps = profile.stop - profile.first
    return [(row.name, row.source, f"{1e3 * row.seconds / steps:.3f}",
             f"{row.fraction:.1%}") for row in profile.operations]


def text(profile: Profile) -> str:
    """Formats the table for the terminal."""
    head = ("operation", "source", "ms per step", "fraction")
    body = [head, *rows(profile)]
    widths = [max(len(row[i]) for row in body) for i in range(2)]
    return "\n".join([title(profile), *(
        f"{name:<{widths[0]}}  {source:<{widths[1]}}  {cost:>11}  {fraction:>8}"
        for name, source, cost, fraction in body)])


def title(profile: Profile) -> str:
    """Says what the table shows."""
    return (f"The most expensive operations in steps {profile.first} to "
            f"{profile.stop - 1} on {profile.device}; ms summed over the devices and "
            "threads of a process")
