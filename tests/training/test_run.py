"""`run` and the modes of main.py: the files and lines of a run, and its later use."""

import functools
import json
import multiprocessing.util
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tests.support.tiny_runs import (end, main, prepare, read_results, read_rows,
                                     restore, scalars, start_main, tiny, wait_until)

from cnn_jax import networks, training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError, RunError
from cnn_jax.inspection import predict
from cnn_jax.native import library
from cnn_jax.networks.summary import layer_table
from cnn_jax.training import eval_batch, parallel, setup, train
from cnn_jax import console
from cnn_jax.workdir import trained
from cnn_jax.training.evaluate import make_evaluation
from cnn_jax.training.eval_batch import evaluation_batch
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.training.feed import open_feed

pytestmark = pytest.mark.usefixtures("compiled_once")

# A network that has learned its digits, so that predictions can be tested.
TAUGHT = {"data.limit": None, "batch_size": 64, "epochs": 6,
          "checkpoint.every_seconds": 1e6,
          "optimizer.learning_rate": 0.005}
KEYS = """network dataset seed params epochs best_epoch validation_accuracy
    test_accuracy test_loss test_examples train_seconds compile_seconds
    images_per_second peak_memory_mb params_sha256 versions devices machine command
    commit""".split()
FILES = """config.json metrics.jsonl history.csv train validation checkpoints
    summary.txt learning_curves.png results.json classification_metrics.json pictures
    inspection network.svg report.html""".split()


def note_modules(path) -> None:
    """Writes at the end of a process which of the large libraries it imported."""
    multiprocessing.util.Finalize(None, lambda: path.write_text(str([
        name for name in ("tensorflow", "torch", "keras") if name in sys.modules])),
        exitpriority=0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, compiled_once):
    """Trains through main.py, as a user does; returns (workdir, stdout)."""
    workdir = tmp_path_factory.mktemp("runs") / "taught"
    code, output, errors = main(workdir, TAUGHT, before=functools.partial(
        note_modules, workdir.parent / "modules.txt"))
    assert code == 0, errors
    return workdir, output


def ask(capsys, mode: str, workdir=None, config=None, **fields) -> str:
    """Returns the output of `main.py --mode=...`, without starting a process."""
    commands.run(Request(mode, config, workdir, **fields))
    return capsys.readouterr().out


# Lines and files of a run

def test_the_workdir_has_every_documented_file(taught):
    workdir, _ = taught
    assert set(FILES) <= {path.name for path in workdir.iterdir()}
    assert not list(workdir.glob("*.partial"))
    with Image.open(workdir / "learning_curves.png") as curves:
        assert curves.size[0] > 300
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 64


def test_results_hold_every_figure(taught):
    workdir, _ = taught
    results = read_results(workdir)
    assert set(KEYS) <= results.keys()
    assert (results["network"], results["dataset"]) == ("baseline", "digits")
    assert (results["params"], results["test_examples"]) == (13_874, 359)
    assert results["epochs"] == 6 and 1 <= results["best_epoch"] <= 6
    assert results["test_accuracy"] > 0.8, "it did not learn its digits"
    assert re.fullmatch("[0-9a-f]{64}", results["params_sha256"])
    for name in ("train_seconds", "images_per_second", "peak_memory_mb"):
        assert results[name] > 0
    assert "main.py --config=configs/default.py" in results["command"]


def test_the_lines_of_a_run(taught):
    workdir, output = taught
    lines = output.splitlines()
    assert f"workdir: {workdir}" in lines
    for title in ("initializing", "compiling evaluation", "compiling training"):
        started = lines.index(f"{title} ...")
        assert re.fullmatch(rf"{title} took [\d.]+ s", lines[started + 1])
    assert any(line.startswith("devices: 1 x cpu") and "jax 0." in line
               for line in lines)
    epochs = [line for line in lines if line.startswith("epoch ")]
    regex = (r"epoch \d/6 - loss: \d\.\d{4} - accuracy: \d\.\d{4} - val_loss: "
             r"\d\.\d{4} - val_accuracy: \d\.\d{4} - [\d.]+ s - [\d,]+ images/s")
    assert len(epochs) == 6 and all(re.fullmatch(regex, line) for line in epochs)
    assert any(line.startswith("test: loss: ") for line in lines)


def test_history_and_metrics_have_each_epoch_once(taught):
    workdir, _ = taught
    rows = [row for row in read_rows(workdir) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in rows] == list(range(1, 7))
    steps = [row["step"] for row in read_rows(workdir) if row["kind"] == "steps"]
    assert steps == sorted(set(steps)) and steps[-1] == rows[-1]["step"]
    table = (workdir / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == list("123456")


def test_tensorboard_reads_the_events(taught):
    workdir, _ = taught
    rows = [row for row in read_rows(workdir) if row["kind"] == "epoch"]
    events = {split: scalars(workdir / split) for split in ("train", "validation")}
    assert set(events["train"]) == set(events["validation"]) == {
        "loss", "accuracy", "learning_rate", "images_per_second"}
    for split, prefix in (("train", ""), ("validation", "val_")):
        for tag in ("loss", "accuracy"):
            assert events[split][tag] == [
                (row["step"], pytest.approx(row[prefix + tag])) for row in rows]


def test_neither_tensorflow_nor_torch_is_used(taught):
    """Neither by the run nor by its pictures."""
    assert (taught[0].parent / "modules.txt").read_text() == "[]"


# The same folder again

def test_a_finished_run_says_so_and_only_evaluates(taught, capsys):
    workdir, output = taught
    before = (workdir / "results.json").read_bytes()
    training.run(tiny(TAUGHT), workdir)
    again = capsys.readouterr().out
    assert "finished" in again and "epoch 6" in again
    assert "compiling training" not in again
    test = [line for line in output.splitlines() if line.startswith("test: ")]
    assert test[0] in again.splitlines()
    assert (workdir / "results.json").read_bytes() == before


def test_another_config_is_refused_by_field(taught):
    workdir, _ = taught
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(InputError) as caught:
        training.run(tiny(TAUGHT | {"seed": 5, "optimizer.name": "sgd"}), workdir)
    assert "seed: 0 -> 5" in str(caught.value)
    assert "optimizer.name: 'adam' -> 'sgd'" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    assert (workdir / "config.json").read_bytes() == before


def test_a_second_writer_is_refused_and_a_stale_lock_is_not(tmp_path):
    changes = {"epochs": 4000, "early_stopping.patience": None}
    process = start_main(tmp_path, changes)
    try:
        wait_until(lambda: (tmp_path / "history.csv").exists(), process)
        with pytest.raises(InputError, match=str(tmp_path)):
            training.run(tiny(changes), tmp_path, quiet=True)
        assert process.poll() is None
        wait_until(lambda: list((tmp_path / "checkpoints").glob("?*")), process)
    finally:
        process.kill()
        end(process)
    with pytest.raises(InputError, match="epochs: 4000 -> 2"):  # the lock was free
        training.run(tiny(), tmp_path, quiet=True)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_checkpoints_without_config_or_data_are_not_resumed(
        taught, tmp_path, name):
    shutil.copytree(taught[0], tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=f"checkpoints.*{name}"):
        training.run(tiny(TAUGHT), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("name, old, new, pattern", [
    ("data.json", '"scaling": [', '"scaling": [5, ', ".*scaling"),
    ("data.json", '"digits"', "null", ".*name"),
    ("config.json", '"momentum"', '"momen.tum"', ".*momen.tum"),
    ("config.json", "{", "[", "")])
def test_json_that_was_changed_is_refused(taught, tmp_path, name, old, new, pattern):
    shutil.copytree(taught[0], tmp_path / "run")
    path = tmp_path / "run" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for use in (lambda: trained.load(tmp_path / "run"),
                lambda: training.run(tiny(TAUGHT), tmp_path / "run", quiet=True)):
        with pytest.raises(InputError, match=name + pattern):
            use()


# Evaluation, against plain NumPy

def numpy_figures(loaded, examples) -> dict:
    """Computes mean cross-entropy and accuracy of a split, in float64."""
    logits = np.asarray(loaded.network.apply(
        loaded.variables, scale(examples.images, loaded.info.scaling), train=False),
        np.float64)
    top = logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    losses = log_sum - logits[np.arange(len(logits)), examples.labels]
    return {"loss": losses.mean(), "examples": len(losses),
            "accuracy": (logits.argmax(1) == examples.labels).mean()}


@pytest.mark.parametrize("batch_size", [
    7, 100, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 1000))])
def test_evaluation_counts_every_example_once(taught, batch_size, monkeypatch, capsys):
    loaded = trained.load(taught[0])
    config = tiny(TAUGHT, eval_batch_size=batch_size)
    dataset, recipe, _ = prepare(config)
    placement = parallel.make_placement(config)
    state = placement.replicate(restore(taught[0], config, loaded.step))
    monkeypatch.setattr(console, "QUIET_SECONDS", -1.0)
    feed = open_feed(placement, dataset, config, 1)
    assert feed.eval_batch_size <= batch_size
    evaluate = make_evaluation(recipe, placement, feed, console.Reporter())
    for split in ("validation", "test"):
        expected = numpy_figures(loaded, getattr(dataset, split))
        assert evaluate(state, split) == {
            "loss": pytest.approx(expected["loss"], rel=1e-6),
            "accuracy": expected["accuracy"], "examples": expected["examples"]}
        batches = -(-expected["examples"] // feed.eval_batch_size)
        assert (f"evaluating {split} - step {batches - 1}/{batches} - batches of "
                f"{feed.eval_batch_size}") in capsys.readouterr().out


@pytest.mark.parametrize("fitting, size", [(23, 16), (0.1, 1), (499, 256), (501, 500)])
def test_memory_limits_the_evaluation_batch(fitting, size, monkeypatch, capsys):
    table = layer_table(networks.create("resnet18"), (64, 64, 3))
    each = 2 * max(row.inputs + row.memory for row in table.rows)
    monkeypatch.setattr(eval_batch, "memory_bytes", lambda devices: 2 * fitting * each)
    placement = parallel.make_placement(tiny())
    arguments = table, placement, console.Reporter()
    assert eval_batch.largest_batch(tiny(eval_batch_size=None), *arguments) == size
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (size != 500) and all(f"batches of {size} images" in line
                                               for line in lines)
    assert eval_batch.largest_batch(tiny(eval_batch_size=300), *arguments) == 300
    assert not capsys.readouterr().out


def test_metrics_do_not_depend_on_the_memory(taught, monkeypatch, capsys):
    config = tiny(TAUGHT, eval_batch_size=None)
    results = []
    for memory in (2**40, 2**20):
        monkeypatch.setattr(eval_batch, "memory_bytes", lambda devices: memory)
        results.append(evaluate_run(taught[0], config))
        output = capsys.readouterr().out
        assert ("config.eval_batch_size" in output) == (memory == 2**20)
    for split, metrics in results[0].items():
        other = results[1][split]
        assert other["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
        assert {**other, "loss": None} == {**metrics, "loss": None}


def test_the_memory_of_devices_or_otherwise_of_the_host_counts(monkeypatch):
    class Device(NamedTuple):
        limit: int | None
        process_index: int = 0

        def memory_stats(self):
            return self.limit and {"bytes_limit": self.limit}

    monkeypatch.setattr(eval_batch, "available_bytes", lambda: 7)
    assert eval_batch.memory_bytes([Device(100), Device(300)]) == 200
    assert eval_batch.memory_bytes([Device(None)]) == 7


# The other modes

def test_eval_scores_the_best_checkpoint(taught, capsys):
    workdir, _ = taught
    output = ask(capsys, "eval", workdir, tiny(TAUGHT))
    results = read_results(workdir)
    assert (f"test: loss: {results['test_loss']:.4f} - accuracy: "
            f"{results['test_accuracy']:.4f} - 359 examples") in output
    # The folder alone is enough.
    assert "359 examples" in ask(capsys, "eval", workdir)


def write_pictures(folder) -> list[tuple[str, int]]:
    """Writes test digits as PNG files of many kinds; returns (path, label) of each."""
    dataset, _, _ = prepare(tiny())
    kinds = {"grey": ("L", (8, 8)), "large": ("L", (61, 40)), "deep": ("I;16", (8, 8)),
             "colour": ("RGB", (32, 32)), "alpha": ("RGBA", (24, 24)),
             "grey_alpha": ("LA", (8, 8)), "palette": ("P", (16, 16))}
    written = []
    for index, (kind, (mode, size)) in enumerate(list(kinds.items()) * 4):
        pixels, label = dataset.test.images[index, :, :, 0], dataset.test.labels[index]
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        path = folder / f"{index:02}_{kind}.png"
        image.save(path)
        written.append((str(path), int(label)))
    return written


def test_predict_recognizes_digits_in_any_kind_of_picture(taught, tmp_path, capsys):
    workdir, _ = taught
    pictures = write_pictures(tmp_path)
    answers = json.loads(ask(capsys, "predict", workdir, tiny(TAUGHT), json=True,
                             paths=(str(tmp_path),)))
    assert [answer["image"] for answer in answers] == [path for path, _ in pictures]
    for answer in answers:
        assert len(answer["classes"]) == len(answer["probabilities"]) == 5
        assert answer["probabilities"] == sorted(answer["probabilities"], reverse=True)
        assert 0 < sum(answer["probabilities"]) <= 1 + 1e-6
    right = sum(answer["classes"][0] == str(label)
                for answer, (_, label) in zip(answers, pictures))
    assert right >= 0.75 * len(pictures), (right, len(pictures))

    # The output is text; two files are given by name.
    names = tuple(path for path, _ in pictures[:2])
    lines = ask(capsys, "predict", workdir, paths=names, top=2).splitlines()
    for line, answer in zip(lines, answers[:2], strict=True):
        first = f"{answer['classes'][0]} {100 * answer['probabilities'][0]:.1f} %"
        assert line.startswith(f"{answer['image']}: {first}, ")


def test_predict_refuses_files_that_are_not_pictures(taught, tmp_path, capsys):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(InputError, match="a.png"):
        ask(capsys, "predict", taught[0], paths=(str(tmp_path / "a.png"),))
    with pytest.raises(InputError, match="--images"):
        ask(capsys, "predict", taught[0])
    with pytest.raises(InputError, match=str(tmp_path)):
        ask(capsys, "predict", tmp_path, paths=(str(tmp_path / "a.png"),))


def test_predict_skips_unreadable_pictures(taught, tmp_path, capsys):
    good = [path for path, _ in write_pictures(tmp_path)[:3]]
    bad = [tmp_path / "zero.png", tmp_path / "00_text.jpg"]
    for path in bad:
        path.write_text("")
    lines = ask(capsys, "predict", taught[0], paths=good, top=1).splitlines()
    code, output, errors = main(taught[0], TAUGHT, "--mode=predict", "--top=1",
                                f"--images={bad[1]}", *good, str(bad[0]))
    assert code == 1 and output.splitlines() == lines
    assert "2 of 5 pictures" in errors and all(str(path) in errors for path in bad)
    with pytest.raises(RunError):
        ask(capsys, "predict", taught[0], paths=[*good, *map(str, bad)], json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [answer["image"] for answer in listed if "error" in answer] == [*map(
        str, bad)] and len(listed) == 5


def test_a_list_of_unreadable_pictures_is_short():
    errors = {Path(f"{i}.png"): InputError(f"{i}.png is damaged") for i in range(500)}
    text = predict.first_errors(errors)
    assert "0.png" in text and "497 more" in text and len(text) < 200


def test_weights_reproduce_the_logits(taught, capsys):
    workdir, _ = taught
    printed = ask(capsys, "weights", workdir).split()
    assert printed == [str(workdir / "weights.npz"), str(workdir / "weights.txt")]
    tree = {}
    with np.load(workdir / "weights.npz", allow_pickle=False) as arrays:
        for path, value in arrays.items():
            *parents, leaf = path.split("/")
            node = tree
            for name in parents:
                node = node.setdefault(name, {})
            node[leaf] = value
    loaded = trained.load(workdir)
    dataset, _, _ = prepare(tiny(TAUGHT))
    images = scale(dataset.test.images[:20], loaded.info.scaling)
    expected = loaded.network.apply(
        loaded.variables, images, train=False)
    np.testing.assert_array_equal(
        loaded.network.apply(tree, images, train=False), expected)
    text = (workdir / "weights.txt").read_text()
    assert "params/head/kernel  shape (128, 10)  mean" in text


def test_the_average_is_evaluated_predicted_and_exported(
        tmp_path, capsys, monkeypatch):
    """With ema_decay all modes use the averaged parameters."""
    monkeypatch.setattr(train, "draw", lambda *_: None)
    training.run(tiny({"optimizer.ema_decay": 0.5}), tmp_path, quiet=True)
    assert capsys.readouterr().out == ""
    loaded = trained.load(tmp_path)
    ask(capsys, "weights", tmp_path)
    with np.load(tmp_path / "weights.npz") as arrays:
        kernel = arrays["params/head/kernel"]
    state = restore(tmp_path, loaded.config, loaded.step)
    np.testing.assert_array_equal(kernel, state.ema_params["head"]["kernel"])
    assert not np.array_equal(kernel, state.params["head"]["kernel"])


@pytest.mark.parametrize("limit, counts, devices, expected", [
    (500, (5000, 10000), 1, 500),   # MNIST: nothing is padded
    (500, (0, 272), 1, 272),        # one call of the size of the split
    (500, (128, 272), 1, 136),      # 8 images are padded; one call of 272 pads 144
    (64, (1000, 1000), 1, 50),
    (500, (0, 0), 4, 500),
    (501, (0, 0), 4, 504),
    (500, (0, 273), 4, 276),        # a multiple of the devices
    (500, (3, 0), 4, 4),
    (1, (7, 0), 1, 1)])
def test_evaluation_pads_little(limit, counts, devices, expected):
    class Devices(NamedTuple):
        devices: tuple
    size = evaluation_batch(limit, dict(zip(("validation", "test"), counts)),
                            Devices((None,) * devices))
    assert size == expected


@pytest.mark.parametrize("made, dtype, platform, lines", [
    (None, "bfloat16", "cpu", 1),
    (library.Library("3.2.0", False, "OpenMP", None), "bfloat16", "cpu", 1),
    (library.Library("3.2.0", True, "OpenMP", None), "bfloat16", "cpu", 0),
    (None, "bfloat16", "gpu", 0), (None, "float32", "cpu", 0)])
def test_bfloat16_on_a_cpu_without_it(monkeypatch, made, dtype, platform, lines):
    monkeypatch.setattr(library, "load_onednn", lambda: made)
    assert len([*setup.slower_dtype(dtype, platform)]) == lines


def test_the_log_says_once_that_float32_is_faster(
        tmp_path, capsys, monkeypatch, no_onednn):
    monkeypatch.setattr(train, "draw", lambda *_: None)
    training.run(tiny(dtype="bfloat16", epochs=1), tmp_path)
    assert capsys.readouterr().out.count("float32 is faster") == 1
