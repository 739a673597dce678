"""Convolutional networks as pure functions on JAX and Flax Linen."""

__version__ = "0.1.0"
