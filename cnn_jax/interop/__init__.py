"""Imports pretrained weights, and exports networks for other programs."""

from cnn_jax.interop.load import load_pretrained as load_pretrained

__all__ = ["load_pretrained"]
