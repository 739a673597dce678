"""A run before its first step: data, network, workdir, and the state it starts from."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cnn_jax import data, networks
from cnn_jax.data.batches import concatenate, steps_per_epoch
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.errors import InputError
from cnn_jax.networks.summary import LayerTable
from cnn_jax.training import parallel
from cnn_jax.workdir import trained
from cnn_jax.workdir.checkpoints.write import Checkpoints
from cnn_jax.config import result_fields
from cnn_jax.workdir.checkpoints.fallback import best_checkpoint
from cnn_jax.console import Reporter
from cnn_jax.workdir.progress import should_stop
from cnn_jax.workdir.progress import Progress, progress_of
from cnn_jax.workdir.machine import describe_devices
from cnn_jax.training.recipe import (abstract_state, create_recipe, describe_network,
                                     first_state)
from cnn_jax.training.steps import Recipe, TrainState
from cnn_jax.workdir.checkpoints.read import restore
from cnn_jax.data.info import DataInfo, describe
from cnn_jax.workdir.folder import default_path, open_workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    config: ConfigDict
    workdir: Path
    info: DataInfo
    recipe: Recipe
    table: LayerTable
    placement: parallel.Placement
    dataset: Dataset              # on the host
    data: Examples                # on the devices
    spans: dict[str, range]
    checkpoints: Checkpoints
    report: Reporter
    rate: Callable                # the schedule, compiled
    seeds: int = 1                # trained in one program: times are a share of it

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.spans["train"]), self.config.batch_size)

    @property
    def steps_per_call(self) -> int:
        """A convolution inside a loop can be several times slower on a CPU (measured
        by experiments/steps_per_call.py), elsewhere a call costs more than a loop; so
        it does where networks are so small that seeds are trained at once."""
        on_cpu = self.placement.devices[0].platform == "cpu"
        return self.config.steps_per_call or (
            16 if self.seeds > 1 else 1 if on_cpu else 8)

    def finished(self, progress: Progress) -> bool:
        stop = self.config.early_stopping
        return (progress.step >= self.config.epochs * self.steps_per_epoch
                or should_stop(progress.history, stop.monitor, stop.patience,
                               stop.min_delta))


def load(config: ConfigDict, placement: parallel.Placement, report: Reporter
         ) -> tuple[Dataset, DataInfo]:
    """The data of a run, and what is known of them."""
    if config.batch_size % len(placement.devices):
        raise InputError(f"config.batch_size = {config.batch_size} does not divide "
                         f"over {len(placement.devices)} devices: use a multiple")
    with report.under_way("loading the data", plain=False):
        dataset = data.load(config.data, config.seed)
    return dataset, describe(dataset, config.data.scaling)


@contextlib.contextmanager
def open_run(config: ConfigDict, workdir: str | Path | None,
             placement: parallel.Placement, report: Reporter,
             loaded: tuple[Dataset, DataInfo], beside: Run | None = None,
             seeds: int = 1) -> Iterator[Run]:
    """Network and workdir of a run, which no other process enters meanwhile.

    loaded: its data, as `load` gives them.
    beside: a run on the same data, which need not be put on the devices again.
    """
    dataset, info = loaded
    path = Path(workdir or default_path(config)).absolute()
    recipe = create_recipe(config, info, placement.axis_name)
    table = describe_network(recipe, info.image_shape,
                             images=config.batch_size // len(placement.devices))
    parallel.check_same_in_all(
        f"{result_fields(config)} {config.log.every_steps} {info.sha256}")
    with open_workdir(path, config, info):
        report.line(f"workdir: {path}")
        if beside is None:
            introduce = report.named("").line
            introduce(f"data: {info.source}")
            introduce(table.text())
            introduce(f"convolutions: {table.convolutions()}")
            introduce(describe_devices(placement.devices))
        if jax.process_index() == 0:
            table.save(path)
        with Checkpoints(path / "checkpoints", config.checkpoint.keep) as checkpoints:
            if beside is None:
                examples, spans = concatenate(dataset)
                examples = placement.put(examples)
            else:
                examples, spans = beside.data, beside.spans
            yield Run(config, path, info, recipe, table, placement, dataset, examples,
                      spans, checkpoints, report, jax.jit(recipe.rate), seeds)


def begin(config: ConfigDict, recipe: Recipe, info: DataInfo) -> TrainState:
    """The state before the first step; its parameters may be those of another run."""
    state = first_state(recipe, info.image_shape)
    if not config.model.init_from:
        return state
    try:
        source = trained.load(Path(config.model.init_from))
        variables = networks.transfer(
            {"params": state.params, "batch_stats": state.batch_stats},
            source.state.variables)
    except ValueError as error:
        raise InputError(f"config.model.init_from = {config.model.init_from}: {error}"
                         ) from error
    average = variables["params"] if recipe.ema_decay > 0 else {}
    return state.replace(**variables, average=average)


def start(this: Run) -> tuple[TrainState, Progress]:
    """The newest checkpoint of the workdir, or the first state; on the host."""
    latest = this.checkpoints.latest
    if latest is None:
        return begin(this.config, this.recipe, this.info), Progress()
    like = abstract_state(this.recipe, this.info.image_shape)
    folder, monitor = this.checkpoints.folder(latest), this.config.checkpoint.monitor
    state, meta = this.checkpoints.restore(latest, like)
    progress = progress_of(meta, folder, monitor)
    best = best_checkpoint(folder, progress.history, monitor)
    if best != folder:  # else its damage would show after the last epoch
        restore(best, like)
    this.report.line(f"resuming after step {latest}")
    return state, progress
