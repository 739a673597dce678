"""Reads the config of a run from its workdir, so that you can change single fields.

python main.py --mode=inspect --workdir=W --config.inspect.images=4
is short for
python main.py --mode=inspect --workdir=W --config=configs/workdir.py:W \
    --config.inspect.images=4
"""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.workdir.folder import read_config


def get_config(workdir: str) -> ConfigDict:
    return read_config(Path(workdir))
