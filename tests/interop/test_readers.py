"""Our .npz and .safetensors files are read exactly; damaged ones are refused."""

import json
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tests.support.weight_files import assert_same, refused

from cnn_jax.errors import RunError
from cnn_jax.interop.readers import read_arrays, write_safetensors
from cnn_jax.interop.weights import write_npz

RNG = np.random.default_rng(5)
ARRAYS = {"conv1.weight": RNG.standard_normal((4, 3, 2, 5)).astype(np.float32),
          "step": np.array(7), "mask": np.array([True, False]),
          "half": RNG.standard_normal(3).astype(np.float16),
          "empty": np.zeros((0, 3), np.float32)}
HEADER = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights"


def test_npz_of_ours(tmp_path):
    variables = {"params": {"conv1": {"kernel": ARRAYS["conv1.weight"]}},
                 "batch_stats": {"bn1": {"mean": ARRAYS["half"]}}}
    path = write_npz(tmp_path / "weights.npz", variables)
    assert_same(read_arrays(path), {"params/conv1/kernel": ARRAYS["conv1.weight"],
                                    "batch_stats/bn1/mean": ARRAYS["half"]})


@pytest.mark.parametrize("arrays, compressed", [
    ({"w": np.array([print], object)}, False), ({"w": np.zeros(1000)}, True)])
def test_npz_with_objects_or_compressed_is_refused(tmp_path, arrays, compressed):
    path = tmp_path / "weights.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    refused(path)


def test_npz_with_a_shape_larger_than_its_data_is_refused(path):
    content = b"\x93NUMPY\x01\x00\x76\x00" + (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"
        .ljust(117) + b"\n")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", content + bytes(8))
    assert "1000000000000" in refused(path)


def test_safetensors_there_and_back(path):
    everything = {**ARRAYS, "column": np.asfortranarray(ARRAYS["conv1.weight"]),
                  "turned": ARRAYS["conv1.weight"].T}
    assert write_safetensors(path, everything, {"format": "pt"}) == path
    assert_same(read_arrays(path), everything)
    start = path.read_bytes()[8:]
    assert json.JSONDecoder().raw_decode(start.decode("latin-1"))[0][
        "__metadata__"] == {"format": "pt"}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_safetensors_in_bfloat16(path):
    values = np.array([1.5, -2.25, np.inf, 0.1], ml_dtypes.bfloat16)
    write_safetensors(path, {"w": values})
    assert_same(read_arrays(path), {"w": values.astype(np.float32)})


def test_safetensors_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="missing"):
        write_safetensors(tmp_path / "missing" / "x.safetensors", ARRAYS)


@pytest.mark.parametrize("changes, data", [
    ({}, 7), ({}, 9), ({"shape": [3]}, 8), ({"shape": [2**40]}, 8),
    ({"dtype": "F31"}, 8), ({"data_offsets": [4, 12]}, 8),
    ({"data_offsets": [8, 0]}, 8), ({"shape": [-2]}, 8)])
def test_damaged_safetensors_is_refused(path, changes, data):
    header = json.dumps({"w": {**HEADER["w"], **changes}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    refused(path)


def test_a_valid_safetensors_header_is_read(path):
    header = json.dumps(HEADER).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header
                     + np.float32([1, 2]).tobytes())
    assert_same(read_arrays(path), {"w": np.float32([1, 2])})


def test_a_missing_library_is_reported(path, monkeypatch):
    write_safetensors(path, ARRAYS)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "pip install 'cnn_jax[pretrained]'" in refused(path)


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"text", b"{}", bytes(64),
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."])
def test_beginnings_alone_are_refused(path, content):
    path.write_bytes(content)
    refused(path)
