"""The config of a run, read back from its workdir, so that single fields can differ.

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
