"""Stores a network that was trained elsewhere as a run with zero epochs.

So everything that takes the workdir of a run takes it too: prediction, inspection, the
server, the report, fine-tuning and export.
"""

from pathlib import Path

from cnn_jax.config import to_json
from cnn_jax.files import write_atomically, write_json
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.summary_files import save_summary
from cnn_jax.workdir.checkpoints import Checkpoints, step_folders
from cnn_jax.workdir.folder import check_same_config, lock
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.trained import Trained

STEP = 0  # of its only checkpoint; training saves none at step 0


def is_imported(workdir: Path) -> bool:
    """Tells whether a folder holds an imported network."""
    return [path.name for path in step_folders(workdir / "checkpoints")] == [str(STEP)]


def write_imported(workdir: Path, network: Trained) -> None:
    """Writes config.json, data.json, the layer table and one checkpoint.

    Raises InputError if the folder belongs to another config, or is in use.
    """
    with lock(workdir):
        check_same_config(workdir, network.config)
        write_atomically(workdir / "config.json", to_json(network.config))
        write_json(workdir / "data.json", network.info)
        save_summary(layer_table(network.network, network.info.image_shape, 1), workdir)
        with Checkpoints(workdir / "checkpoints",
                         network.config.checkpoint.monitor) as checkpoints:
            checkpoints.save(network.variables, Progress())
