"""Training: optimisers, pure steps, devices, checkpoints, and the loop over them."""

from cnn_jax.training.loop import run
from cnn_jax.training.seeds import run_seeds
from cnn_jax.training.signals import Stopped
