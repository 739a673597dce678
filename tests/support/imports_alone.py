"""Fails if imports and a first program have loaded the native library.

    python -m tests.support.imports_alone
"""

import importlib
from pathlib import Path

import jax

if __name__ == "__main__":
    for name in ("cnn_jax.training", "cnn_jax.cli.commands"):
        importlib.import_module(name)
    jax.jit(lambda x: x + 1)(1.)
    maps = Path("/proc/self/maps").read_text()
    assert "dnnl" not in maps and "native/convolution" not in maps
