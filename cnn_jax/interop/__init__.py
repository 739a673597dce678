"""Pretrained weights in, programs for others out."""

from cnn_jax.interop.load import load_pretrained as load_pretrained

__all__ = ["load_pretrained"]
