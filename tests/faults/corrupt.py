"""Damages checkpoint files: no damaged state may be restored silently.

    python -m tests.faults.corrupt --n=200 --seed=0

LeNet-5 is trained for three epochs. Each time, in a fresh copy of the run, one file of
the newest checkpoint is damaged: one bit is flipped (in JSON the last bit of a digit),
4 KiB are zeroed, or the file is cut at a random length or deleted. The files take
turns, and each gets all four kinds of damage. Restoring must give a state of the same
bits, or one line that names the step and the damaged part. (Digits of meta, the
progress and history, have no checksum.) After every 16th damage that was named, the
damaged checkpoint is deleted, as the line advises: the run resumes from the older one
and must end with the bits of the undamaged run.
"""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from absl import logging

from tests.faults.warm import command_line, report, temporary_folder
from tests.support.tiny_runs import (assert_same_bits, prepare, read_results, tiny,
                                     undrawn)

from cnn_jax import training
from cnn_jax.errors import RunError
from cnn_jax.workdir.checkpoints import restore
from cnn_jax.training.recipe import abstract_state

CHANGES = {"model.name": "lenet5", "epochs": 3}
# A refusal is one line that names the leaf or its part of the checkpoint.
PART = re.compile(r"leaf \S+|state/\S+|meta|integrity|metrics|METADATA")
MOST_LETTERS = 700
EVERY = 16  # named damages after which a whole run follows


def flip(path: Path, draw: np.random.Generator) -> str:
    """Flips a random bit; in JSON the last bit of a digit, so that it stays JSON."""
    content = bytearray(path.read_bytes())
    positions, bit = range(len(content)), draw.integers(8)
    if path.suffix == ".json":
        positions, bit = [i for i in positions if chr(content[i]).isdigit()], 0
    position = draw.choice(positions) if positions else 0
    if content:
        content[position] ^= 1 << int(bit)
    path.write_bytes(content)
    return f"bit {bit} of byte {position} flipped"


def zero(path: Path, draw: np.random.Generator) -> str:
    """Zeroes 4 KiB."""
    content = bytearray(path.read_bytes())
    position = int(draw.integers(max(len(content) - 4096, 1)))
    content[position:position + 4096] = bytes(len(content[position:position + 4096]))
    path.write_bytes(content)
    return f"4 KiB from byte {position} zeroed"


def cut(path: Path, draw: np.random.Generator) -> str:
    """Cuts the file at a random length."""
    length = int(draw.integers(max(path.stat().st_size, 1)))
    os.truncate(path, length)
    return f"cut to {length} bytes"


def delete(path: Path, draw: np.random.Generator) -> str:
    """Deletes the file."""
    path.unlink()
    return "deleted"


DAMAGES = (flip, zero, cut, delete)


def newest(workdir: Path) -> Path:
    return max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def restore_damaged(copy: Path, like, expected: dict) -> str:
    """Restores the damaged step.

    Returns 'same' for the same bits, 'named' for a one-line error that names the
    damaged part, 'silent' for other bits without an error.
    """
    step = int(newest(copy).name)
    try:
        state, _ = restore(newest(copy), like)
    except RunError as error:
        message = str(error)
        assert f"checkpoint {newest(copy)}" in message, message
        assert "\n" not in message and len(message) <= MOST_LETTERS, message
        assert PART.search(message.replace(f"checkpoint {newest(copy)}", "")), message
        return "named"
    try:
        assert_same_bits(state, expected[step])
    except AssertionError:
        return "silent"
    return "same"


def in_order(step: Path) -> list[Path]:
    """Lists the files of a step, relative to it; files with random names by size."""
    def key(path: Path) -> tuple:
        random_name = path.parent.name == "d"
        return path.parent, path.stat().st_size if random_name else 0, path.name
    files = [path for path in step.rglob("*") if path.is_file()]
    return [path.relative_to(step) for path in sorted(files, key=key)]


def main(n: int, seed: int) -> dict:
    """Counts how often damage was named, was harmless, or was silent."""
    draw, counts = np.random.default_rng(seed), Counter()
    logging.set_verbosity(logging.FATAL)  # orbax logs its errors too
    undrawn()
    with temporary_folder() as folder:
        whole, copy = folder / "whole", folder / "copy"
        training.run(tiny(CHANGES), whole, quiet=True)
        _, recipe, shape = prepare(tiny(CHANGES))
        like = abstract_state(recipe, shape)
        last = newest(whole)
        expected = {int(path.name): restore(path, like)[0]
                    for path in (whole / "checkpoints").iterdir()}
        files, made = in_order(last), Counter()
        for index in range(n):
            turn, file = divmod(index, len(files))
            name = files[file]
            damage = DAMAGES[(file + turn + seed) % len(DAMAGES)]
            made[name, damage] += 1
            shutil.copytree(whole, copy)
            what = damage(newest(copy) / name, draw)
            outcome = restore_damaged(copy, like, expected)
            counts[outcome] += 1
            print(f"{name}: {what}: {outcome}", flush=True)
            if outcome == "named" and counts["named"] % EVERY == 1:
                shutil.rmtree(newest(copy))
                (copy / "results.json").unlink()  # the resumed run must write it
                training.run(tiny(CHANGES), copy, quiet=True)
                assert (read_results(copy)["params_sha256"]
                        == read_results(whole)["params_sha256"])
                counts["whole runs that ended alike"] += 1
            shutil.rmtree(copy)
    return {"damages": n, "files of a step": len(files),
            "kinds of damage, all files together": len(made),
            "silent": counts["silent"],
            "named": counts["named"], "harmless, same bits": counts["same"],
            "whole runs that ended alike": counts["whole runs that ended alike"]}


if __name__ == "__main__":
    arguments = command_line(__doc__, n=200, seed=0)
    figures = main(arguments.n, arguments.seed)
    pairs = min(figures["damages"], len(DAMAGES) * figures["files of a step"])
    report(figures, figures["silent"] == 0 and figures["whole runs that ended alike"]
           and figures["kinds of damage, all files together"] == pairs)
