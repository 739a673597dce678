"""CONFIGS: what the command line trains by name, one file each.

In a clone, `configs/` is a link to this folder. `--config=configs/lenet.py` is found
there, and in this package where there is no clone.
"""
