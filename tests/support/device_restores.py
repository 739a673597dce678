"""What the latest states of runs are on each of this process's devices.

    python tests/support/device_restores.py WORKDIR [WORKDIR ...]

Prints {workdir: [sha256 of the state that a device holds, ...]} as JSON.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from tests.support.tiny_runs import restore

from cnn_jax.training import parallel
from cnn_jax.workdir.results import sha256
from cnn_jax.workdir.folder import read_config


def on_each_device(workdir: Path) -> list[str]:
    config = read_config(workdir)
    placement = parallel.place(config)
    state = placement.replicate(restore(workdir, config))
    return [sha256(jax.tree.map(
        lambda x: np.asarray(x.addressable_data(device)), state))
        for device in range(jax.device_count())]


if __name__ == "__main__":
    print(json.dumps({folder: on_each_device(Path(folder)) for folder in sys.argv[1:]}))
