"""The config of a run, read back from its workdir, so that single fields can differ.

python main.py --mode=inspect --workdir=W --config.inspect.images=4
is short for
python main.py --mode=inspect --workdir=W --config=configs/workdir.py:W \
    --config.inspect.images=4
"""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.training.workdir import read_config


def get_config(workdir: str):
    return ConfigDict(tuples(read_config(Path(workdir)).to_dict())).lock()


def tuples(value):
    """With tuples again where JSON has lists: flags replace a value by one of its type.
    """
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value
