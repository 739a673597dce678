"""Opens a run: data, network, workdir, and the state that it starts from."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cnn_jax import data, networks
from cnn_jax.config import result_fields
from cnn_jax.console import SLOW_SECONDS, Reporter
from cnn_jax.data import arrays
from cnn_jax.data.batches import steps_per_epoch
from cnn_jax.data.examples import Dataset, Stored
from cnn_jax.data.info import DataInfo, describe
from cnn_jax.data.lazy import cropped_when_read
from cnn_jax.data.progressive import training_size, training_sizes
from cnn_jax.errors import InputError
from cnn_jax.interop.load import (Arrays, check_same_network, fit_variables, is_file,
                                  is_published, read_source)
from cnn_jax.networks.summary import LayerTable
from cnn_jax.networks.summary_files import save_summary, short_text
from cnn_jax.ops.conv import addon
from cnn_jax.optimizers import Schedule
from cnn_jax.training import parallel
from cnn_jax.training.eval_batch import largest_batch
from cnn_jax.training.feed import Feed, open_feed
from cnn_jax.training.initial import InitProgram
from cnn_jax.training.profiler import Profiler
from cnn_jax.training.recipe import (check_training_sizes, create_recipe,
                                     describe_network)
from cnn_jax.training.steps import Recipe, TrainState
from cnn_jax.workdir import trained
from cnn_jax.workdir.checkpoints import Checkpoints, step_folders
from cnn_jax.workdir.folder import (data_config, default_path, open_workdir,
                                    read_config)
from cnn_jax.workdir.machine import describe_devices
from cnn_jax.workdir.progress import Progress, best_step, should_stop


@dataclasses.dataclass(frozen=True)
class Run:
    """Holds everything of a run that no step changes."""

    config: ConfigDict
    workdir: Path
    info: DataInfo
    recipe: Recipe
    table: LayerTable
    initial: InitProgram  # computes the initial state
    # {source of init_from: its arrays}, from the check until the initial state is made
    checked_weights: dict[str, Arrays]
    placement: parallel.Placement
    dataset: Dataset    # on the host
    feed: Feed          # of its batches, to the devices
    checkpoints: Checkpoints
    report: Reporter
    schedule: Schedule  # the recipe's, compiled
    profiler: Profiler

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.info.counts["train"], self.config.batch_size)

    @property
    def steps_per_call(self) -> int:
        return steps_per_call(self.config, self.placement)

    def training_size(self, epoch: int) -> tuple[int, int] | None:
        """Returns (height, width) of an epoch's images; None is the size of the data.
        """
        return training_size(self.config.progressive, epoch)

    def is_finished(self, progress: Progress) -> bool:
        """Tells whether all epochs are trained, or early stopping has ended the run."""
        stop = self.config.early_stopping
        return (progress.step >= self.config.epochs * self.steps_per_epoch
                or should_stop(progress.history, stop.monitor, stop.patience,
                               stop.min_delta))


@contextlib.contextmanager
def open_run(config: ConfigDict, workdir: str | Path | None, report: Reporter,
             stored: Stored | None = None,
             profile_steps: tuple[int, int] | None = None) -> Iterator[Run]:
    """Opens the run of a config and locks its workdir until the block ends.

    stored: the data, if they are arrays instead of the set that the config names.
    Raises InputError for data, a network or a workdir that cannot be used.
    """
    placement = parallel.make_placement(config)
    if config.batch_size % len(placement.devices):
        raise InputError(f"config.batch_size = {config.batch_size} does not divide "
                         f"over {len(placement.devices)} devices: use a multiple")
    path = Path(workdir or default_path(config)).absolute()
    weights = {} if step_folders(path / "checkpoints") else check_init_from(config)
    with report.under_way("loading the data", plain=False, after=SLOW_SECONDS):
        dataset = data.load(data_config(path, config), config.seed, stored)
    info = describe(dataset, config.data)
    recipe = create_recipe(
        config, info, placement.axis_name, cropped=cropped_when_read(
            dataset.train.images, data.task_of(config.data)),
        labels=dataset.train.labels, devices=len(placement.devices))
    with report.under_way("tracing the network", plain=False, after=SLOW_SECONDS):
        table, initial = describe_network(
            recipe, info.image_shape,
            images=config.batch_size // len(placement.devices))
    check_training_sizes(recipe, info.image_shape,
                         training_sizes(config.progressive, 0))
    parallel.check_processes_agree(
        f"{result_fields(config)} {config.log.every_steps} {info.sha256}")
    if stored and (warning := arrays.conversion(stored, info.image_shape)):
        warnings.warn(warning, stacklevel=4)  # the line that called training.run
    with open_workdir(path, config, info) as extended:
        for line in (f"workdir: {path}", f"data: {info.source}", short_text(table),
                     f"convolutions: {table.convolutions()}",
                     describe_devices(placement.devices),
                     *slower_dtype(config.dtype, placement.devices[0].platform)):
            report.line(line)
        if extended:
            report.line(f"the run is extended to {config.epochs} epochs; from here on "
                        "its learning rate follows the schedule of that length")
        if jax.process_index() == 0:
            save_summary(table, path)
        with Checkpoints(path / "checkpoints", config.checkpoint.monitor,
                         config.checkpoint.keep) as checkpoints:
            feed = open_feed(placement, dataset, config,
                             steps_per_call(config, placement),
                             largest_batch(config, table, placement, report))
            with contextlib.closing(feed):
                yield Run(config, path, info, recipe, table, initial, weights,
                          placement, dataset, feed, checkpoints, report,
                          jax.jit(recipe.schedule),
                          Profiler(profile_steps, path, report))


def slower_dtype(dtype: str, platform: str) -> Iterator[str]:
    """Yields a line if float32 is faster than `dtype` on this machine.

    On a CPU, XLA alone takes longer in bfloat16, even where the CPU has instructions
    for it (`measured/speed/bfloat16.txt`).
    """
    if dtype == "bfloat16" and platform == "cpu" and not addon.installed.bfloat16():
        yield "config.dtype = bfloat16: on this CPU, float32 is faster"


def steps_per_call(config: ConfigDict, placement: parallel.Placement) -> int:
    """Returns the number of steps that one call of the compiled program makes.

    On a CPU, a convolution inside a loop can be several times slower (measured by
    experiments/steps_per_call.py). On other devices a call costs more than the loop.
    """
    on_cpu = placement.devices[0].platform == "cpu"
    return config.steps_per_call or (1 if on_cpu else 8)


def restore_or_init(run: Run) -> tuple[TrainState, Progress]:
    """Restores the newest checkpoint of the workdir, or makes the initial state.

    The returned state is on the host.
    """
    latest = run.checkpoints.latest
    if latest is None:
        state, progress = init_state(run), Progress()
    else:
        state, progress = restore_newest(run, latest)
    if run.config.model.init_from or run.recipe.freeze:
        run.report.line(describe_learning(run.recipe, state.params))
    return state, progress


def restore_newest(run: Run, latest: int) -> tuple[TrainState, Progress]:
    """Restores the newest checkpoint, and verifies the best one."""
    like = run.initial.shapes
    state, progress = run.checkpoints.restore(latest, like)
    best = best_step(progress.history, run.config.checkpoint.monitor)
    if best is not None and best not in run.checkpoints.steps:
        run.report.line(f"checkpoint {run.checkpoints.folder(best)} is missing, the "
                        "best one so far: the run can finish only if a later epoch is "
                        "better")
    elif best not in (None, latest):  # to find damage now, not after the last epoch
        run.checkpoints.restore(best, like)
    run.report.line(f"resuming after step {latest}")
    return state, progress


def check_init_from(config: ConfigDict) -> dict[str, Arrays]:
    """Raises InputError if the source of `model.init_from` cannot be read.

    A new run checks this first: loading the data and the network may take minutes.
    Returns {source: its arrays} of pretrained weights, else {}.
    """
    source = config.model.init_from
    if not source:
        return {}
    if is_published(source):
        check_same_network(source, config)
    try:
        if is_published(source) or is_file(source):
            return {source: read_source(source)[0]}
        monitor = read_config(Path(source)).checkpoint.monitor
        trained.best_checkpoint(Path(source), monitor)
        return {}
    except ValueError as error:
        raise InputError(f"config.model.init_from = {source}: {error}") from error


def load_source(source: str, run: Run) -> dict[str, Any]:
    """Loads the variables that `init_from` names: a workdir or pretrained weights.

    The head of a weight file is left out if it is for other classes than the run's.
    """
    if is_published(source) or is_file(source):
        arrays = run.checked_weights.pop(source, None) or read_source(source)[0]
        return fit_variables(source, arrays, run.recipe.model, run.info.image_shape,
                             whole=False)
    return trained.load(Path(source)).variables


def init_state(run: Run) -> TrainState:
    """Makes the initial state, with the weights that `model.init_from` names."""
    source = run.config.model.init_from
    try:
        loaded = load_source(source, run) if source else {}
        with run.report.timed("initializing"):
            state = run.initial.run()
        if not source:
            return state
        variables, taken, fresh = networks.transfer(
            {"params": state.params, "batch_stats": state.batch_stats}, loaded)
    except ValueError as error:
        raise InputError(f"config.model.init_from = {source}: {error}") from error
    run.report.line(f"from {source}: the weights of {len(taken)} layers"
                    + f"; newly initialized: {', '.join(fresh)}" * bool(fresh))
    if run.recipe.averages:
        variables |= {f"ema_{name}": value for name, value in variables.items()}
    return state.replace(**variables)


def describe_learning(recipe: Recipe, params: Mapping[str, Any]) -> str:
    """Says how many parameters are trained, and which modules are frozen."""
    mask = networks.freeze_mask(params, recipe.freeze)
    trained_layers = {layer: params[layer] for layer, frozen in mask.items()
                      if not all(jax.tree.leaves(frozen))}
    trained_count, count = (sum(leaf.size for leaf in jax.tree.leaves(tree))
                            for tree in (trained_layers, params))
    if not recipe.freeze:
        return f"all {count:,} parameters are trained"
    return (f"{trained_count:,} of {count:,} parameters are trained: "
            f"{', '.join(networks.parts_of(trained_layers))}; frozen: {recipe.freeze}")
