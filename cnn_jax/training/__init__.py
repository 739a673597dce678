"""TRAINING: pure steps, their devices, the loop over them, and the end of a run."""

from cnn_jax.training.signals import Stopped
from cnn_jax.training.train import run

__all__ = ["Stopped", "run"]
