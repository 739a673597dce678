"""A run read back from its workdir: the best checkpoint and what it was trained on."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.batches import concatenate
from cnn_jax.errors import InputError
from cnn_jax.training import parallel
from cnn_jax.workdir.checkpoints.write import Checkpoints
from cnn_jax.training.evaluate import compile_evaluation
from cnn_jax.console import Reporter, part_line
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import Recipe, TrainState
from cnn_jax.data.info import DataInfo, describe
from cnn_jax.workdir.folder import check_same_data, read_config, read_data_info


class Trained(NamedTuple):
    """The best checkpoint of a run."""

    config: ConfigDict
    info: DataInfo
    recipe: Recipe       # for one device
    state: TrainState    # NumPy leaves
    step: int


def load(workdir: Path) -> Trained:
    """The best checkpoint of a workdir; a run without one has not ended an epoch."""
    config, info = read_config(workdir), read_data_info(workdir)
    recipe = create_recipe(config, info)
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"{workdir} holds no checkpoints: train there first")
    with Checkpoints(workdir / "checkpoints", writing=False) as checkpoints:
        if checkpoints.best is None:
            raise InputError(f"{workdir} holds no checkpoint of a whole epoch: train "
                             "on there first")
        step = checkpoints.best
        state, _ = checkpoints.restore(step, abstract_state(recipe, info.image_shape))
    return Trained(config, info, recipe, state, step)


def evaluate(workdir: Path, config: ConfigDict | None = None,
             quiet: bool = False) -> dict[str, dict[str, float]]:
    """Loss and accuracy of the best checkpoint on the validation and test parts.

    config: may differ from the run's own in where the data lie and on what devices.
    """
    report = Reporter(quiet)
    with report.under_way("reading the checkpoint", plain=False):
        trained = load(workdir)
    config = config or trained.config
    placement = parallel.place(config)
    with report.under_way("loading the data", plain=False):
        dataset = data.load(config.data, config.seed)
        check_same_data(workdir, describe(dataset, config.data.scaling))
    report.line(f"data: {dataset.source}")
    report.line(f"checkpoint: step {trained.step} of {workdir}")
    recipe = create_recipe(config, trained.info, placement.axis_name)
    examples, spans = concatenate(dataset)
    examples, state = placement.put(examples), placement.put(trained.state)
    run = compile_evaluation(recipe, placement, state, examples, spans,
                             config.eval_batch_size, report.track)
    results = {part: run(state, part) for part in ("validation", "test") if spans[part]}
    for part, figures in results.items():
        report.line(part_line(part, figures))
    return results
