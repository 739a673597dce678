"""Checkpoints: saved by orbax, verified leaf by leaf when they are restored."""

from cnn_jax.workdir.checkpoints.integrity import compare, leaves
from cnn_jax.workdir.checkpoints.restore import (read_progress, restore,
                                                 step_folders)
from cnn_jax.workdir.checkpoints.save import Checkpoints
