"""Whole training steps and inference: cnn_jax against plain Flax, and the ratio.

    python experiments/benchmark.py --out=runs/benchmark            at most 30 minutes
    python experiments/benchmark.py --out=runs/benchmark --quick    3 minutes

A training step is forward, backward and SGD with momentum, in float32. Both arms train
the same network with the same parameters; plain Flax is `nn.Conv` on
`lax.conv_general_dilated`, `reduce_window` pooling and no compiler options. Every arm
has its own process; the parent lets them run in turn, A B A B, so that drift of the
machine falls on both. First it checks that the losses of both arms agree. Writes
benchmark.json, benchmark.txt and benchmark.png.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


class Workload(NamedTuple):
    network: str
    batch: int
    image: tuple[int, int, int]
    classes: int = 10


WORKLOADS = {
    "W1 LeNet-5": Workload("lenet5", 128, (28, 28, 1)),
    "W2 SELU b32": Workload("selu_cnn", 32, (28, 28, 1)),
    "W2 SELU b128": Workload("selu_cnn", 128, (28, 28, 1)),
    "W3 separable b32": Workload("separable_cnn", 32, (28, 28, 1)),
    "W3 separable b128": Workload("separable_cnn", 128, (28, 28, 1)),
    "W4 ResNet-18": Workload("tf2_resnet18", 128, (32, 32, 3)),
    "W5 monkey": Workload("monkey_cnn", 64, (128, 128, 3)),
    "W6 VGG16": Workload("tf2_vgg16", 128, (32, 32, 3)),
    "W7 ResNet-50": Workload("resnet50", 8, (224, 224, 3), 1000),
}
QUICK = ["W1 LeNet-5", "W2 SELU b32", "W3 separable b32"]
ARMS = ("flax", "cnn_jax")
CHECKED_STEPS = 3  # whose losses are compared before any timing


def worker(arm: str, workload: Workload) -> None:
    """Compiles, then obeys `train N` and `infer N` on stdin, one JSON line for each."""
    import jax
    import jax.numpy as jnp
    import optax

    from cnn_jax import networks, ops
    from cnn_jax.layers import Layers

    plain = arm == "flax"
    options = {} if plain else ops.compiler_options()
    name = "lax" if plain else "auto"
    net = networks.create(workload.network, num_classes=workload.classes,
                          layers=Layers(conv=name, pool=name))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(workload.batch, *workload.image)),
                         jnp.float32)
    labels = jnp.asarray(rng.integers(0, workload.classes, workload.batch))
    variables = jax.jit(functools.partial(net.init, train=False))(
        jax.random.key(0), images[:1])
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = variables, optimizer.init(variables["params"])

    def train(state, images, labels, key):
        variables, opt_state = state

        def mean_loss(params):
            logits, updates = net.apply(
                variables | {"params": params}, images, train=True,
                rngs={"dropout": key}, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates
        (loss, updates), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            variables["params"])
        changes, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return (variables | {"params": params} | updates, opt_state), loss

    def infer(state, images):
        return net.apply(state[0], images, train=False)

    begun = time.perf_counter()
    train = jax.jit(train, donate_argnums=0).lower(
        state, images, labels, jax.random.key(1)).compile(compiler_options=options)
    compiled_s = time.perf_counter() - begun
    infer = jax.jit(infer).lower(state, images).compile(compiler_options=options)
    losses = []
    for i in range(CHECKED_STEPS):
        state, loss = train(state, images, labels, jax.random.key(i))
        losses.append(float(loss))
    jax.block_until_ready(infer(state, images))
    device = jax.devices()[0]
    report(losses=losses, compile_s=compiled_s,
           temporary_mb=train.memory_analysis().temp_size_in_bytes / 1e6,
           device=f"{device.platform} {device.device_kind}", jax=jax.__version__)
    for line in sys.stdin:
        mode, steps = line.split()
        begun = time.perf_counter()
        for i in range(int(steps)):
            if mode == "train":
                state, loss = train(state, images, labels, jax.random.key(i))
            else:
                loss = infer(state, images)
        jax.block_until_ready(loss)
        report(seconds=(time.perf_counter() - begun) / int(steps),
               peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def report(**fields) -> None:
    print(json.dumps(fields), flush=True)


class Arm:
    """One worker process: it computes only while the parent waits for its answer."""

    def __init__(self, arm: str, name: str):
        environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
        self.process = subprocess.Popen(
            [sys.executable, __file__, f"--worker={arm}", f"--only={name}"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.setup = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended early, exit code {self.process.wait()}")
        return json.loads(line)

    def run(self, mode: str, steps: int) -> dict:
        self.process.stdin.write(f"{mode} {steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(name: str, seconds: float) -> dict:
    """Both arms on one workload, in turn, for about `seconds` after compiling."""
    arms = {arm: Arm(arm, name) for arm in ARMS}
    try:
        losses = [arms[arm].setup["losses"] for arm in ARMS]
        # Float32 rounding flips ReLUs and maxima that are nearly tied.
        np.testing.assert_allclose(*losses, rtol=2e-2, err_msg=f"losses of {name}")
        found = {"batch": WORKLOADS[name].batch, "setup": {
            arm: arms[arm].setup for arm in ARMS}}
        for mode, share in (("train", .75), ("infer", .25)):
            slowest = max(arms[arm].run(mode, 1)["seconds"] for arm in ARMS)
            steps = max(1, int(.2 / slowest))
            rounds = int(share * seconds / (2 * steps * slowest))
            times = {arm: [] for arm in ARMS}
            for _ in range(min(max(rounds, 5), 40)):
                for arm in ARMS:
                    answer = arms[arm].run(mode, steps)
                    times[arm].append(answer["seconds"])
                    found["setup"][arm]["peak_mb"] = answer["peak_mb"]
            found[mode] = times
        return found
    finally:
        for arm in arms.values():
            arm.close()


def quartiles(values) -> tuple[float, float, float]:
    return tuple(float(q) for q in np.percentile(values, [25, 50, 75]))


def ratios(found: dict, mode: str) -> tuple[float, float, float]:
    """Quartiles of flax / cnn_jax, round by round."""
    flax, ours = (np.array(found[mode][arm]) for arm in ARMS)
    return quartiles(flax / ours)


def table(results: dict) -> str:
    lines = ["workload            mode    flax img/s  ours img/s  ours/flax (quartiles)"
             "   compile s   peak MB    temp MB"]
    for name, found in results.items():
        for mode in ("train", "infer"):
            flax, ours = (found["batch"] / np.median(found[mode][arm]) for arm in ARMS)
            low, middle, high = ratios(found, mode)
            line = (f"{name:<19} {mode}  {flax:>11.1f} {ours:>11.1f}  "
                    f"{middle:>5.2f} ({low:.2f} - {high:.2f})")
            if mode == "train":
                for field in ("compile_s", "peak_mb", "temporary_mb"):
                    pair = [found["setup"][arm][field] for arm in ARMS]
                    form = "{:.1f}/{:.1f}" if field == "compile_s" else "{:.0f}/{:.0f}"
                    line += "   " + form.format(*pair)
            lines.append(line)
    return "\n".join(lines)


def picture(results: dict, path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, .6 * len(results) + 1.5))
    for shift, mode in ((-.2, "train"), (.2, "infer")):
        low, middle, high = np.array([ratios(f, mode) for f in results.values()]).T
        axes.barh(np.arange(len(results)) + shift, middle, .38,
                  xerr=[middle - low, high - middle],
                  label={"train": "training step", "infer": "inference"}[mode])
    axes.axvline(1, color="black", linewidth=.8)
    axes.set_yticks(range(len(results)), results)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as plain Flax (median, quartiles)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--quick", action="store_true", help="three workloads")
    parser.add_argument("--only", help="workloads whose name contains this")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return worker(flags.worker, WORKLOADS[flags.only])
    names = QUICK if flags.quick else list(WORKLOADS)
    names = [name for name in names if (flags.only or "") in name]
    results = {}
    for i, name in enumerate(names, 1):
        print(f"{i}/{len(names)} {name}", file=sys.stderr, flush=True)
        results[name] = measure(name, 25 if flags.quick else 120)
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "benchmark.json").write_text(json.dumps(results, indent=1))
    setup = next(iter(results.values()))["setup"]["cnn_jax"]
    text = (f"{setup['device']}, {os.cpu_count()} cores, jax {setup['jax']}; pairs are "
            f"flax/ours\n{table(results)}\n")
    (flags.out / "benchmark.txt").write_text(text)
    picture(results, flags.out / "benchmark.png")
    print(text)


if __name__ == "__main__":
    main()
