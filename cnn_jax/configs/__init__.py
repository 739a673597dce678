"""CONFIGS: the experiments that `--config` names, one file each.

In a clone, `configs/` is a link to this folder. `--config=configs/lenet.py` is found
there, or without a clone in this package.
"""
