"""A run read back from its workdir: the best checkpoint and what it was trained on."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.workdir.checkpoints.write import Checkpoints
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import Recipe, TrainState
from cnn_jax.data.info import DataInfo
from cnn_jax.workdir.folder import read_config, read_data_info


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
