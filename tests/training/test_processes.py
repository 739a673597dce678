"""Two real processes on 127.0.0.1, through main.py, train like one process."""

import functools
import hashlib
import json
import os
import socket
from pathlib import Path

import jax
import pytest
from tests.support.forked import Forked
from tests.support.tiny_runs import (distance, end, main, picture_folder, read_results,
                                     read_rows, restore, start_main, tiny, undrawn,
                                     wait_until)

from cnn_jax.errors import InputError
from cnn_jax.training import parallel
from cnn_jax.training.feed import Streamed

pytestmark = pytest.mark.usefixtures("compiled_once")

STEPS = 6  # of an epoch of streamed pictures
# Plain SGD: see test_parallel.py. An epoch is one step, so each step is kept.
CHANGES = {"data.limit": 16, "batch_size": 16, "checkpoint.keep": 100,
           "optimizer.name": "sgd", "optimizer.learning_rate": 0.02,
           "augment.horizontal_flip": True}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_processes(workdir, changes, count: int = 2,
                  before=undrawn) -> list[tuple[int, str, str]]:
    """Runs `main.py` in `count` processes with one device each, on one workdir."""
    return [end(process)
            for process in start_processes(workdir, changes, count, before)]


def start_processes(workdir, changes, count: int, before=undrawn) -> list[Forked]:
    if count == 1:
        return [start_main(workdir, changes, before=before)]
    port = free_port()
    changes = changes | {"coordinator": f"127.0.0.1:{port}", "num_processes": count}
    return [start_main(workdir, changes | {"process_id": number}, before=before)
            for number in range(count)]


def run_alone(workdir, changes):
    """Runs the same training in one process with two devices."""
    code, _, errors = main(workdir, changes, devices=2, before=undrawn)
    assert code == 0, errors
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compiled_once):
    return run_alone(tmp_path_factory.mktemp("runs") / "alone", CHANGES | {"epochs": 4})


def assert_same_training(ours, theirs, bounds: dict[int, float]) -> None:
    """Compares states. bounds: {step: relative L2 distance that is allowed}."""
    for step, bound in bounds.items():
        a, b = (restore(workdir, tiny(CHANGES), step) for workdir in (ours, theirs))
        for part in ("params", "batch_stats"):
            difference = distance(getattr(a, part), getattr(b, part))
            print(f"step {step}, {part}: {difference:.1e}")
            assert difference <= bound


def assert_written_once(workdir, epochs: int) -> None:
    """Asserts that one process wrote the metrics, with one checkpoint a step."""
    rows = [json.loads(line) for line in
            (workdir / "metrics.jsonl").read_text().splitlines()]
    numbers = [row["epoch"] for row in rows if row["kind"] == "epoch"]
    assert numbers == list(range(1, epochs + 1))
    for split in ("train", "validation"):
        assert len(list((workdir / split).iterdir())) == 1
    assert len(list((workdir / "checkpoints").iterdir())) == epochs
    assert len((workdir / "history.csv").read_text().splitlines()) == epochs + 1


@pytest.mark.parametrize("kind, stream", [
    ("jit", True),
    *(pytest.param(kind, False, marks=pytest.mark.slow) for kind in ("jit", "pmap"))])
def test_two_processes_train_the_model_of_one(alone, tmp_path, kind, stream):
    changes = CHANGES | {"epochs": 4, "parallel": kind, "data.stream": stream}
    (first, output, errors), (second, silence, more) = run_processes(tmp_path, changes)
    assert (first, second) == (0, 0), errors + more
    assert "2 processes" in output and "epoch 4/4" in output
    ours = [line for line in silence.splitlines() if not line.startswith("[Gloo]")]
    assert ours == [], "only the first process reports"

    assert_same_training(tmp_path, alone, {1: 1e-6, 4: 1e-4})
    assert_written_once(tmp_path, epochs=4)
    assert read_results(tmp_path)["devices"] == ["cpu: cpu"] * 2
    assert (read_results(tmp_path)["test_loss"]
            == pytest.approx(read_results(alone)["test_loss"], rel=1e-4))


def test_processes_with_different_configs_are_refused(tmp_path):
    """They are joined by the variables that launchers set."""
    variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
                 "JAX_NUM_PROCESSES": "2"}
    processes = [start_main(tmp_path / "run", CHANGES | {
        "coordinator": "auto", "seed": number}, variables=variables | {
            "JAX_PROCESS_ID": str(number)}) for number in range(2)]
    for code, _, errors in map(end, processes):
        assert code == 2 and "config" in errors and errors.count("cnn_jax: ") == 1
    assert not (tmp_path / "run").exists()


def test_joined_processes_are_not_joined_again(monkeypatch):
    """Ray Train, Kubeflow and notebooks may have joined them."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "initialize", None)
    parallel.start_processes(tiny(coordinator="auto"))


def test_launcher_variables_are_checked_and_the_config_wins(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize",
                        lambda *arguments: joined.append(arguments))
    parallel.start_processes(tiny(coordinator="auto"))
    monkeypatch.setenv("JAX_NUM_PROCESSES", "8")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    parallel.start_processes(tiny(coordinator="auto"))
    parallel.start_processes(tiny(coordinator="auto", num_processes=4, process_id=0))
    assert joined == [(None, None, None), (None, 8, 3), (None, 4, 0)]
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(InputError, match="JAX_PROCESS_ID.*'first'"):
        parallel.start_processes(tiny(coordinator="auto"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_two_processes_after_sixty_steps(tmp_path, kind):
    changes = CHANGES | {"epochs": 60, "parallel": kind}
    run_alone(tmp_path / "alone", changes)
    results = run_processes(tmp_path / "both", changes)
    assert [code for code, *_ in results] == [0, 0], results
    assert_same_training(tmp_path / "both", tmp_path / "alone", {1: 1e-6, 60: 1e-4})


# Streamed data: each process reads its share of a batch from a folder of pictures.

@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Writes 40 pictures: 23 to train, 6 steps an epoch."""
    flags = picture_folder(tmp_path_factory.mktemp("data") / "set",
                           ["ant", "bee", "cat", "dog"], 256)
    return CHANGES | flags | {
        "data.stream": True, "epochs": 3, "eval_batch_size": 3, "log.every_steps": 1,
        "checkpoint.every_steps": 2, "early_stopping.patience": None}


def record_batches(folder: Path) -> None:
    """Makes this process record every example that it feeds, and turns off drawing.

    A line of FOLDER/PID has the step, the position in the global batch, and the hash of
    image and label.
    """
    undrawn()
    folder.mkdir(exist_ok=True)
    start, to_device = Streamed.start, Streamed._to_device
    at = [0]

    def start_at(self, epoch, step):
        at[0] = epoch * STEPS + step
        start(self, epoch, step)

    def record(self, batch):
        if batch.mask is None:  # of training
            positions = self.placement.positions(self.config.batch_size)
            with (folder / str(os.getpid())).open("a") as file:
                for position, *example in zip(positions, batch.images, batch.labels,
                                              strict=True):
                    bits = b"".join(array.tobytes() for array in example)
                    digest = hashlib.sha256(bits).hexdigest()
                    file.write(f"{at[0]} {position} {digest}\n")
            at[0] += 1
        return to_device(self, batch)

    Streamed.start, Streamed._to_device = start_at, record


def recorded(folder: Path):
    return functools.partial(record_batches, folder)


def fed(folder: Path) -> dict[tuple[int, int], str]:
    """Reads {(step, position): hash} of all processes, which must agree."""
    batches = {}
    for line in (line for file in folder.iterdir()
                 for line in file.read_text().splitlines()):
        step, position, digest = line.split()
        key = int(step), int(position)
        assert batches.setdefault(key, digest) == digest, key
    return batches


def step_losses(workdir) -> list[float]:
    """Reads the loss of each step, which depends on the batch."""
    return [row["loss"] for row in read_rows(workdir) if row["kind"] == "steps"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jit", "pmap"])
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_streams_the_same_batches(tmp_path, pictures, count,
                                                          kind):
    changes = pictures | {"parallel": kind}
    code, _, errors = main(tmp_path / "alone", changes, before=recorded(tmp_path / "a"))
    assert code == 0, errors
    results = run_processes(tmp_path / "several", changes, count,
                            recorded(tmp_path / "b"))
    assert [code for code, *_ in results] == [0] * count, results
    assert len(fed(tmp_path / "a")) == 3 * STEPS * 4
    assert fed(tmp_path / "b") == fed(tmp_path / "a")
    assert step_losses(tmp_path / "several") == pytest.approx(
        step_losses(tmp_path / "alone"), rel=1e-4)
    assert_same_evaluation(tmp_path / "several", tmp_path / "alone")


def assert_same_evaluation(ours, theirs) -> None:
    a, b = read_results(ours), read_results(theirs)
    assert a["test_examples"] == b["test_examples"] == 10
    assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-4)
    assert a["test_accuracy"] == b["test_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(4, 2, 1), (1, 4, 2)])
def test_a_run_resumes_on_another_number_of_processes(tmp_path, pictures, counts):
    """All processes are killed twice, after a checkpoint within an epoch."""
    alone, workdir = tmp_path / "alone", tmp_path / "several"
    code, _, errors = main(alone, pictures, before=recorded(tmp_path / "a"))
    assert code == 0, errors
    record = recorded(tmp_path / "b")
    for count, stop in zip(counts[:2], (4, 10)):
        processes = start_processes(workdir, pictures, count, record)
        wait_until(lambda: (workdir / "checkpoints" / str(stop)).exists(), processes[0])
        for process in processes:
            process.kill()
        for process in processes:
            end(process)
    results = [end(process)
               for process in start_processes(workdir, pictures, counts[2], record)]
    assert [code for code, *_ in results] == [0] * counts[2], results
    assert "resuming after step" in results[0][1]
    assert fed(tmp_path / "b") == fed(tmp_path / "a")
    assert step_losses(workdir) == pytest.approx(step_losses(alone), rel=1e-4)
    assert_same_evaluation(workdir, alone)


@pytest.mark.slow
def test_a_broken_picture_ends_all_processes_with_one_line_each(tmp_path, pictures):
    broken = Path(pictures["data.dir"]) / "ant" / "6.png"  # a training picture
    content = broken.read_bytes()
    broken.write_bytes(content[:60])
    try:
        results = run_processes(tmp_path, pictures)
        skipping = run_processes(tmp_path / "skip",
                                 pictures | {"data.on_error": "skip"})
    finally:
        broken.write_bytes(content)
    codes = [code for code, *_ in results]
    assert 2 in codes and 0 not in codes, results
    for code, _, errors in results:  # the runtime of JAX may add its own lines
        lines = [line for line in errors.splitlines() if line.startswith("cnn_jax: ")]
        assert len(lines) <= 1 and "Traceback" not in errors, errors
        if code == 2:
            assert "ant/6.png" in lines[0]
    assert [code for code, *_ in skipping] == [0, 0], skipping
    assert read_results(tmp_path / "skip")["skipped"] == [str(broken)]
