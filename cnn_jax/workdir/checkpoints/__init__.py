"""Saves checkpoints with orbax, and verifies every leaf when it restores them."""

from cnn_jax.workdir.checkpoints.integrity import compare, leaves
from cnn_jax.workdir.checkpoints.restore import (read_progress, restore,
                                                 step_folders)
from cnn_jax.workdir.checkpoints.save import Checkpoints
