"""Weight files with changed bytes give arrays or one line, in short time."""

import random
import time

import pytest
from tests.interop import test_readers_keras, test_readers_pytorch
from tests.support import weight_files

from cnn_jax.errors import InputError
from cnn_jax.interop.readers import read_arrays, write_safetensors
from cnn_jax.interop.weights import write_npz

ARRAYS = test_readers_pytorch.ARRAYS


def write_legacy(path):
    layers = test_readers_keras.legacy(test_readers_keras.keras_2)
    path.write_bytes(weight_files.h5_bytes(
        lambda file: weight_files.write_legacy_h5(file, layers)))


def write_numbered(path):
    path.write_bytes(weight_files.h5_bytes(test_readers_keras.write_numbered))


WRITERS = {
    "zip": lambda path: weight_files.write_zip(path, *weight_files.described(ARRAYS)),
    "stream": lambda path: test_readers_pytorch.write_stream(path, ARRAYS),
    "safetensors": lambda path: write_safetensors(path, ARRAYS),
    "npz": lambda path: write_npz(path.with_suffix(".npz"), ARRAYS).rename(path)}
H5_WRITERS = {"legacy": write_legacy, "numbered": write_numbered}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Changes, deletes or overwrites some bytes."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        start = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                del data[start:start + rng.choice([1, 2, 4, 8])]
            case 3:
                data[start:start + 8] = rng.choice(
                    [b"\xff" * 8, bytes(8), rng.randbytes(8)])
    return bytes(data)


def check(path, count: int, seconds: float) -> None:
    """Damages the file in many ways; both outcomes must occur."""
    content, rng, ends = path.read_bytes(), random.Random(0), {True: 0, False: 0}
    for _ in range(count):
        path.write_bytes(damaged(content, rng))
        start = time.monotonic()
        try:
            read_arrays(path)
            ends[True] += 1
        except InputError as error:
            assert str(path) in str(error) and str(error).isprintable()
            ends[False] += 1
        assert time.monotonic() - start < seconds
    assert min(ends.values()) > count / 50, ends


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_file(tmp_path, kind):
    path = tmp_path / "weights"
    WRITERS[kind](path)
    check(path, 200, seconds=10)


@pytest.mark.parametrize("kind", H5_WRITERS)
def test_incomplete_hdf5_file(tmp_path, kind):
    """A truncated download or copy is refused, wherever it ends.

    Other damage is left to checksums: HDF5 2.0 hangs on some changed bytes.
    """
    pytest.importorskip("h5py", reason="needs the `pretrained` extra: h5py")
    path = tmp_path / "weights"
    H5_WRITERS[kind](path)
    content, rng = path.read_bytes(), random.Random(0)
    assert read_arrays(path)
    for length in (len(content) - 1, *(rng.randrange(len(content)) for _ in range(99))):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_arrays(path)
        assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_damaged_keras_file(tmp_path):
    """The zip around the HDF5 file has a checksum of each member."""
    pytest.importorskip("h5py", reason="needs the `pretrained` extra: h5py")
    path = tmp_path / "weights.keras"
    weight_files.write_keras(path, test_readers_keras.CONFIG, weight_files.h5_bytes(
        test_readers_keras.write_numbered))
    content, rng = path.read_bytes(), random.Random(0)
    expected = {name: array.tobytes() for name, array in read_arrays(path).items()}
    refused = 0
    for _ in range(100):
        path.write_bytes(damaged(content, rng))
        try:
            arrays = read_arrays(path)
        except InputError as error:
            assert str(path) in str(error) and str(error).isprintable()
            refused += 1
        else:
            assert {name: a.tobytes() for name, a in arrays.items()} == expected
    assert refused > 50, refused
