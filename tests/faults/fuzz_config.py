"""Draws random overrides: each set trains an epoch or is refused in one line.

    python -m tests.faults.fuzz_config --n=500 --seed=0

A set has one to four overrides of any fields, with plausible or senseless values. The
process must end with code 0 and nothing on stderr, or with code 2 (or 1, for a loss
that is not finite) and one line on stderr. Its address space is limited to 8 GiB. At
least a tenth of the sets must train. Values that would wait for a network connection or
train for long are left out: a coordinator that could exist, downloads, many epochs,
large networks.
"""

import os
import random
import resource
import shlex
from collections import Counter

from tests.faults.warm import command_line, report, temporary_folder
from tests.support.forked import HERE, Forked
from tests.support.quick_compile import QUICK_FLAGS
from tests.support.tiny_runs import end, refusal

from cnn_jax.config import FIELDS as CONFIG_FIELDS

BASE = ["--config=configs/network.py:lenet5",
        "--config.data.limit=16", "--config.batch_size=16", "--config.epochs=1"]
SENSELESS = ["", "-1", "0", "1", "2", "1.5", "-0.0", "1e999", "nan", "inf", "-inf",
             "true", "None", "abc", "1e3", "0x10", "()", "(1,)", "(1,2)", "(-1,2)",
             "(1,2,3)", "('a','b')", "[1]", "{}", "../../x", "/etc/passwd", "a b",
             "'", '"', "\\", "$HOME", "%s", "\u00df\u4e2d", "x" * 1000, "9" * 25,
             "__import__('os')", "lambda: 0", "1;2", "1,2", "-", "--", "=", "\t",
             "~nosuchuser/x", "2147483647", "200000000"]
PLAUSIBLE = {
    "seed": ["3"], "batch_size": ["8", "16"], "eval_batch_size": ["7", "100"],
    "dtype": ["bfloat16", "float32"], "parallel": ["pmap", "jit"], "devices": ["1"],
    "steps_per_call": ["1", "3"], "model.name": ["lenet5", "baseline"],
    "model.num_classes": ["12"], "model.conv": ["lax", "im2col", "winograd"],
    "model.pool": ["lax", "windows"], "model.init": ["keras", "he"],
    "model.fields.activation": ["relu", "selu"], "model.fields.pool": ["max", "mean"],
    "model.freeze": ["conv1", "nothing"], "data.name": ["digits", "folder", "shapes"],
    "data.image_size": ["(8, 8)", "(16,16)", "(5000, 5000)"], "data.channels": ["3"],
    "data.validation": ["0", "0.2"], "data.validation_count": ["20", "none"],
    "data.split": ["first", "last"],
    "data.test": ["0.1"], "data.scaling": ["signed", "standard"],
    "augment.rotation_range": ["20"], "augment.fill_mode": ["reflect", "constant"],
    "augment.horizontal_flip": ["true"], "augment.cutout": ["4"],
    "augment.mixup": ["0.2"], "loss.label_smoothing": ["0.1"],
    "optimizer.name": ["sgd", "muon", "adamw"],
    "optimizer.learning_rate": ["1e-3", "1e30", "1"], "optimizer.clip_norm": ["1.0"],
    "optimizer.ema_decay": ["0.9"], "optimizer.accumulate_steps": ["2"],
    "schedule.name": ["cosine", "onecycle", "step"],
    "schedule.warmup_epochs": ["0.5", "2"], "checkpoint.monitor": ["loss", "val_loss"],
    "checkpoint.keep": ["3"], "early_stopping.patience": ["1"],
    "log.every_steps": ["1"]}
UNKNOWN = ["model.nmae", "optimizer.name", "lr", "model.fields.width", "model",
           "data.", ".seed", "seed.x"]
FIELDS = [field for field in CONFIG_FIELDS
          if field not in ("coordinator", "epochs", "model.fields")] + [
    "model.fields.activation", "model.fields.pool"]
MEMORY_BYTES = 8 * 2**30


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def overrides(draw: random.Random) -> list[str]:
    """Draws one to four flags; a third of the sets have only plausible values."""
    plausible, flags = draw.random() < 0.35, []
    for _ in range(draw.randint(1, 4)):
        if plausible:
            field = draw.choice(sorted(PLAUSIBLE))
            value = draw.choice(PLAUSIBLE[field])
        else:
            field = draw.choice(UNKNOWN if draw.random() < 0.1 else FIELDS)
            value = draw.choice(SENSELESS)
        flags.append(f"--config.{field}={value}")
    return flags


def main(n: int, seed: int) -> dict:
    """Counts the sets that trained, were refused, or failed in another way."""
    draw, counts = random.Random(seed), Counter()
    os.environ |= {"HTTPS_PROXY": "http://127.0.0.1:9", "CNN_JAX_DATA": "/nonexistent",
                   "HTTP_PROXY": "http://127.0.0.1:9"}
    os.environ["XLA_FLAGS"] = QUICK_FLAGS
    with temporary_folder() as folder:
        os.environ["TFDS_DATA_DIR"] = str(folder)
        for index in range(n):
            flags = overrides(draw)
            result = end(Forked([*BASE, *flags, f"--workdir={folder / str(index)}"],
                                folder, HERE, before=limit_memory))
            what = {0: "trained", 1: "stopped", 2: "refused"}.get(result[0], "failed")
            line = result[2]
            if what in ("stopped", "refused"):
                try:
                    line = refusal(result, result[0])
                    assert what == "refused" or "is not finite" in line or (
                        "the loss is " in line), line
                except AssertionError:
                    what = "failed"
            elif line:
                what = "failed"
            counts[what] += 1
            print(f"{index} {what}: {shlex.join(flags)}\n    {line[:200]}",
                  flush=True)
            if what == "failed":
                print(result, flush=True)
    return {"sets": n, **{name: counts[name] for name in (
        "trained", "refused", "stopped", "failed")}}


if __name__ == "__main__":
    arguments = command_line(__doc__, n=500, seed=0)
    figures = main(arguments.n, arguments.seed)
    report(figures, figures["failed"] == 0
           and figures["trained"] >= arguments.n // 10)
