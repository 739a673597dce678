"""The library keeps its working memory between calls, unless CNN_JAX_HUGE_PAGES=0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax.native import library

# Prints the MB that a process keeps of a call whose transformed weights have 38 MB.
SCRIPT = """
import os
from pathlib import Path
import jax, jax.numpy as jnp
from cnn_jax.native import cost, library, lowering
from cnn_jax.ops.conv import conv_spec

def program(channels):
    spec = conv_spec((1, 8, 8, channels), (3, 3, channels, channels), 1, "SAME")
    arrays = jnp.ones(spec.x_shape), jnp.ones(spec.w_shape)
    compiled = jax.jit(lambda x, w: lowering.call(
        x, w, cost.FORWARD, spec, cost.WINOGRAD_4)).lower(*arrays).compile()
    return lambda: compiled(*arrays).block_until_ready()

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

library.load()
small, large = program(16), program(512)
small()
before = resident()
large()
print(resident() - before)
"""


@pytest.mark.skipif(library.load() is None, reason=library.describe())
@pytest.mark.parametrize("setting, least, most", [("1", 37, 60), ("0", -5, 15)])
def test_memory_that_is_kept(setting, least, most):
    environment = os.environ | {"CNN_JAX_HUGE_PAGES": setting,
                                "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert least <= float(done.stdout) <= most
