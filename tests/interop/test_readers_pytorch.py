"""PyTorch files written by hand are read exactly, and hostile ones are refused."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tests.support import weight_files
from tests.support.weight_files import (Called, Name, Raw, Reference, assert_same,
                                        described, refused, storage, tensor)

from cnn_jax.interop.readers import read_arrays, read_numpy_pickle

RNG = np.random.default_rng(3)
ARRAYS = {
    "conv1.weight": RNG.standard_normal((4, 3, 2, 5)).astype(np.float32),
    "conv1.bias": RNG.standard_normal(4),
    "bn1.running_var": RNG.standard_normal(3).astype(np.float16),
    "bn1.num_batches_tracked": np.array(12345678901, np.int64),
    "int32": np.arange(-3, 3, dtype=np.int32), "int16": np.arange(4, dtype=np.int16),
    "int8": np.arange(-2, 2, dtype=np.int8), "uint8": np.arange(5, dtype=np.uint8),
    "mask": np.array([[True, False], [False, False]]),
    "empty": np.zeros((0, 3), np.float32)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.bin"  # the format is detected by content


def write_stream(path, arrays):
    tree, data = described(arrays)
    counts = {str(key): array.size for key, array in enumerate(arrays.values())}
    weight_files.write_stream(path, weight_files.as_stream(tree), data, counts)


def test_zip(path):
    weight_files.write_zip(path, *described(ARRAYS))
    assert_same(read_arrays(path), ARRAYS)


def test_zip_with_any_folder_and_without_byteorder(path):
    weight_files.write_zip(path, *described(ARRAYS), folder="resnet18-5c1", order=None)
    assert_same(read_arrays(path), ARRAYS)


def test_stream_of_five_pickles(path):
    write_stream(path, ARRAYS)
    assert_same(read_arrays(path), ARRAYS)


def test_big_endian_zip(path):
    tree, _ = described(ARRAYS)
    data = {str(key): array.astype(array.dtype.newbyteorder(">")).tobytes()
            for key, array in enumerate(ARRAYS.values())}
    weight_files.write_zip(path, tree, data, order="big")
    assert_same(read_arrays(path), ARRAYS)


def test_bfloat16_becomes_the_same_float32(path):
    values = np.array([1.5, -2.25, np.inf, 3e-40, 0.1], ml_dtypes.bfloat16)
    weight_files.write_zip(path, *described({"w": values}))
    assert_same(read_arrays(path), {"w": values.astype(np.float32)})


def test_views_of_one_storage(path):
    """They are a transposed view, a slice with an offset, a scalar: 24 stored values.
    """
    values = np.arange(24, dtype=np.float32)
    one = storage("7", "float32", 24)
    weight_files.write_zip(path, {
        "whole": tensor(one, (2, 3, 4), (12, 4, 1)),
        "transposed": tensor(one, (4, 6), (1, 4)),
        "part": tensor(one, (2, 2), (12, 2), offset=5),
        "number": tensor(one, (), (), offset=23),
        "of length one": tensor(one, (1, 2), (999, 1)),
        "parameter": Called("torch._utils._rebuild_parameter",
                            (tensor(one, (3,), (1,)), True, {})),
    }, {"7": values.tobytes()})
    got = read_arrays(path)
    assert_same(got, {
        "whole": values.reshape(2, 3, 4), "transposed": values.reshape(6, 4).T,
        "part": np.float32([[5, 7], [17, 19]]), "number": np.float32(23),
        "of length one": values[None, :2], "parameter": values[:3]})
    assert np.shares_memory(got["whole"], got["transposed"])
    assert not any(array.flags.writeable for array in got.values())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoint_of_a_training(path, wrapper):
    tree, data = described({"w": ARRAYS["conv1.weight"]})
    momentum = tensor(storage("1", "float32", 9), (9,), (1,))
    weight_files.write_zip(path, {
        "epoch": 3, "lr": 0.1, wrapper: tree, "args": [None, True, ("adam", -1)],
        "optimizer": {"state": {0: {"momentum": momentum}}}}, data)
    assert_same(read_arrays(path), {"w": ARRAYS["conv1.weight"]})  # no data/1 needed


def test_stream_skips_storages_that_are_not_needed(path):
    values = np.arange(3, dtype=np.int16)
    old = weight_files.as_stream(Raw(weight_files.encode({
        "optimizer": tensor(storage("a", "float64", 5), (5,), (1,)),
        "state_dict": {"w": tensor(storage("b", "int16", 3), (3,), (1,))}})))
    weight_files.write_stream(path, old, {"a": bytes(40), "b": values.tobytes()},
                              {"a": 5, "b": 3})
    assert_same(read_arrays(path), {"w": values})


def test_ordered_dict_of_python_2(path):
    """Its items are one argument, a list of lists; strings are bytes."""
    array = np.arange(6, dtype=np.float32)
    key = b"U\x06weight"
    items = b"](](" + key + weight_files.encode(
        tensor(storage("0", "float32", 6), (2, 3), (3, 1))) + b"ee"
    tree = Raw(weight_files.encode(Name("collections.OrderedDict")) + items + b"\x85R")
    weight_files.write_zip(path, tree, {"0": array.tobytes()})
    assert_same(read_arrays(path), {"weight": array.reshape(2, 3)})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_instructions_of_every_binary_protocol(protocol):
    import io

    from cnn_jax.interop.readers import pickles
    value = {"a": [1, -2, 2**40, 2.5, None, True, "text", b"bytes"], "b": (), "c": (1,),
             "d": (1, 2, 3, 4), 5: {}, "long": "x" * 300}
    value["again"] = value["a"]
    if protocol == 2:  # it pickles bytes as a function call
        value["a"].pop()
    assert pickles.parse(io.BytesIO(pickle.dumps(value, protocol)), ()) == value


CALL = Called("os.mkdir", ("pwned",))
MARKED = b"(X\x05\x00\x00\x00pwned"  # a mark and a text
HOSTILE = {  # {content of the file: (pickle, a part of the error)}
    "call": (CALL, "os.mkdir"),
    "call of eval": (Called("builtins.eval", ("open('pwned', 'w')",)), "builtins.eval"),
    "name alone": (Name("posix.system"), "posix.system"),
    "name in a list": ({"w": [Name("os.system")]}, "os.system"),
    "attribute of an allowed module": (Name("torch._utils.os"), "torch._utils.os"),
    "name by STACK_GLOBAL": (Raw(b"\x8c\x02os\x8c\x05mkdir\x93"), "os.mkdir"),
    "INST": (Raw(MARKED + b"ios\nmkdir\n"), "INST"),
    "OBJ": (Raw(b"(cos\nmkdir\nX\x05\x00\x00\x00pwnedo"), "os.mkdir"),
    "OBJ of an allowed class": (Raw(b"(ccollections\nOrderedDict\no"), "OBJ"),
    "NEWOBJ": (Raw(b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ"),
    "NEWOBJ_EX": (Raw(b"ccollections\nOrderedDict\n)}\x92"), "NEWOBJ_EX"),
    "EXT": (Raw(b"\x82\x01"), "EXT1"),
    "call of a tensor": (Raw(weight_files.encode(Called("torch.Size", ())) + b")R"),
                         "Global"),
    "call of a text": (Raw(b"X\x02\x00\x00\x00os)R"), "Global"),
    "attributes of a class": (Raw(b"ctorch\nSize\n}b"), "dict"),
    "text protocol": (Raw(b"I1\n"), "INT"),
    "reference by text": (Raw(b"Pstorage\n"), "PERSID"),
    "other reference": ({"w": Reference(("module", "x"))}, "storage"),
    "whole model": (Called("torchvision.models.resnet.ResNet"), "ResNet"),
    "storage of an unknown type": (
        Reference(("storage", Name("torch.QInt8Storage"), "0", "cpu", 1)),
        "torch.QInt8Storage"),
    "key that is a tuple": ({(1,): 2}, "tuple"),
    "key that is deep": (Raw(b"})" + b"\x85" * 200_000 + b"Ns"), "tuple"),
    "tensor without a name": (tensor(storage("0", "float32", 1), (1,), (1,)), "dict"),
    "no tensors": ({"epoch": 1}, "no tensors"),
    "deep parameters": ({"w": Raw(
        b"ctorch._utils\n_rebuild_parameter\n" * 5000 + b"N" + b"\x85R" * 5000)},
        "recursion"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_zip_is_refused_and_nothing_runs(path, case, monkeypatch):
    monkeypatch.chdir(path.parent)
    tree, word = HOSTILE[case]
    weight_files.write_zip(path, tree, {"0": bytes(4)})
    assert word in refused(path)
    assert sorted(os.listdir()) == [path.name]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_hostile_stream_is_refused_in_each_of_its_pickles(path, number, monkeypatch):
    monkeypatch.chdir(path.parent)
    write_stream(path, ARRAYS)
    parts = path.read_bytes().split(b"\x80\x02", 5)
    parts[number + 1] = weight_files.encode(CALL) + b"."
    path.write_bytes(b"\x80\x02".join(parts))
    assert "os.mkdir" in refused(path)
    assert sorted(os.listdir()) == [path.name]


FOUR = storage("0", "float32", 4)
WRONG_VIEWS = {
    "larger than its storage": tensor(FOUR, (5,), (1,)),
    "with an offset beyond": tensor(FOUR, (2,), (1,), offset=3),
    "with a stride beyond": tensor(FOUR, (2, 2), (3, 1)),
    "with a negative stride": tensor(FOUR, (2,), (-1,), offset=3),
    "with a negative offset": tensor(FOUR, (2,), (1,), offset=-1),
    "with a negative size": tensor(FOUR, (-2,), (1,)),
    "with two negative sizes": tensor(FOUR, (-2, -2), (1, 1)),
    "expanded": tensor(FOUR, (10**12,), (0,)),
    "of a huge shape": tensor(FOUR, (2**40, 2**40), (1, 1)),
    "of a huge empty shape": tensor(FOUR, (0, 2**62), (1, 1)),
    "of a number beyond int64": tensor(FOUR, (2,), (2**70,)),
    "of a number of many digits": tensor(FOUR, (2**2000,), (1,)),
    "of another rank": tensor(FOUR, (2, 2), (1,)),
    "of no integers": tensor(FOUR, (2.0,), (1,)),
    "of 65 axes": tensor(FOUR, (1,) * 65, (1,) * 65),
}


@pytest.mark.parametrize("case", WRONG_VIEWS)
def test_tensor_outside_its_storage_is_refused(path, case):
    weight_files.write_zip(path, {"w": WRONG_VIEWS[case]}, {"0": bytes(16)})
    refused(path)


@pytest.mark.parametrize("held", [0, 12, 20])
def test_storage_of_another_length_is_refused(path, held):
    tree, _ = described({"w": np.zeros(4, np.float32)})
    weight_files.write_zip(path, tree, {"0": bytes(held)})
    assert "16" in refused(path)
    weight_files.write_stream(path, weight_files.as_stream(tree), {"0": bytes(16)},
                              {"0": held // 4})
    refused(path)


def test_storage_that_is_missing_or_described_twice_is_refused(path):
    weight_files.write_zip(path, {"w": tensor(FOUR, (4,), (1,))}, {"1": bytes(16)})
    refused(path)
    other = storage("0", "int32", 4)
    weight_files.write_zip(path, {"w": tensor(FOUR, (4,), (1,)),
                                  "v": tensor(other, (4,), (1,))}, {"0": bytes(16)})
    assert "two ways" in refused(path)


@pytest.mark.parametrize("write", ["zip", "stream"])
def test_cut_file_is_refused_wherever_it_ends(path, write):
    if write == "zip":
        weight_files.write_zip(path, *described(ARRAYS))
    else:
        write_stream(path, ARRAYS)
    content = path.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path)


def test_bombs_are_refused(path):
    """Compressed members, one of them a bomb, and members that overlap."""
    tree, _ = described({"w": np.zeros(10_000_000, np.float32)})
    weight_files.write_zip(path, tree, {"0": bytes(40_000_000)},
                           compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000 and "compressed" in refused(path)
    names = [f"w{n}" for n in range(100)]
    tree, data = described({name: np.zeros(5000, np.float32) for name in names})
    weight_files.write_zip(path, tree, {"0": data["0"]})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for n in range(1, 100):  # each name with the bytes of the first
            member = zipfile.ZipInfo(f"archive/data/{n}")
            for field in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(member, field, getattr(first, field))
            archive.filelist.append(member)
            archive.NameToInfo[member.filename] = member
        archive._didModify = True
    refused(path)


def test_torchscript_program_is_named(path):
    weight_files.write_zip(path, *described(ARRAYS))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    assert "TorchScript" in refused(path)


def test_other_content_lists_the_formats(path):
    path.write_bytes(pickle.dumps({"w": [1, 2]}))
    message = refused(path)
    for fact in (".pth", ".safetensors", ".h5", ".keras", ".npz"):
        assert fact in message
    refused(path.parent)
    refused(path.parent / "missing.pth")


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickle_of_numpy_arrays(path, protocol):
    arrays = {"conv/0": ARRAYS["conv1.weight"], "conv/1": np.asfortranarray(
        RNG.standard_normal((2, 3))), "step": np.array(3, ">i8")}
    path.write_bytes(pickle.dumps(
        {"conv": [arrays["conv/0"], arrays["conv/1"]], "step": arrays["step"]},
        protocol))
    got = read_numpy_pickle(path)
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype.isnative


@pytest.mark.parametrize("value", [
    CALL, [Name("os.system")], {"w": 1}, np.array([CALL], object),
    np.zeros(3, [("a", np.int32)])])
def test_pickle_of_anything_else_is_refused(path, value):
    plain = isinstance(value, np.ndarray)
    path.write_bytes(pickle.dumps(value, 4) if plain else weight_files.pickled(value))
    refused(path, read_numpy_pickle)


def test_numpy_pickle_with_a_wrong_shape_is_refused(path):
    content = pickle.dumps({"w": np.arange(3, dtype=np.uint8)}, 3)
    assert content.count(b"K\x03\x85") == 1
    path.write_bytes(content.replace(b"K\x03\x85", b"K\xff\x85"))
    refused(path, read_numpy_pickle)
