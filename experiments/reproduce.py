"""Runs the experiments of the tutorials and writes the table of their results.

    python experiments/reproduce.py --list
    python experiments/reproduce.py --data=DIR                         all of them: days
    python experiments/reproduce.py --only shapes_colour_cnn shapes_shape_cnn
    python experiments/reproduce.py --jobs 2                           two at a time

Every (experiment, seed) is one `main.py` in its own process, so that its peak memory
can be measured. Its workdir is WORKDIR/EXPERIMENT/seedS, its output is in seedS.log.
`--jobs` runs several side by side, each on its share of the cores: small networks use
one core better than two. An interrupted run resumes at its checkpoint; a finished one
is not run again. Writes RESULTS.md and RESULTS.json after each run; rows that have not
been run say so. Exit code 1 if a mean is below the published figure by more than its
band, or if a run failed; 2 for input that cannot be used.
"""

import argparse
import difflib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn,
                           TimeElapsedColumn)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cnn_jax.data.listing import ARCHIVES  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.config import check  # noqa: E402
from cnn_jax.workdir.machine import core_count  # noqa: E402
from experiments.processes import Interrupted, Runs  # noqa: E402
from experiments.published import EXPERIMENTS, IMAGES, Experiment  # noqa: E402
from experiments.results_table import (AS_PUBLISHED, Target, below,  # noqa: E402
                                       is_finished, write)


def load_config(experiment: Experiment, flags: argparse.Namespace
                ) -> tuple[ConfigDict, tuple[str, ...], int]:
    """Loads and checks the config of an experiment.

    Returns it, the flags of main.py for the fields that differ from its file, and the
    number of images of its whole data set.
    """
    name, _, variant = experiment.config.partition(":")
    module = importlib.import_module(f"configs.{name.removesuffix('.py')}")
    config = module.get_config(variant)
    changes, images = {}, IMAGES[config.data.name]
    if experiment.epochs:
        changes["epochs"] = experiment.epochs
    if experiment.protocol != "held_out":
        changes["data.protocol"] = experiment.protocol
    if experiment.folder:
        root = flags.data or os.environ.get("CNN_JAX_DATA") or "data"
        changes["data.dir"] = os.path.abspath(os.path.join(root, experiment.folder))
    if flags.cifar10_jpeg and config.data.name == "cifar10":
        changes |= {"data.name": "folder", "data.dir": str(flags.cifar10_jpeg)}
    config.update_from_flattened_dict(changes)
    check(config)
    return config, tuple(f"--config.{field}={value}"
                         for field, value in changes.items()), images


def make_targets(experiments: dict[str, Experiment],
                 flags: argparse.Namespace) -> dict[str, Target]:
    """Makes the targets of all experiments by name, since the table shows all."""
    targets = {}
    for name, experiment in experiments.items():
        config, changed, images = load_config(experiment, flags)
        words = ["python", "experiments/reproduce.py", "--only", name]
        copy = any("data.name" in change for change in changed)
        if copy:
            words += ["--cifar10-jpeg", flags.cifar10_jpeg.name]
        note = flags.note if name in flags.only else ""
        words += ["--note", note] if note else []
        targets[name] = Target(
            name, experiment, config,
            flags.workdir / (name + "-jpeg" * copy), changed, tuple(words),
            note or ("on a JPEG copy of the images" if copy else AS_PUBLISHED), images)
    return targets


class Work(NamedTuple):
    """One seed of an experiment, which is one call of main.py."""

    target: Target
    seed: int

    @property
    def title(self) -> str:
        return f"{self.target.name} seed {self.seed}"

    @property
    def workdir(self) -> Path:
        return self.target.folder / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.target.folder / f"seed{self.seed}.log"

    @property
    def command(self) -> list[str]:
        return [sys.executable, "main.py",
                f"--config=configs/{self.target.experiment.config}",
                f"--config.seed={self.seed}", *self.target.changes,
                f"--workdir={self.workdir}"]


def run_all(targets: list[Target], flags: argparse.Namespace,
            write_rows: Callable[[], object]) -> list[str]:
    """Runs the seeds that are not finished; returns a line for each run that failed.

    Raises Interrupted after all runs have saved a checkpoint.
    """
    finished, todo = [], []
    for target in targets:
        for seed in range(flags.seeds or target.experiment.seeds):
            work = Work(target, seed)
            done = is_finished(work.workdir, target.config)
            (finished if done else todo).append(work)
    failed, console = [], Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for work in finished:
            progress.console.print(f"{work.title}: finished")
        total = progress.add_task("runs", total=len(todo))
        runs = Runs(flags.jobs)

        def run(work: Work) -> tuple[str, str | None]:
            task = progress.add_task(work.title, total=work.target.config.epochs)
            problem = runs.run(
                work.command, work.log, flags.data,
                lambda done: progress.update(task, completed=done))
            progress.remove_task(task)
            return f"{work.title}: {problem or score(work)}", problem

        with ThreadPoolExecutor(flags.jobs) as pool:
            futures = [pool.submit(run, work) for work in todo]
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    line, problem = future.result()
                    progress.console.print(f"{number}/{len(todo)} {line}",
                                           markup=False)
                    failed += [line] if problem else []
                    write_rows()
                    progress.advance(total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                runs.stop()
                raise
    return failed


def score(work: Work) -> str:
    """Describes the result of a run that has ended."""
    metric = work.target.experiment.metric
    results = json.loads((work.workdir / "results.json").read_text())
    return (f"test {metric.replace('_', ' ')} {results[f'test_{metric}']:.4f}, "
            f"{results['train_seconds']:.0f} s of training")


def parse(argv: list[str] | None, names: list[str]) -> argparse.Namespace:
    """Parses the flags. Raises InputError for one that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=names,
                        help="experiments to run; see --list")
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="seeds 0 ... N - 1 instead of the table's")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="folder with mnist/, fashion_mnist/, cifar10/ (sets "
                        "CNN_JAX_DATA; without it they are downloaded) and "
                        "monkey_species/ (default for the latter: data/)")
    parser.add_argument("--cifar10-jpeg", type=Path, metavar="PATH",
                        help="class folders of JPEG pictures instead of CIFAR-10's "
                        "official files: the rows say so")
    parser.add_argument("--note", default="", metavar="TEXT",
                        help="describes in the rows data that differ from the "
                        "published ones")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="runs side by side, each on its share of the cores")
    parser.add_argument("--workdir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--out", type=Path, default=ROOT / "measured" / "accuracy",
                        help="where RESULTS.md and RESULTS.json go")
    parser.add_argument("--list", action="store_true", help="shows the experiments")
    parser.add_argument("--table", action="store_true",
                        help="runs nothing, only writes the tables again")
    flags = parser.parse_args(argv)
    for name in flags.only:
        if name not in names:
            near = difflib.get_close_matches(name, names) or names
            raise InputError(f"--only {name}: no such experiment; there "
                             f"{'is' if len(near) == 1 else 'are'} {', '.join(near)}")
    if flags.seeds is not None and flags.seeds < 1:
        raise InputError(f"--seeds {flags.seeds} is not allowed: must be >= 1")
    cores = core_count()
    if not 1 <= flags.jobs <= cores:
        raise InputError(f"--jobs {flags.jobs} is not allowed: must be 1 to {cores}, "
                         "the number of cores")
    jpeg = flags.cifar10_jpeg
    if jpeg and not (jpeg.is_dir() or jpeg.is_file() and str(jpeg).endswith(ARCHIVES)):
        raise InputError(f"--cifar10-jpeg {jpeg} is neither a folder nor an archive "
                         "of class folders (.tar.gz, .tgz)")
    if flags.data and not flags.data.is_dir():
        raise InputError(f"--data {flags.data} is not a folder")
    for field in ("workdir", "out"):
        path = getattr(flags, field)
        if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
            raise InputError(f"--{field} {path} cannot be a folder: a file is there")
    flags.workdir = flags.workdir.absolute()
    flags.data, flags.cifar10_jpeg = (
        path.absolute() if path else None for path in (flags.data, flags.cifar10_jpeg))
    return flags


def show(experiments: dict[str, Experiment]) -> None:
    """Prints a line for each experiment."""
    for name, row in experiments.items():
        figure = "-" if row.published is None else f"{row.published:.4f}"
        print(f"{name:26} {'configs/' + row.config:36} n {row.seeds}  "
              f"{row.params:>10,} parameters  published {figure}")


def reproduce(argv: list[str] | None, experiments: dict[str, Experiment]) -> int:
    """Runs and writes what the flags ask for; returns the exit code."""
    flags = parse(argv, list(experiments))
    if flags.list:
        show(experiments)
        return 0
    targets = make_targets(experiments, flags)

    def write_rows():
        return write(list(targets.values()), flags.out)

    chosen = [targets[name] for name in dict.fromkeys(flags.only)]
    try:
        failed = [] if flags.table else run_all(chosen, flags, write_rows)
    except Interrupted as error:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 128 + error.signum
    rows = write_rows()
    problems = failed + below([row for row in rows if row["name"] in flags.only])
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"wrote {flags.out / 'RESULTS.md'} and {flags.out / 'RESULTS.json'}")
    return 1 if problems else 0


def main(argv: list[str] | None = None,
         experiments: dict[str, Experiment] = EXPERIMENTS) -> None:
    def stop(signum, frame):
        for number in (signal.SIGINT, signal.SIGTERM):  # once: runs are being saved
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        code = reproduce(argv, experiments)
    except InputError as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
