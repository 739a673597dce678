"""Convolutions of oneDNN inside XLA's CPU programs (the extra `cnn_jax[onednn]`)."""

from cnn_jax.native.library import Library, describe, load
