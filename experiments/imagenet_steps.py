"""Do the ImageNet recipes train, stop and resume? Runs about 200 small steps of each.

    python experiments/imagenet_steps.py OUT [RECIPE ...]

Draws a set of ImageNet's layout (experiments/fake_imagenet.py). Trains each recipe of
configs/imagenet.py on it twice, on the CPU: once without interruption, and once with a
SIGTERM in mid-epoch, then the same command again. Both must end with the same bits. It
says nothing about accuracy: the pictures are noise, and `SMALL` and `RECIPES` make the
recipe smaller. Programs are compiled once for all runs of a recipe. It took about an
hour on two cores that were busy with other work.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cnn_jax.errors import InputError, RunError  # noqa: E402
from configs import imagenet  # noqa: E402
from experiments import fake_imagenet  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402

# Changes of all recipes; the head keeps its 1,000 classes.
SMALL = {"data.stream": "true", "data.image_size": "(64,64)", "data.shorter_side": 73,
         "data.validation_count": 20, "model.num_classes": 1000, "batch_size": 16,
         "eval_batch_size": 20, "log.every_steps": 1}
# {recipe: (its own changes, the step after which it is stopped)}. The recipes with
# growing images keep their epochs and are stopped while the images grow.
GROWING = {"progressive.sides": "(32,64)", "progressive.multiple": 16}
RECIPES = {
    "resnet50_90": ({"epochs": 10, "data.limit": 320}, 110),        # 20 steps an epoch
    "resnet50_16": ({"data.limit": 208} | GROWING, 160),            # 13
    "resnet50_40": ({"data.limit": 80} | GROWING, 158),             # 5
    "mobilenet_v2": ({"epochs": 10, "data.limit": 320}, 110),       # 20
    "mobilenet_v2_ema": ({"epochs": 10, "data.limit": 320}, 110),   # 20
}


def command(recipe: str, folder: Path, workdir: Path) -> list[str]:
    """Returns the command that trains a recipe with the changes that make it small."""
    changes = SMALL | RECIPES[recipe][0] | {"data.dir": folder}
    return [sys.executable, "main.py", f"--config=configs/imagenet.py:{recipe}",
            *(f"--config.{field}={value}" for field, value in changes.items()),
            f"--workdir={workdir}"]


def train(arguments: list[str], workdir: Path, stop: int | None = None) -> float:
    """Trains to the end, or until a step after which SIGTERM is sent.

    Returns the seconds. Raises RunError for an exit code other than 0 and 143.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    with open(workdir.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log,
                                   env=environment)
        if stop is not None:
            while last_step(workdir) < stop and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code != (0 if stop is None else 128 + signal.SIGTERM):
        raise RunError(f"exit code {code}: see {log.name}; the command was "
                       f"{shlex.join(arguments)}")
    return time.monotonic() - begun


def last_step(workdir: Path) -> int:
    """Returns the last step that a run has logged, or 0."""
    path = workdir / "metrics.jsonl"
    # The run may be writing the last line.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def saved_step(workdir: Path) -> int:
    """Returns the newest step that a run has saved."""
    return max(int(folder.name) for folder in (workdir / "checkpoints").iterdir()
               if folder.name.isdecimal())


def compare(recipe: str, folder: Path, out: Path) -> str:
    """Trains a recipe with and without a stop; returns a line about it.

    Raises RunError if they do not end with the same bits.
    """
    whole, resumed = (out / f"{recipe}_{name}" for name in ("whole", "resumed"))
    arguments = command(recipe, folder, whole)
    print(shlex.join(["python", *arguments[1:]]), flush=True)
    seconds = train(arguments, whole)
    train(command(recipe, folder, resumed), resumed, stop=RECIPES[recipe][1])
    saved = saved_step(resumed)
    train(command(recipe, folder, resumed), resumed)
    results = [json.loads((run / "results.json").read_text())
               for run in (whole, resumed)]
    steps = last_step(whole)
    if saved >= steps or results[0]["params_sha256"] != results[1]["params_sha256"]:
        raise RunError(f"{recipe}: {steps} steps without interruption end with "
                       f"{results[0]['params_sha256']}, stopped after step {saved} and "
                       f"resumed with {results[1]['params_sha256']}")
    sizes = [line for line in whole.with_suffix(".log").read_text().splitlines()
             if "training images of" in line]
    return "\n".join([
        f"{recipe}: {results[0]['params']:,} parameters, {steps} steps in "
        f"{results[0]['epochs']} epochs, {seconds:.0f} s; stopped after step {saved} "
        f"and resumed: the same bits, sha256 {results[0]['params_sha256'][:16]}",
        *(f"  {line}" for line in sizes)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE",
                        help=f"of {', '.join(RECIPES)}; by default all")
    flags = parser.parse_args(argv)
    unknown = {*flags.recipes} - {*RECIPES}
    if unknown:
        raise InputError(f"{sorted(unknown)[0]} is not a recipe; there are "
                         f"{', '.join(imagenet.VARIANTS)}")
    out = flags.out.absolute()
    make_out(out)
    fake_imagenet.draw(out / "set", classes=10, images=50)
    facts = ran_on()
    print(f"{facts['machine']}; {facts['versions']}; commit {facts['commit']}")
    for recipe in flags.recipes or RECIPES:
        print(compare(recipe, out / "set", out), flush=True)


if __name__ == "__main__":
    run_script(main)
