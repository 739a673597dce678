"""Times programs of workers in turn, A B C A B C, so that all meet the same drift."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Program(NamedTuple):
    worker: Any  # a Worker of worker.py
    command: str
    steps: int = 1  # of one run of the command


def time_in_turn(programs: Mapping[str, Program], turn: float, rounds: int,
                 budget: float = 0.0, most: int = 40,
                 before_round: Callable[[], None] = lambda: None
                 ) -> dict[str, list[float]]:
    """Returns the seconds of a step of each program in each round.

    turn: about the seconds of one program in a round.
    budget: seconds for more rounds than `rounds`, up to `most`.
    """
    counts, round_seconds = {}, 0.0
    for name, (worker, command, _) in programs.items():
        # The first call of a program is slower.
        once = min(worker.run(command)["seconds"] for _ in range(2))
        counts[name] = max(1, int(turn / once))
        round_seconds += counts[name] * once
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(max(rounds, min(most, int(budget / round_seconds)))):
        before_round()
        for name, (worker, command, steps) in programs.items():
            times[name].append(worker.run(command, counts[name])["seconds"] / steps)
    return times
