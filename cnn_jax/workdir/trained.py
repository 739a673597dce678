"""Reads a run back from its workdir: its network, best parameters and data info."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnn_jax import networks
from cnn_jax.data.info import DataInfo
from cnn_jax.errors import InputError, RunError
from cnn_jax.workdir.checkpoints import (compare, leaves, read_progress, restore,
                                         step_folders)
from cnn_jax.workdir.folder import read_config, read_data_info
from cnn_jax.workdir.progress import Row, best_step

__all__ = ["Trained", "load"]


class Trained(NamedTuple):
    """Holds a run's network with the variables of its best checkpoint."""

    config: ConfigDict
    info: DataInfo
    network: nn.Module          # for one device
    variables: dict[str, Any]   # params and batch_stats, or the averages of them
    step: int                   # the step of the checkpoint
    history: list[Row]          # up to the newest checkpoint


def load(workdir: str | Path) -> Trained:
    """Loads the best checkpoint of a workdir.

    Raises InputError for a folder without a run, for a run that has not finished an
    epoch, and for parameters of another network; RunError for a damaged checkpoint.
    """
    workdir = Path(workdir)
    config, info = read_config(workdir), read_data_info(workdir)
    folder, history = best_checkpoint(workdir, config.checkpoint.monitor)
    tree, _ = restore(folder)
    variables = {"params": tree.get("ema_params") or tree["params"],
                 "batch_stats": (tree.get("ema_batch_stats")
                                 or tree.get("batch_stats", {}))}
    network = networks.from_config(config, len(info.class_names))
    expected = networks.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, *info.image_shape)), train=False))
    compare(leaves(variables), {name: expected.get(name, {}) for name in variables},
            f"checkpoint {folder}")
    return Trained(config, info, network, variables, int(folder.name), history)


def best_checkpoint(workdir: Path, monitor: str) -> tuple[Path, list[Row]]:
    """Finds the folder of the best checkpoint, and the history of the newest one."""
    folders = step_folders(workdir / "checkpoints")
    if not folders:
        raise InputError(f"{workdir} holds no checkpoints: train there first")
    history = read_progress(folders[-1]).history
    step = best_step(history, monitor)
    if folders[-1].name == "0":  # an imported network, see imported.py
        step = 0
    if step is None:
        raise InputError(f"{workdir} holds no checkpoint of a whole epoch: resume "
                         "training there first")
    folder = folders[-1].with_name(str(step))
    if not folder.is_dir():
        raise RunError(f"checkpoint {folder} is missing, the best one: resume training "
                       "there, or train again in another folder")
    return folder, history
