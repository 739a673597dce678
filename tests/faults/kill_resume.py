"""kill -9 in mid-run, as often as asked for; then the run ends bit for bit alike.

    python -m tests.faults.kill_resume --kills=100 --seed=0

Half of the kills go to a network with batch norm and dropout, half to LeNet-5, both
with adam, an average of the parameters, gradient accumulation, a schedule and
augmentation. Every second kill waits for a save to be open. After each kill the newest
checkpoint must have the checksums that the uninterrupted run has at that step; the next
start must find the folder free. In the end state, figures and rows must be the same.
"""

import json
import random
import signal
import time
from pathlib import Path

from tests.faults.warm import command_line, report, start, workplace
from tiny_runs import RICH, end, read_results, read_rows, wait_until

NETWORKS = {"batch norm and dropout": {}, "LeNet-5": {"model.name": "lenet5"}}
ROWS_PER_EPOCH = 6
UNFINISHED = "*orbax-checkpoint-tmp*"


def checksums(workdir: Path, step: int) -> dict:
    """Shape, dtype and CRC-32 of each leaf, as stored with a checkpoint."""
    path = workdir / "checkpoints" / str(step) / "integrity" / "data.json"
    return json.loads(path.read_text())["leaves"]


def newest(workdir: Path) -> int:
    """The step of the newest whole checkpoint, 0 for none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*")
                if path.name.isdecimal()), default=0)


def rows_written(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def losses(workdir: Path) -> list[list[str]]:
    """history.csv without its last two columns, which are times."""
    lines = (workdir / "history.csv").read_text().splitlines()
    assert lines[0].endswith("learning_rate,seconds,images_per_second")
    return [line.split(",")[:-2] for line in lines]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The same final state, figures and rows, but for the times."""
    a, b = read_results(ours), read_results(theirs)
    for name in ("params_sha256", "epochs", "best_epoch", "validation_accuracy",
                 "test_accuracy", "test_loss", "test_examples"):
        assert a[name] == b[name], name
    assert losses(ours) == losses(theirs)
    assert read_rows(ours) == read_rows(theirs)


def kill_once(workdir: Path, changes: dict, draw: random.Random, folder: Path,
              in_save: bool) -> dict | None:
    """Starts the run and kills it at a drawn moment; None if it ended before."""
    process = start(workdir, changes, folder=folder)
    begun = rows_written(workdir)
    wait_until(lambda: rows_written(workdir) != begun, process)  # it trains by now
    target = rows_written(workdir) + draw.randrange(ROWS_PER_EPOCH)
    delay = draw.uniform(0, 0.03)
    while rows_written(workdir) < target and process.poll() is None:
        time.sleep(0.001)
    while in_save and process.poll() is None and not list(
            (workdir / "checkpoints").glob(UNFINISHED)):
        time.sleep(0.0005)  # a save is open for a few dozen milliseconds
    time.sleep(delay if not in_save else delay / 3)
    process.send_signal(signal.SIGKILL) if process.poll() is None else None
    code, _, errors = end(process)
    if code == 0:
        return None
    assert code == -signal.SIGKILL, (code, errors)
    opened = bool(list((workdir / "checkpoints").glob(UNFINISHED)))
    print(f"killed after row {target} and {1000 * delay:.0f} ms: newest checkpoint "
          f"{newest(workdir)}{', a save was open' if opened else ''}", flush=True)
    return {"open": opened, "step": newest(workdir)}


def kill_and_resume(name: str, kills: int, draw: random.Random, folder: Path) -> dict:
    """The counts for one network."""
    changes = RICH | NETWORKS[name] | {"epochs": max(4, kills)}
    whole, workdir = folder / "whole", folder / "run"
    folder.mkdir()
    code, _, errors = end(start(whole, changes | {"checkpoint.keep": 10_000},
                                folder=folder))
    assert code == 0, errors
    counts = dict.fromkeys(("kills", "in an open save", "same checksums"), 0)
    while counts["kills"] < kills:
        found = kill_once(workdir, changes, draw, folder, counts["kills"] % 2 == 0)
        assert found is not None, "the run ended before it had its kills"
        counts["kills"] += 1
        counts["in an open save"] += found["open"]
        step = found["step"]
        counts["same checksums"] += step == 0 or (
            checksums(workdir, step) == checksums(whole, step))
    code, output, errors = end(start(workdir, changes, folder=folder))
    assert code == 0 and "resuming after step" in output, (output, errors)
    assert_same_run(workdir, whole)
    assert not list((workdir / "checkpoints").glob(UNFINISHED))
    return counts | {"ended alike": True}


def main(kills: int, seed: int) -> dict:
    """{network: counts}; `kills` over all networks."""
    draw = random.Random(seed)
    shares = [kills - kills // 2, kills // 2]
    with workplace() as folder:
        return {name: kill_and_resume(name, share, draw, folder / name)
                for name, share in zip(NETWORKS, shares) if share}


if __name__ == "__main__":
    arguments = command_line(__doc__, kills=100, seed=0)
    figures = main(arguments.kills, arguments.seed)
    report(figures, all(counts["same checksums"] == counts["kills"]
                        for counts in figures.values()))
