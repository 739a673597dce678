"""experiments/reproduce.py on a table of two tiny experiments: 1 epoch of digits."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.forked import Forked
from tests.support.tiny_runs import end, undrawn, wait_until

from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError
from experiments import jpeg_copy, processes, reproduce, results_table
from experiments.published import EXPERIMENTS, Experiment, as_published
from experiments.seed_statistics import prediction_interval

pytestmark = pytest.mark.usefixtures("compiled_once")

TINY = {
    "easy": Experiment("lenet.py:digits", 2, 61_706, 0.1, 0.05, "a guess", 1),
    "never": Experiment("mnist.py:keras", 5, 34_826, 0.9893, 0.002, "one run"),
}
HARD = TINY | {"easy": TINY["easy"]._replace(published=1.0)}
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0]
KEYS = """name params published band mean std n epochs seconds_per_epoch command
    peak_memory_mb hardware""".split()


def run(folder, *arguments, experiments=TINY) -> int:
    """Runs reproduce.py with these arguments; returns its exit code."""
    places = ["--workdir", str(folder / "runs"), "--out", str(folder)]
    with pytest.raises(SystemExit) as done:
        reproduce.main([*places, *arguments], experiments)
    return done.value.code


def rows(folder) -> dict[str, dict]:
    results = json.loads((folder / "RESULTS.json").read_text())
    assert isinstance(results, list)
    return {row["name"]: row for row in results}


class Piped(Forked):
    """Runs main.py with one pipe for its output, as `Runs` starts its processes."""

    def __init__(self, words, env, **_):
        folder = Path(tempfile.mkdtemp(prefix="piped"))
        os.mkfifo(folder / "stdout.txt")
        (folder / "stderr.txt").symlink_to(folder / "stdout.txt")
        super().__init__(words[2:], folder, environment=env, before=undrawn)
        self.stdout = (folder / "stdout.txt").open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stdout.close()
        self.wait()


@pytest.fixture(scope="module")
def piped():
    """Forks the trainings from a process that has made the imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(
            Popen=Piped, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT))
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, compiled_once, piped):
    """Runs both seeds of `easy` side by side; returns the folder of the rows."""
    folder = tmp_path_factory.mktemp("reproduce")
    jobs = min(2, len(CORES))
    assert run(folder, "--only", "easy", "--jobs", str(jobs)) == 0
    return folder


def test_rows_have_what_the_table_needs(measured):
    by_name = rows(measured)
    assert list(by_name) == ["easy", "never"]
    row = by_name["easy"]
    assert set(KEYS) <= row.keys()
    runs = [json.loads((measured / f"runs/easy/seed{seed}/results.json").read_text())
            for seed in (0, 1)]
    accuracies = [results["test_accuracy"] for results in runs]
    assert row["accuracies"] == accuracies and row["n"] == 2 and row["seeds"] == [0, 1]
    assert row["mean"] == pytest.approx(sum(accuracies) / 2)
    spread = abs(accuracies[0] - accuracies[1]) / 2 ** 0.5  # with n - 1
    assert row["std"] == pytest.approx(spread)
    assert row["epochs"] == 1 and row["cut_to_epochs"] == 1
    assert row["params"] == 61_706
    assert row["peak_memory_mb"] == max(r["peak_memory_mb"] for r in runs)
    assert 0 < row["seconds_per_epoch"] < 600
    assert " of " in row["hardware"] and "jax 0." in row["hardware"]
    assert row["command"] == "python experiments/reproduce.py --only easy"


def test_rows_that_were_not_run_say_so(measured):
    row = rows(measured)["never"]
    assert row["n"] == 0 and row["mean"] is None and row["accuracies"] == []
    text = (measured / "RESULTS.md").read_text()
    line, = (line for line in text.splitlines() if line.startswith("| never |"))
    assert "not run" in line and "34,826" in line and "0.9893" in line


def test_the_markdown_table(measured):
    text = (measured / "RESULTS.md").read_text()
    row = rows(measured)["easy"]
    line, = (line for line in text.splitlines() if line.startswith("| easy |"))
    assert f"{row['mean']:.4f} ± {row['std']:.4f} (2)" in line
    assert "1 (cut)" in line and "`python experiments/reproduce.py --only easy`" in line
    assert "- easy: 0.05, a guess." in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 4


def test_the_picture_has_every_run(measured, monkeypatch):
    assert (measured / "RESULTS.png").read_bytes().startswith(b"\x89PNG")
    drawn = []
    monkeypatch.setattr(results_table.plt, "close", drawn.append)
    results_table.picture([*rows(measured).values()], measured / "again.png")
    axes, = drawn[0].axes
    dots, published = (line for line in axes.lines
                       if line.get_label() in ("our runs", "published"))
    assert 1 - dots.get_xdata() == pytest.approx(rows(measured)["easy"]["accuracies"])
    assert published.get_xdata() == pytest.approx([0.9])


@pytest.mark.parametrize("accuracies,span,answer", [
    # scipy.stats.t.ppf(0.975, 2) = 4.30265: mean 0.5, s = 0.1, s sqrt(4/3) = 0.11547
    ([0.4, 0.5, 0.6], "0.2516 to 0.7484", "yes"),
    ([0.59, 0.6, 0.61], "0.5752 to 0.6248", "no, below"),
    ([0.39, 0.4, 0.41], "0.3752 to 0.4248", "no, above"),
    ([0.4], "", ""),
])
def test_the_spread_of_the_seeds(accuracies, span, answer):
    row = {"accuracies": accuracies, "published": 0.5}
    assert results_table.interval(row) == span
    assert results_table.in_spread(row) == answer
    assert results_table.in_spread(row | {"published": None}) == ""


def test_one_more_run_lies_in_the_prediction_interval():
    """Of runs drawn from one normal distribution, 95 % do."""
    values = np.random.default_rng(0).normal(0.7, 0.02, (2000, 4))
    spans = np.array([prediction_interval(row[:3]) for row in values])
    inside = (spans[:, 0] <= values[:, 3]) & (values[:, 3] <= spans[:, 1])
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_two_recipes_are_compared_by_paired_seeds():
    """Only the seeds that both have count."""
    theirs = {"name": "net", "seeds": [0, 1, 2], "accuracies": [0.1, 0.5, 0.9]}
    ours = {"name": "net_ours", "seeds": [1, 2, 3], "accuracies": [0.6, 0.98, 0.3]}
    # +0.10 and +0.08: 0.09 ± 12.706 * 0.01414 / sqrt(2)
    assert results_table.compared([theirs, ours]) == [
        "net_ours - net: +0.0900 (-0.0371 to +0.2171), n = 2"]
    assert results_table.compared([ours, ours | {"name": "net_other"}]) == []


def test_the_published_protocol_is_named_in_the_row(measured, tmp_path):
    """Its images are counted once, and its mean is that of the test images."""
    published = TINY | {"easy": as_published(TINY["easy"], seeds=1)}
    shutil.copytree(measured / "runs", tmp_path / "runs")
    for seed in (0, 1):
        path = tmp_path / f"runs/easy/seed{seed}/config.json"
        path.write_text(path.read_text().replace("held_out", "published"))
        path = tmp_path / f"runs/easy/seed{seed}/data.json"
        info = json.loads(path.read_text())
        info["counts"] = {"train": 1438, "validation": 359, "test": 359}
        path.write_text(json.dumps(info))
    assert run(tmp_path, "--table", experiments=published) == 0
    row = rows(tmp_path)["easy"]
    assert row["n"] == 2 and row["data"] == "protocol=published"
    assert "| easy (protocol=published) |" in (tmp_path / "RESULTS.md").read_text()
    flags = reproduce.parse([], list(published))
    target = reproduce.make_targets(published, flags)["easy"]
    assert "--config.data.protocol=published" in reproduce.Work(target, 0).command


def test_finished_seeds_are_not_run_again(measured, monkeypatch, capsys):
    def fail(*args):
        raise AssertionError("a finished seed was run again")

    monkeypatch.setattr(reproduce.Runs, "run", fail)
    before = rows(measured)
    assert run(measured, "--only", "easy") == 0
    assert capsys.readouterr().out.count("finished") == 2
    assert rows(measured) == before


@pytest.mark.skipif(len(CORES) < 2, reason="one core cannot be shared")
def test_jobs_share_the_cores(measured):
    assert set().union(*processes.shares(2)) == set(CORES)
    assert not set.intersection(*processes.shares(2))
    assert processes.shares(1) == [set()]
    share = len(processes.shares(2)[0])
    assert rows(measured)["easy"]["hardware"].startswith(
        "1 core of " if share == 1 else f"{share} cores of ")


def test_hardware_names_the_convolution_algorithms():
    results = {"devices": ["cpu: cpu"], "machine": "2 cores of X",
               "versions": {"jax": "0.10.2"}, "convolutions": {}}
    assert results_table.hardware(results) == "2 cores of X, jax 0.10.2"
    results["convolutions"] = {"lax": 1, "onednn": 5}
    assert results_table.hardware(results).endswith("convolutions by onednn, lax")
    results["devices"] = ["gpu: H200"] * 2
    assert results_table.hardware(results).startswith("2 x H200, 2 cores of X")


def test_a_row_describes_its_data(measured, monkeypatch, capsys):
    assert rows(measured)["easy"]["data"] == "as published"
    monkeypatch.setitem(reproduce.IMAGES, "digits", 5000)
    for flags in ([], ["--note", "scanned again"]):
        run(measured, "--table", *flags)
    note = "scanned again; on 1,797 of the 5,000 images"
    assert rows(measured)["easy"]["data"] == note
    assert f"| easy ({note}) |" in (measured / "RESULTS.md").read_text()
    assert rows(measured)["easy"]["command"].endswith("--note 'scanned again'")
    monkeypatch.undo()
    run(measured, "--table")


def test_a_row_is_not_replaced_by_one_of_fewer_seeds(measured, tmp_path, capsys):
    """Its command names the number of seeds."""
    shutil.copytree(measured / "runs/easy/seed0", tmp_path / "runs/easy/seed0")
    arguments = ["--only", "easy", "--seeds", "1", "--workdir", str(tmp_path / "runs")]
    assert run(tmp_path, *arguments) == 0
    row = rows(tmp_path)["easy"]
    assert row["n"] == 1 and row["command"].endswith("--only easy --seeds 1")
    assert run(tmp_path, "--table") == 0
    assert rows(tmp_path)["easy"] == row
    (tmp_path / "RESULTS.json").write_text((measured / "RESULTS.json").read_text())
    assert run(tmp_path, *arguments) == 0
    assert rows(tmp_path)["easy"] == rows(measured)["easy"]
    assert rows(tmp_path)["easy"]["n"] == 2


def test_without_a_published_accuracy_our_own_bound_counts(measured, capsys):
    bounded = TINY["easy"]._replace(published=None, band=0.0, least=1.0)
    assert run(measured, "--only", "easy", experiments=TINY | {"easy": bounded}) == 1
    assert re.search(r"easy.*1\.0000", capsys.readouterr().err)
    assert "below 1.0000" in (measured / "RESULTS.md").read_text()
    assert run(measured, "--only", "easy") == 0
    assert "## Below what was needed\n\nNone." in (measured / "RESULTS.md").read_text()


def test_table_runs_nothing(tmp_path):
    assert run(tmp_path, "--table") == 0
    assert [row["n"] for row in rows(tmp_path).values()] == [0, 0]
    assert not (tmp_path / "runs").exists()


def test_exit_code_1_below_the_band(measured, capsys):
    why = HARD | {"easy": HARD["easy"]._replace(why_below="it is hard")}
    assert run(measured, "--only", "easy", experiments=why) == 1
    errors = capsys.readouterr().err
    assert "is below 0.9500 (published 1.0, band 0.05): it is hard" in errors
    assert run(measured, "--only", "easy") == 0


def test_rows_outlive_their_workdirs_unless_the_experiment_changes(measured, tmp_path):
    """A clone without the runs keeps the measured rows of RESULTS.json."""
    copy = json.loads((measured / "RESULTS.json").read_text())
    (tmp_path / "RESULTS.json").write_text(json.dumps(copy))
    flags = reproduce.parse(["--workdir", str(tmp_path / "none")], list(TINY))
    kept = results_table.write(
        list(reproduce.make_targets(TINY, flags).values()), tmp_path)
    assert kept[0]["mean"] == copy[0]["mean"]
    other = TINY | {"easy": TINY["easy"]._replace(epochs=2)}
    gone = results_table.write(
        list(reproduce.make_targets(other, flags).values()), tmp_path)
    assert gone[0]["mean"] is None and gone[0]["n"] == 0


def test_a_workdir_of_another_config_is_refused(measured, capsys):
    other = TINY | {"easy": TINY["easy"]._replace(epochs=2)}
    assert run(measured, "--only", "easy", experiments=other) == 2
    assert "epochs: 1 -> 2" in capsys.readouterr().err


def test_a_field_added_later_does_not_make_another_config(measured):
    target = reproduce.make_targets(
        TINY, reproduce.parse([], list(TINY)))["easy"]
    path = measured / "runs" / "easy" / "seed0"
    text = (path / "config.json").read_text()
    older = json.loads(text)
    del older["schedule"]["decay"]
    (path / "config.json").write_text(json.dumps(older))
    try:
        assert results_table.is_finished(path, target.config)
    finally:
        (path / "config.json").write_text(text)


def test_a_failed_run_is_reported_and_the_next_one_runs(tmp_path, piped, capsys):
    broken = Experiment("lenet.py:mnist", 1, 61_706, None)
    (tmp_path / "mnist").mkdir()
    assert run(tmp_path, "--data", str(tmp_path), "--jobs", str(len(CORES)),
               experiments={"broken": broken, "too": broken}) == 1
    errors = capsys.readouterr().err
    for name in ("broken", "too"):
        assert f"{name} seed 0: exit code 2: cnn_jax: " in errors
        assert rows(tmp_path)[name]["n"] == 0


def only_long() -> None:
    """Leaves one experiment, of a hundred epochs, in a process that reproduces."""
    EXPERIMENTS.clear()
    EXPERIMENTS["long"] = Experiment("lenet.py:digits", 1, 61_706, None, epochs=100)


@pytest.mark.slow
def test_an_interrupted_run_resumes(tmp_path):
    """SIGTERM reaches the training, which saves; the same command resumes it."""
    arguments = ["--workdir", str(tmp_path / "runs"), "--out", str(tmp_path)]
    workdir = tmp_path / "runs" / "long" / "seed0"
    log = workdir.with_suffix(".log")
    for line in ("epoch 2/100", "resuming after step"):
        process = Forked(arguments, tmp_path, before=only_long,
                         module="experiments.reproduce")
        wait_until(lambda: log.exists() and line in log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        code, _, errors = end(process)
        assert code == 128 + signal.SIGTERM, errors
        assert "interrupted" in errors and "Traceback" not in errors
    assert not (workdir / "results.json").exists()


@pytest.mark.parametrize("arguments,part", [
    (["--only", "shape_cnn"], "no such experiment; there are shapes_"),
    (["--seeds", "0"], "must be >= 1"),
    (["--jobs", "0"], "--jobs 0 is not allowed: must be 1 to"),
    (["--data", "no/such/folder"], "is not a folder"),
    (["--cifar10-jpeg", "no/such/folder"], "--cifar10-jpeg no/such/folder"),
    (["--cifar10-jpeg", "README.md"], "--cifar10-jpeg README.md is neither a folder"),
    (["--out", "README.md"], "--out README.md cannot be a folder"),
    (["--workdir", "README.md/runs"], "--workdir README.md/runs cannot be a folder"),
])
def test_bad_arguments_are_one_line(tmp_path, capsys, arguments, part):
    assert run(tmp_path, *arguments, experiments=EXPERIMENTS) == 2
    errors = capsys.readouterr().err
    assert part in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[1", "[1]", '[{"name": "easy"}]'])
def test_damaged_results_are_refused(tmp_path, text):
    (tmp_path / "RESULTS.json").write_text(text)
    with pytest.raises(InputError, match="RESULTS.json.*rows"):
        results_table.earlier(tmp_path)


def test_list_shows_all_experiments(tmp_path, capsys):
    assert run(tmp_path, "--list", experiments=EXPERIMENTS) == 0
    output = capsys.readouterr().out
    for name, row in EXPERIMENTS.items():
        assert name in output and f"configs/{row.config}" in output


def test_cifar10_from_pictures_is_another_row(tmp_path):
    """Its row has its own workdir and names the pictures."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    flags = reproduce.parse(["--cifar10-jpeg", str(pictures)], list(EXPERIMENTS))
    targets = reproduce.make_targets(EXPERIMENTS, flags)
    target = targets["cifar10_lenet5"]
    assert target.config.data.name == "folder" and "JPEG" in target.data
    assert target.folder.name == "cifar10_lenet5-jpeg"
    command = reproduce.Work(target, 3).command
    assert f"--config.data.dir={pictures}" in command and "--config.seed=3" in command
    assert targets["mnist_keras"].data == "as published"
    assert target.command[-2:] == ("--cifar10-jpeg", "pictures")
    row = results_table.row(target, None)
    assert results_table.cells(row)[0].startswith("cifar10_lenet5 (on a JPEG copy")


def test_the_short_table():
    row = {"published": 0.5, "mean": None, "std": None, "n": 0}
    table = {name: row | {"name": name} for name in results_table.SHORT}
    table["mnist_keras"] |= {"mean": 0.5, "std": 0.01, "n": 3}
    table["mnist_cnn_ours"] = table["mnist_cnn"] | {
        "name": "mnist_cnn_ours", "mean": 0.49, "n": 1}
    lines = results_table.short(list(table.values())).splitlines()
    assert lines[2:] == [
        "| MNIST, Keras CNN | 0.5000 | **0.5000 ± 0.0100** (3) |  |",
        "| MNIST, CNN of 12,042 parameters | 0.5000 |  | 0.4900 (1) |"]


def test_committed_results_are_of_these_experiments():
    path = reproduce.ROOT / "measured" / "accuracy" / "RESULTS.json"
    if not path.exists():
        pytest.skip("measured/accuracy/RESULTS.json has not been measured")
    results = json.loads(path.read_text())
    assert [row["name"] for row in results] == list(EXPERIMENTS)
    assert results_table.markdown(results) == path.with_suffix(".md").read_text()
    for row in results:
        experiment = EXPERIMENTS[row["name"]]
        assert (row["params"], row["published"], row["band"]) == (
            experiment.params, experiment.published, experiment.band)
        assert len(row["accuracies"]) == row["n"]
        config, *_ = reproduce.load_config(
            experiment, reproduce.parse([], [row["name"]]))
        assert results_table.same_but_data(
            row["settings"],
            results_table.settings(results_table.result_fields(config)))
        if row["n"]:
            assert row["mean"] == pytest.approx(sum(row["accuracies"]) / row["n"])


def test_copies_are_found_by_their_place_in_the_class():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    exact = Examples(images, np.int32([1, 0, 1, 0, 1]))
    in_folders = Examples(images[[1, 3, 0, 2, 4]], np.int32([0, 0, 1, 1, 1]))
    assert np.array_equal(jpeg_copy.copies_of(exact, in_folders), images)
    assert np.array_equal(jpeg_copy.copies_of(
        Examples(images[:3], exact.labels[:3]), in_folders), images[:3])
    shuffled = Examples(images[[3, 1, 0, 2, 4]], in_folders.labels)
    with pytest.raises(InputError, match="--copy.*test image 1"):
        jpeg_copy.copies_of(exact, shuffled)


def test_what_a_copy_costs_is_a_paired_difference(measured):
    """Of 4 images, 3 and 2 are right on exact pixels, 2 and 2 on copied ones."""
    right = np.array([[[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 1, 0, 0], [1, 0, 1, 0]]], bool)
    # differences averaged over the runs: 0, 0.5, 0, 0; their deviation is 0.25
    assert jpeg_copy.line("net", right).split() == [
        "net", "2", "0.6250", "0.5000", "+0.1250", "±", "0.1250"]
    exact = Examples(np.zeros((3, 8, 8, 1), np.uint8), np.int32([1, 1, 2]))
    answers = jpeg_copy.measure(measured / "runs/easy/seed0", exact, exact.images)
    assert answers.shape == (2, 3) and np.array_equal(answers[0], answers[1])
    assert answers[0, 0] == answers[0, 1]
