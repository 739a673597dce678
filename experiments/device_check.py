"""Does everything work on this GPU, and how fast? One command, 8 minutes at most.

    python experiments/device_check.py                          on a GPU
    python experiments/device_check.py --small --minutes=30     made small, on a CPU

Made small, it took 148 s and 779 s on two cores that were busy with other work.

operations   every operation and its gradients, compared with float64 on the CPU
networks     a training step of every registered network, compared with the CPU
training     LeNet-5 on digits: its accuracy; stop, kill and resume; the same seed
             again; with and without --xla_gpu_deterministic_ops: which bits agree
speed        images/s of training in bfloat16 and peak memory, compared with plain
             Flax and, where it is installed, torch (eager and torch.compile,
             channels_last)

It needs no internet connection. It writes device_check.json and device_check.txt to
--out. The exit code is 1 if a check fails. Each part has a share of --minutes
(SHARES). What has not finished by then is stopped and listed as not reached; that is no
failure, nor is a speed below its target, nor are other bits on a GPU. The processes
that are compared share the memory of the GPU: ResNet-50 with 256 images needs about
80 GB. An arm without enough memory is listed as such; that is no failure either.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


def with_cpu(platforms: str) -> str:
    """Adds the CPU to JAX_PLATFORMS; the device is compared with it. '' means all."""
    return platforms + ",cpu" * bool(
        platforms and "cpu" not in platforms.split(","))


if __name__ == "__main__":  # GPU memory is shared with the other processes
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "JAX_PLATFORMS" in os.environ:
        os.environ["JAX_PLATFORMS"] = with_cpu(os.environ["JAX_PLATFORMS"])

import jax  # noqa: E402

from cnn_jax import networks as registry  # noqa: E402
from cnn_jax.errors import InputError, RunError, first_line  # noqa: E402
from experiments.arms.worker import in_one_line  # noqa: E402
from experiments.device import networks, operations, speed, training  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402

Row = dict[str, Any]
PARTS = ("operations", "networks", "training", "speed")
SHARES = {"operations": 0.15, "networks": 0.2, "training": 0.25, "speed": 0.4}
STATES = ("ok", "WRONG", "not reached", "does not fit")  # into the memory
MOST_WORKERS = 8  # a GPU has memory for so many processes
SMALL_OPERATIONS = ("conv lax", "depthwise", "batch_norm", "max_pool lax", "dense")
SMALL_NETWORKS = ("lenet5", "mobilenet_v2", "cifar_resnet20")


def attempt(check: Callable[..., Row], name: str, *arguments: Any) -> Row:
    """Runs a check on this process's first device; an error is a row that is wrong."""
    begun = time.perf_counter()
    try:
        row = check(name, *arguments, jax.devices()[0])
    except Exception as error:  # the other checks go on, and the exit code is 1
        text = in_one_line(error)
        fits = not speed.no_memory(text)
        row = {"name": name, "wrong": text * fits, "does_not_fit": not fits}
    return row | {"seconds": time.perf_counter() - begun}


def in_parallel(check: Callable[..., Row], problems: list[tuple], workers: int,
                deadline: float) -> Iterator[Row]:
    """Yields a row for each problem, those that the deadline leaves out included.

    Each of several workers has its own process, so one that ends breaks one row. With
    one worker the checks run in this process, and the last one to its end.
    """
    if workers == 1:
        for problem in problems:
            yield (attempt(check, *problem) if time.monotonic() < deadline
                   else not_reached(problem))
        return
    context = multiprocessing.get_context("spawn")
    own = threading.local()  # a process for each thread

    def row(problem: tuple) -> Row:
        if (left := deadline - time.monotonic()) <= 0:
            return not_reached(problem)
        if not hasattr(own, "pool"):
            own.pool = concurrent.futures.ProcessPoolExecutor(1, context)
        try:
            return own.pool.submit(attempt, check, *problem).result(left)
        except TimeoutError:
            return not_reached(problem)
        except concurrent.futures.BrokenExecutor as error:
            del own.pool  # the next problem has a new process
            return {"name": " ".join(map(str, problem)),
                    "wrong": f"its process ended: {error}"}

    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        yield from threads.map(row, problems)
    for process in multiprocessing.active_children():  # they may compile for minutes
        process.kill()


def not_reached(problem: tuple) -> Row:
    return {"name": " ".join(map(str, problem)), "not_reached": True, "wrong": ""}


def operation_rows(small: bool, workers: int, deadline: float) -> Iterable[Row]:
    problems = [(name, shape) for shape in operations.SHAPES[:1 if small else None]
                for name in (SMALL_OPERATIONS if small else operations.names())]
    return in_parallel(operations.check, problems, workers, deadline)


def network_rows(small: bool, workers: int, deadline: float) -> Iterable[Row]:
    groups = networks.shared(SMALL_NETWORKS if small else registry.NETWORKS)
    for row in in_parallel(networks.check, [(name,) for name in groups], workers,
                           deadline):
        yield row | {"name": ", ".join(groups[row["name"]])}


def state(row: Row) -> str:
    """Returns one of STATES."""
    if row["wrong"]:
        return "WRONG"
    if row.get("not_reached"):
        return "not reached"
    return "does not fit" if row.get("does_not_fit") else "ok"


def line(part: str, row: Row) -> str:
    """Formats a row; what is wrong stands first."""
    word = state(row)
    head = f"  {word:<6}" if word in ("WRONG", "ok") else f"  {word}: "
    head += row["name"] + f": {row['wrong']}" * bool(row["wrong"])
    if "errors" in row:
        head = f"{head:<52}" + "   ".join(
            f"{name} {error:.1e}" for name, error in row["errors"].items())
    elif "rounding" in row:
        head += (f"   update {row['error']:.1e} from the CPU's, a changed bit "
                 f"{row['rounding']:.1e}")
    elif "accuracy" in row:
        head += f" {row['accuracy']:.4f}"
    elif "same_bits" in row:
        head += f"   {'the same bits' if row['same_bits'] else 'other bits'}"
    elif "images_per_second" in row:
        head = "\n".join([head, *speed.lines(row)])
    return head


def table(facts: Row) -> str:
    """Formats all parts, with a count of each on top."""
    parts = facts["parts"]
    rows = [(part, row) for part in parts for row in parts[part]]
    states = [state(row) for _, row in rows]
    count = ", ".join(f"{states.count(name)} {name.replace('does', 'do')}"
                      for name in STATES).lower()
    head = [facts["command"], f"{facts['device']}; {facts['machine']}; " + ", ".join(
                f"{name} {number}" for name, number in facts["versions"].items()),
            f"{count} in {facts['seconds']:.0f} s", *facts["notes"]]
    for part in parts:
        head += ["", f"{part} ({facts['part_seconds'][part]:.0f} s)",
                 *(line(part, row) for row in parts[part])]
    return "\n".join(head) + "\n"


def share_until(part: str, asked: Iterable[str]) -> float:
    """Returns the share of the time by which a part ends: its own and those before it.

    What a part leaves is for the next.
    """
    shares = [SHARES[name] * (name in asked) for name in PARTS]
    return sum(shares[:PARTS.index(part) + 1]) / sum(shares)


def rows_of(part: str, flags: argparse.Namespace, workers: int, begun: float,
            backend: str) -> Iterable[Row]:
    """Makes the rows of a part."""
    end = begun + 60 * flags.minutes * share_until(part, flags.part)
    if part == "operations":
        return operation_rows(flags.small, workers, end)
    if part == "networks":
        return network_rows(flags.small, workers, end)
    if part == "training":
        runs = flags.out / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        return training.check(runs, flags.small, must_be_exact=backend == "cpu",
                              deadline=end)
    return speed.check_all(flags.small, backend, end)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true",
                        help="few and small checks, on any device")
    parser.add_argument("--part", nargs="+", default=[*PARTS], metavar="PART",
                        help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=None,
                        help="processes for operations and networks; by default half "
                             f"of the cores, at most {MOST_WORKERS}")
    parser.add_argument("--out", type=Path, default=Path("runs/device_check"))
    flags = parser.parse_args(argv)
    begun = time.monotonic()
    if unknown := {*flags.part} - {*PARTS}:
        raise InputError(f"--part={sorted(unknown)[0]} is not known; there are "
                         f"{', '.join(PARTS)}")
    if flags.minutes <= 0:
        raise InputError(f"--minutes={flags.minutes:g} must be more than 0")
    if flags.workers is not None and flags.workers < 1:
        raise InputError(f"--workers={flags.workers} must be at least 1")
    try:
        backend = jax.default_backend()
    except RuntimeError as error:  # such as JAX_PLATFORMS=cuda without a GPU
        raise InputError(f"JAX finds no device: {first_line(error)}") from error
    asked = os.environ.get("JAX_PLATFORMS", "").partition(",")[0]
    if backend == "cpu" and asked not in ("", "cpu"):
        raise InputError(f"JAX_PLATFORMS={asked}: JAX finds only a CPU here")
    if backend == "cpu" and not flags.small:
        raise InputError("JAX finds no GPU here, only a CPU: pip install 'jax[cuda12]' "
                         "where there is one, or try --small")
    flags.out = flags.out.absolute()
    make_out(flags.out)
    workers = flags.workers or (1 if flags.small else max(
        2, min(MOST_WORKERS, (os.cpu_count() or 1) // 2)))
    facts: Row = ran_on() | {
        "command": " ".join(["python experiments/device_check.py", *(
            sys.argv[1:] if argv is None else argv)]),
        "notes": [f"{reason}: its columns are left out"] if (
            reason := speed.without_torch(backend)) else [],
        "parts": {}, "part_seconds": {}}
    for part in (part for part in PARTS if part in flags.part):
        part_begun = time.monotonic()
        facts["parts"][part] = rows = []
        for row in rows_of(part, flags, workers, begun, backend):
            rows.append(row)
            print(line(part, row), flush=True)
        facts["part_seconds"][part] = time.monotonic() - part_begun
        facts["seconds"] = time.monotonic() - begun
        (flags.out / "device_check.json").write_text(json.dumps(facts, indent=1) + "\n")
        (flags.out / "device_check.txt").write_text(table(facts))
    print("\n".join(table(facts).splitlines()[:3 + len(facts["notes"])]))
    wrong = [row["name"] for rows in facts["parts"].values() for row in rows
             if row["wrong"]]
    if wrong:
        raise RunError(f"{len(wrong)} checks failed, the first is {wrong[0]}; see "
                       f"{flags.out / 'device_check.txt'}")


if __name__ == "__main__":
    run_script(main)
