"""Two real processes on 127.0.0.1, through main.py, train as one process does."""

import json
import socket

import pytest
from tests.support.tiny_runs import (distance, end, main, read_results, restore,
                                     start_main, tiny)

pytestmark = pytest.mark.usefixtures("compiled_once")

# Plain SGD: see test_parallel.py. An epoch is one step, so each step is kept.
CHANGES = {"data.limit": 16, "batch_size": 16, "checkpoint.keep": 100,
           "optimizer.name": "sgd", "optimizer.learning_rate": 0.02,
           "augment.horizontal_flip": True}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_processes(workdir, changes, count: int = 2) -> list[tuple[int, str, str]]:
    """Runs `main.py` in so many processes with one device each, on one workdir."""
    port = free_port()
    changes = changes | {"coordinator": f"127.0.0.1:{port}", "num_processes": count}
    processes = [start_main(workdir, changes | {"process_id": number})
                 for number in range(count)]
    return [end(process) for process in processes]


def run_alone(workdir, changes):
    """Runs the same training in one process with two devices."""
    code, _, errors = main(workdir, changes, devices=2)
    assert code == 0, errors
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compiled_once):
    return run_alone(tmp_path_factory.mktemp("runs") / "alone", CHANGES | {"epochs": 8})


def assert_same_training(ours, theirs, bounds: dict[int, float]) -> None:
    """Compares states; bounds: step -> relative L2 distance allowed there."""
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


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_two_processes_train_the_model_of_one(alone, tmp_path, kind):
    changes = CHANGES | {"epochs": 8, "parallel": kind}
    (first, output, errors), (second, silence, more) = run_processes(tmp_path, changes)
    assert (first, second) == (0, 0), errors + more
    assert "2 process(es)" in output and "epoch 8/8" in output
    ours = [line for line in silence.splitlines() if not line.startswith("[Gloo]")]
    assert ours == [], "only the first process reports"

    assert_same_training(tmp_path, alone, {1: 1e-6, 8: 1e-4})
    assert_written_once(tmp_path, epochs=8)
    assert read_results(tmp_path)["devices"] == ["cpu: cpu"] * 2
    assert (read_results(tmp_path)["test_loss"]
            == pytest.approx(read_results(alone)["test_loss"], rel=1e-4))


def test_processes_with_different_configs_are_refused(tmp_path):
    port = free_port()
    processes = [start_main(tmp_path / "run", CHANGES | {
        "coordinator": f"127.0.0.1:{port}", "num_processes": 2, "process_id": number,
        "seed": number}) for number in range(2)]
    for code, _, errors in map(end, processes):
        assert code == 2 and "different configs or data" in errors, errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_two_processes_after_sixty_steps(tmp_path, kind):
    changes = CHANGES | {"epochs": 60, "parallel": kind}
    run_alone(tmp_path / "alone", changes)
    results = run_processes(tmp_path / "both", changes)
    assert [code for code, *_ in results] == [0, 0], results
    assert_same_training(tmp_path / "both", tmp_path / "alone", {1: 1e-6, 60: 1e-4})
