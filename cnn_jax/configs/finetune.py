r"""Continues a run of configs/transfer.py: trains all layers, at a lower rate.

python main.py --config=configs/finetune.py:WORKDIR

The run starts from the best epoch of the run in WORKDIR, on the same pictures in the
same splits. The last layer has the full learning rate; each earlier part of the network
has 0.8 times the rate of the part after it.
"""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.workdir.folder import read_config


def get_config(workdir: str) -> ConfigDict:
    config = read_config(Path(workdir))
    with config.unlocked():
        config.model.init_from = workdir
        config.model.train = "all"
        config.model.freeze = None
        config.epochs = 5
        config.optimizer.learning_rate = 1e-4
        config.optimizer.depth_decay = 0.8
        config.augment.horizontal_flip = True
    return config
