"""A trained network with the images to explain: every picture is drawn from it."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.data.info import DataInfo
from cnn_jax.data.scaling import Scaling, scale
from cnn_jax.inspection.forward import NetworkFunction, batch_program, compute_logits
from cnn_jax.networks.named_layers import Layer, layers_of
from cnn_jax.tasks import Task, class_name
from cnn_jax.workdir.progress import Row

BATCH = 128  # images per call


def no_progress(text: str) -> None:
    """Shows nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class InspectedRun:
    """A trained network, images to explain, and the split of the data they come from.

    Every picture is a function of an `InspectedRun` and of `config.inspect`. Arrays are
    NumPy; pixels are uint8 [N, H, W, C] as stored, and `inputs` scales them.
    """

    name: str                     # for titles
    network: nn.Module            # for one device
    variables: dict[str, Any]     # params (averaged where kept), batch_stats
    scaling: Scaling
    class_names: tuple[str, ...]
    pixels: np.ndarray            # the images to explain
    labels: np.ndarray | None     # their labels; None for the user's own images
    titles: tuple[str, ...]       # 'test 17', or a file name
    split: str                    # 'test'; 'validation' or 'train' where it is empty
    examples: Examples            # the whole split
    config: ConfigDict            # of the run
    step: int                     # of the checkpoint
    history: Sequence[Row]        # one row for each epoch
    task: Task                    # what the labels mean
    progress: Callable[[str], None] = no_progress

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Scales pixels 0..255 to the network's input, float32."""
        return np.asarray(scale(jnp.asarray(pixels), self.scaling))

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The network's input for `pixels`."""
        return self.inputs(self.pixels)

    @functools.cached_property
    def input_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The network's input for black and for white, each [C]."""
        pixels = np.zeros((2, 1, 1, self.pixels.shape[-1]), np.uint8)
        pixels[1] = 255
        low, high = self.inputs(pixels)[:, 0, 0]
        return low, high

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers and blocks by name, in the order in which the network ends them.
        """
        return layers_of(self.network, self.variables, self.pixels.shape[1:])

    @functools.cached_property
    def image_logits(self) -> np.ndarray:
        """The logits of `pixels`, [N, classes] or [N, H, W, classes]."""
        return self.map_batches(self.pixels, compute_logits)

    @functools.cached_property
    def image_scores(self) -> np.ndarray:
        """The task's score of each class for each of `pixels`, [N, classes]."""
        return np.asarray(self.task.scores(jnp.asarray(self.image_logits)))

    @functools.cached_property
    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """(predicted labels, their probabilities) of every example of the split.

        Both have the shape of the labels: [N] or [N, H, W] with the probability of the
        predicted class, or [N, classes] with the probability of every class.
        """
        def predict(network: nn.Module, variables: Any,
                    images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = compute_logits(network, variables, images)
            probabilities = self.task.probabilities(logits)
            return self.task.predict(logits), (
                probabilities.max(-1) if self.task.exclusive else probabilities)

        return self.map_batches(self.examples.images, predict)

    def class_name(self, index: int) -> str:
        """Names a class; see `class_name`."""
        return class_name(self.class_names, index)

    def label_text(self, label: np.ndarray) -> str:
        """Names the classes of one label, true or predicted: 'circle, line'."""
        return self.task.label_text(label, self.class_names)

    def with_progress(self, progress: Callable[[str], None]) -> "InspectedRun":
        """Copies the run, with the values computed so far, for another `progress`."""
        other = copy.copy(self)
        object.__setattr__(other, "progress", progress)  # the class is frozen
        return other

    def track(self, title: str, items: Iterable) -> Iterator:
        """Yields the items and reports to `progress` how many are done."""
        items = list(items)
        for done, item in enumerate(items):
            self.progress(f"{title} {done}/{len(items)}")
            yield item

    def map_batches(self, pixels: np.ndarray, function: NetworkFunction,
                    batch: int = BATCH) -> Any:
        """Computes function(network, variables, inputs) on all images.

        `function` is pure, treats every image on its own and returns a tree of arrays
        [n, ...]. Returns the tree with the batches concatenated, as NumPy arrays.
        """
        size = min(batch, len(pixels))
        compute = batch_program(function, self.network, self.variables, self.scaling,
                                size)
        outputs = []
        for start in range(0, len(pixels), size):
            self.progress(f"images {start:,}/{len(pixels):,}")
            outputs.append(compute(pixels[start:start + size]))
        return jax.tree.map(lambda *xs: np.concatenate(xs), *outputs)


def make_inspected_run(
        name: str, config: ConfigDict, info: DataInfo, network: nn.Module,
        variables: dict[str, Any], step: int, history: Sequence[Row],
        dataset: Dataset, images: int) -> InspectedRun:
    """Chooses `images` examples of the test split to explain.

    The validation split replaces an empty test split, and the training split an empty
    validation split.
    """
    split = next(split for split in ("test", "validation", "train")
                 if len(getattr(dataset, split).labels))
    examples = getattr(dataset, split)
    task = data.task_of(config.data, info.targets)
    index = choose_examples(examples.labels, task, images)
    pixels, labels = examples.take(index)
    return InspectedRun(
        name=name, network=network, variables=variables, scaling=info.scaling,
        class_names=info.class_names, pixels=pixels, labels=labels,
        titles=tuple(f"{split} {i}" for i in index), split=split, examples=examples,
        config=config, step=step, history=history, task=task)


def choose_examples(labels: np.ndarray, task: Task, count: int) -> np.ndarray:
    """Chooses the first example of every class, then the second of every class, ...

    Where an example has no single class, it chooses the first examples.
    """
    if task.unit == "pixel" or not task.exclusive:
        return np.arange(min(count, len(labels)))
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])  # where each class begins
    turn = np.empty(len(labels), int)
    turn[order] = np.arange(len(labels)) - firsts
    return np.lexsort((labels, turn))[:count]
