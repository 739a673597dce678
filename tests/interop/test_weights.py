"""Weights for other programs have every array under its name, also as text."""

import numpy as np
from flax import traverse_util

from cnn_jax.interop.weights import write_npz, write_text

VARIABLES = {
    "params": {"conv1": {"kernel": np.arange(18, dtype=np.float32).reshape(3, 3, 1, 2)},
               "stage1_block1": {"bn1": {"scale": np.full(2, 1e30, np.float32)}}},
    "batch_stats": {"stage1_block1": {"bn1": {"mean": np.float32([-0.5, 1.5])}}}}


def test_npz_holds_every_array_by_its_name(tmp_path):
    with np.load(write_npz(tmp_path / "weights.npz", VARIABLES)) as file:
        arrays = dict(file)
    assert set(arrays) == {"params/conv1/kernel", "params/stage1_block1/bn1/scale",
                           "batch_stats/stage1_block1/bn1/mean"}
    back = traverse_util.unflatten_dict(arrays, sep="/")
    kernel = back["params"]["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, VARIABLES["params"]["conv1"]["kernel"])


def test_text_describes_every_array(tmp_path):
    blocks = write_text(tmp_path / "weights.txt", VARIABLES).read_text().split("\n\n")
    heads = [block.strip().splitlines()[0] for block in blocks if "  shape " in block]
    assert heads == [
        "params/conv1/kernel  shape (3, 3, 1, 2)  mean 8.5  standard deviation 5.18813"
        "  min 0  max 17",
        "params/stage1_block1/bn1/scale  shape (2,)  mean 1e+30  standard deviation 0  "
        "min 1e+30  max 1e+30",  # its square overflows float32
        "batch_stats/stage1_block1/bn1/mean  shape (2,)  mean 0.5  standard deviation 1"
        "  min -0.5  max 1.5"]


def test_networks_without_statistics_have_parameters_alone(tmp_path):
    variables = {"params": {"head": {"bias": np.zeros(3)}}, "batch_stats": {}}
    with np.load(write_npz(tmp_path / "weights.npz", variables)) as file:
        assert list(file) == ["params/head/bias"]
