"""Inspected runs of given networks, without a workdir."""

from typing import Any

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Examples
from cnn_jax.data.scaling import Scaling
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.tasks import TASKS
from configs import default


def inspect_settings(**changes: Any) -> ConfigDict:
    """Makes the `inspect` section of a config, with changes."""
    settings = default.get_config().inspect
    with settings.unlocked():
        settings.update(changes)
    return settings


def inspected(network: nn.Module, variables: dict, pixels: np.ndarray,
              labels: np.ndarray, scaling: Scaling = Scaling(0.0, 1.0),
              class_names: tuple[str, ...] = ("a", "b"), task: str = "classify",
              shown: int = 1) -> InspectedRun:
    """Inspects a network with given variables on given pixels."""
    return InspectedRun(
        name="given", network=network, variables={"batch_stats": {}} | variables,
        scaling=scaling, class_names=class_names, pixels=pixels[:shown],
        labels=labels[:shown], titles=tuple(f"test {i}" for i in range(shown)),
        split="test", examples=Examples(pixels, labels),
        config=ConfigDict({"seed": 0, "data": {"name": "given"},
                           "loss": default.get_config().loss}), step=7,
        history=(), task=TASKS[task])
