"""Writes a folder that runs a trained network in a browser."""

from cnn_jax.interop.web.folder import fetch_runtime, load_web, write_web
