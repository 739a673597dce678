"""Trains on several fake CPU devices, in a process that test_parallel.py starts.

    python -m tests.support.device_runs DEVICES [DEVICES ...]

Trains the tiny network with batch norm, dropout and augmentation on each number of
devices, under jit and under pmap, and prints the results as one JSON object.
"""

import functools
import json
import sys
import tempfile

import jax
import numpy as np
from tests.support.tiny_runs import assert_same_bits, distance, tiny

from cnn_jax import data, ops
from cnn_jax.console import Reporter
from cnn_jax.layers import Layers
from cnn_jax.training import parallel, steps
from cnn_jax.workdir.checkpoints import Checkpoints
from cnn_jax.workdir.progress import Progress
from cnn_jax.training.evaluate import make_evaluation
from cnn_jax.training.feed import open_feed
from cnn_jax.training.recipe import create_recipe, first_state
from cnn_jax.data.info import describe

STEPS = (1, 60)  # after which the states are compared
CHANGES = {"data.limit": 480, "batch_size": 16, "eval_batch_size": 40,
           "optimizer.name": "sgd", "optimizer.learning_rate": 0.02,
           "augment.horizontal_flip": True, "augment.width_shift_range": 0.1}


class Unsynchronized(Layers):
    """Injects a fault: each device normalizes by the statistics of its own shard."""

    def batch_norm(self, *args, **fields):
        return Layers(conv=self.conv, bn=self.bn).batch_norm(*args, **fields)


def unsynchronized(recipe):
    layers = Unsynchronized(axis_name=recipe.axis_name, bn=recipe.model.layers.bn)
    return recipe.__class__(**recipe.__dict__ | {
        "model": recipe.model.clone(layers=layers)})


class Setting:
    """A config on its devices, ready to train and evaluate."""

    def __init__(self, kind: str, devices: int, change=lambda recipe: recipe,
                 **fields):
        self.config = tiny(CHANGES | {"parallel": kind, "devices": devices} | fields)
        dataset = data.load(self.config.data, self.config.seed)
        self.info = describe(dataset, self.config.data)
        self.placement = parallel.make_placement(self.config)
        self.recipe = change(create_recipe(self.config, self.info,
                                           self.placement.axis_name, devices=devices))
        self.feed = open_feed(self.placement, dataset, self.config, steps_per_call=1)

    def first(self):
        return self.placement.replicate(first_state(self.recipe, self.info.image_shape))

    def compiled(self):
        step = self.placement.compile(functools.partial(
            self.feed.train, recipe=self.recipe), donate=(0,))
        return step.lower(self.first(), *self.feed.example_call(1)).compile(
            compiler_options=ops.compiler_options())

    def train(self, counts) -> list:
        """Trains, and returns the state after each of these counts as NumPy arrays."""
        state, program, states, done = self.first(), self.compiled(), [], 0
        self.program = program
        while done < max(counts):
            epoch, step = divmod(done, 480 // self.config.batch_size)
            arguments, = self.feed.calls(epoch, [(step, step + 1)])
            state, metrics = program(state, *arguments)
            jax.block_until_ready(metrics)
            done += 1
            if done in counts:
                states.append(jax.tree.map(np.copy, self.placement.to_host(state)))
        return states

    def evaluate(self, state) -> dict:
        evaluate = make_evaluation(self.recipe, self.placement, self.feed,
                                   Reporter(quiet=True))
        return evaluate(self.placement.replicate(state), "test")


def distances(states, reference) -> dict:
    """Returns {'params': [after 1 step, after 60], 'batch_stats': ...}."""
    return {part: [distance(getattr(a, part), getattr(b, part))
                   for a, b in zip(states, reference, strict=True)]
            for part in ("params", "batch_stats")}


def norm_groups(devices: int) -> tuple[dict, str]:
    """Compares groups of batch norm on several devices with the same on one device.

    Returns {'jit device': distances after a step, ...}, and the program of jit with the
    statistics of each device. With more than two devices, there are also groups that
    two devices share.
    """
    several, by_setting = {}, {}
    sizes = {"device": 16 // devices}
    if devices > 2:
        sizes["shared"] = 32 // devices
    for groups, images in sizes.items():
        one = Setting("jit", 1, **{"model.bn_sync": str(images)}).train(STEPS[:1])
        for kind in ("jit", "pmap"):
            sync = groups if groups == "device" else str(images)
            setting = Setting(kind, devices, **{"model.bn_sync": sync})
            by_setting[f"{kind} {groups}"] = distances(setting.train(STEPS[:1]), one)
            several[f"{kind} {groups}"] = setting
    return by_setting, several["jit device"].program.as_text()


def save_and_restore(states: dict[int, object], settings: dict[int, Setting]) -> int:
    """Saves a state from each number of devices, restores it on each; counts pairs."""
    pairs = 0
    for saved_on, state in states.items():
        step = int(state.step)
        with (tempfile.TemporaryDirectory() as folder,
              Checkpoints(folder, "loss") as checkpoints):
            placed = settings[saved_on].placement.replicate(state)
            checkpoints.save(settings[saved_on].placement.to_host(placed),
                             Progress(step))
            restored, _ = checkpoints.restore(step, state)
        for restored_on, setting in settings.items():
            placed = setting.placement.replicate(restored)
            for device in range(restored_on):
                assert_same_bits(jax.tree.map(
                    lambda x: np.asarray(x.addressable_data(device)), placed), state)
            pairs += 1
    return pairs


def main(counts: list[int]) -> dict:
    one = Setting("jit", 1)
    reference = one.train(STEPS)
    out = {"train": {}, "evaluate": {"jit 1": one.evaluate(reference[-1])}}
    states, settings = {1: reference[-1]}, {1: one}
    for count in counts:
        for kind in ("jit", "pmap"):
            setting = Setting(kind, count)
            trained = setting.train(STEPS)
            out["train"][f"{kind} {count}"] = distances(trained, reference)
            out["evaluate"][f"{kind} {count}"] = setting.evaluate(reference[-1])
            if kind == "jit":
                states[count], settings[count] = trained[-1], setting
    out["save_and_restore"] = save_and_restore(states, settings)
    out["unsynchronized"] = distances(
        Setting("pmap", counts[0], unsynchronized).train(STEPS[:1]), reference[:1])
    out["norm_groups"], out["hlo_of_groups"] = norm_groups(counts[0])
    out["hlo"] = settings[counts[0]].program.as_text()
    gathered = Setting("jit", counts[0])
    out["hlo_gathered"] = gather_images(gathered)
    return out


def gather_images(setting: Setting) -> str:
    """Compiles a step whose devices all gather the whole batch; returns its program."""
    original, mesh = steps.gather, setting.feed.data.images.sharding

    def gather(*args):
        batch = original(*args)
        # Each device takes its shard and then, wrongly, all of them.
        image = jax.lax.with_sharding_constraint(
            batch.image, jax.sharding.NamedSharding(
                mesh.mesh, jax.sharding.PartitionSpec(parallel.AXIS)))
        return batch._replace(image=jax.lax.with_sharding_constraint(image, mesh))

    steps.gather = gather
    try:
        return setting.compiled().as_text()
    finally:
        steps.gather = original


if __name__ == "__main__":
    print(json.dumps(main([int(count) for count in sys.argv[1:]])))
