"""Does it pay to train the n seeds of a small network in one vmapped program?

python experiments/seeds_vmapped.py [--rounds 11] [--only NAME ...]

Trains five seeds one after another and all five at once, with 1 and with 16 training
steps a call (`lax.scan`), on random images: first it checks that the seeds' parameters
agree, then it lets the arms run in turn. A vmapped convolution with a kernel for each
seed is a grouped convolution to XLA; a vmapped dense layer is a batched product.
It pays where the fastest arm at once is faster than the fastest arm one after another
at both quartiles of the rounds. Writes seeds_vmapped.txt and seeds_vmapped.json after
each case.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from cnn_jax.training.recipe import create_recipe, first_state  # noqa: E402
from cnn_jax.data.info import DataInfo  # noqa: E402
from configs import fashion, lenet, mnist, shapes  # noqa: E402
from experiments.measuring import make_out, ran_on  # noqa: E402

SEEDS, CALLS, STEPS, IMAGES = 5, (1, 16), 64, 4096
AGREE = 1e-5  # relative distance of the parameters after as many steps as a call
RATE = 1e-4  # costs what any rate costs, and does not enlarge the rounding of a step
ONE_BY_ONE, AT_ONCE = "one after another", "at once"
CASES = {  # name: (config, image shape, classes)
    "shape DNN, batch 16": (shapes.get_config("shape_dnn"), (28, 28, 1), 5),
    "shape CNN, batch 16": (shapes.get_config("shape_cnn"), (28, 28, 1), 5),
    "colour CNN, batch 16": (shapes.get_config("colour_cnn"), (28, 28, 3), 6),
    "MNIST DNN, batch 128": (mnist.get_config("dnn"), (28, 28, 1), 10),
    "Fashion DNN, batch 128": (fashion.get_config("dnn"), (28, 28, 1), 10),
    "MNIST CNN, batch 128": (mnist.get_config("cnn"), (28, 28, 1), 10),
    "LeNet-5, batch 64": (lenet.get_config("mnist"), (28, 28, 1), 10),
}


def train_seed(state, seed, data, order, recipe):
    """`train_steps` with a seed that may be traced."""
    return parallel.train_steps(state, data, order,
                                dataclasses.replace(recipe, seed=seed))


class Case:
    """The programs of one network and what they start from."""

    def __init__(self, config, shape, classes):
        rng = np.random.default_rng(0)
        info = DataInfo("random", "", shape, tuple(map(str, range(classes))),
                        Scaling(0.0, 1 / 255),
                        {"train": IMAGES, "validation": 1, "test": 1}, sha256="")
        config.optimizer.learning_rate = RATE
        recipe = create_recipe(config, info)
        self.data = jax.device_put(Examples(
            rng.integers(0, 256, (IMAGES, *shape), dtype=np.uint8),
            rng.integers(0, classes, IMAGES).astype(np.int32)))
        self.orders = rng.integers(
            0, IMAGES, (SEEDS, STEPS, config.batch_size)).astype(np.int32)
        self.states = [first_state(dataclasses.replace(recipe, seed=seed), shape)
                       for seed in range(SEEDS)]
        self.stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *self.states)
        one = functools.partial(train_seed, recipe=recipe)
        every = jax.vmap(one, in_axes=(0, 0, None, 0))
        self.programs = {}
        for calls in CALLS:
            for name, step, state, seed, order in (
                    (ONE_BY_ONE, one, self.states[0], jnp.int32(0),
                     self.orders[0, :calls]),
                    (AT_ONCE, every, self.stacked, jnp.arange(SEEDS),
                     self.orders[:, :calls])):
                self.programs[name, calls] = jax.jit(step, donate_argnums=0).lower(
                    state, seed, self.data, order).compile(
                        compiler_options=ops.compiler_options())

    def train(self, name: str, calls: int, steps: int):
        """Parameters after so many steps, stacked by seed, and the seconds."""
        program = self.programs[name, calls]
        seeds = jax.device_put(np.arange(SEEDS, dtype=np.int32))
        jobs = ([(self.stacked, seeds, self.orders)] if name == AT_ONCE else
                list(zip(self.states, list(seeds), self.orders)))
        jobs = [(jax.device_put(state), seed, order) for state, seed, order in jobs]
        jax.block_until_ready(jobs)
        begun, ends = time.perf_counter(), []
        for state, seed, order in jobs:
            for done in range(0, steps, calls):
                rows = jax.device_put(order[..., done:done + calls, :])
                state, _ = program(state, seed, self.data, rows)
            ends.append(jax.block_until_ready(state.params))
        seconds = time.perf_counter() - begun
        if name != AT_ONCE:
            ends = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends)]
        return ends[0], seconds


def distance(ours, theirs) -> float:
    """|a - b| / |b| over all parameters of all seeds."""
    change = jax.tree.map(jnp.subtract, ours, theirs)
    return float(optax.tree.norm(change) / optax.tree.norm(theirs))


def measure(title: str, rounds: int) -> dict:
    """{"case", "arms": one for each program, its seconds a step of a seed by round}"""
    case = Case(*CASES[title])
    expected, _ = case.train(ONE_BY_ONE, 1, max(CALLS))
    arms = []
    for name, calls in case.programs:
        apart = distance(case.train(name, calls, max(CALLS))[0], expected)
        if not apart < AGREE:
            raise RunError(f"{title}: seeds trained {name}, {calls} steps/call, are "
                           f"{apart:.0e} apart from the others, not below {AGREE:.0e}")
        arms.append({"seeds": name, "steps_per_call": calls, "distance": apart,
                     "seconds": []})
    for _ in range(rounds):
        for arm in arms:
            _, seconds = case.train(arm["seeds"], arm["steps_per_call"], STEPS)
            arm["seconds"].append(seconds / STEPS / SEEDS)
    return {"case": title, "arms": arms}


def times_as_fast(arm: dict, base: dict) -> tuple[float, float, float]:
    """Quartiles over the rounds of the base's time / the arm's."""
    ratios = np.array(base["seconds"]) / arm["seconds"]
    return tuple(float(q) for q in np.percentile(ratios, (25, 50, 75)))


def fastest(row: dict, seeds: str) -> dict:
    return min((arm for arm in row["arms"] if arm["seeds"] == seeds),
               key=lambda arm: np.median(arm["seconds"]))


def verdict(row: dict) -> str:
    """Whether vmapping pays: the fastest arm at once beside the fastest without."""
    ours, base = fastest(row, AT_ONCE), fastest(row, ONE_BY_ONE)
    low, middle, high = times_as_fast(ours, base)
    word = ("vmapping pays" if low > 1 else "vmapping does not pay" if high < 1 else
            "vmapping makes no clear difference")
    return (f"{row['case']}: {word}: at once ({ours['steps_per_call']} steps/call) is "
            f"{middle:.2f} ({low:.2f} - {high:.2f}) times as fast as one after another "
            f"({base['steps_per_call']} steps/call)")


def table(results: dict) -> str:
    lines = [f"{results['machine']}, jax {results['versions']['jax']}, "
             f"{results['device']}; {SEEDS} seeds, median (quartiles) of "
             f"{results['rounds']} round{'s' * (results['rounds'] > 1)} of {STEPS} "
             "steps; fast: beside one after another, 1 step a call",
             f"{'network':20}  {'seeds':17}  steps/call  us a step of a seed  "
             "times as fast       relative distance"]
    for row in results["rows"]:
        for arm in row["arms"]:
            low, middle, high = times_as_fast(arm, row["arms"][0])
            lines.append(
                f"{row['case']:20}  {arm['seeds']:17}  {arm['steps_per_call']:10}  "
                f"{1e6 * np.median(arm['seconds']):19.0f}  {middle:.2f} "
                f"({low:.2f} - {high:.2f})  {arm['distance']:17.0e}")
    return "\n".join([*lines, "", *map(verdict, results["rows"])]) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds_vmapped"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", nargs="+", choices=CASES, default=[*CASES],
                        metavar="NAME", help=f"of: {'; '.join(CASES)}")
    flags = parser.parse_args(argv)
    if flags.rounds < 1:
        raise InputError(f"--rounds={flags.rounds}: give 1 or more")
    make_out(flags.out)
    results = ran_on() | {"rounds": flags.rounds, "seeds": SEEDS, "steps": STEPS,
                          "rows": []}
    for title in dict.fromkeys(flags.only):
        results["rows"].append(measure(title, flags.rounds))
        print(verdict(results["rows"][-1]), flush=True)
        write_atomically(flags.out / "seeds_vmapped.json",
                         json.dumps(results, indent=1) + "\n")
        write_atomically(flags.out / "seeds_vmapped.txt", table(results))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, RunError) as error:
        print(f"seeds_vmapped.py: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
