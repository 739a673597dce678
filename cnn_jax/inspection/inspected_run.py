"""Defines `InspectedRun`: a trained network with the images to explain.

Every picture is drawn from it.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
from cnn_jax.networks.named_layers import Layer, layers_in
from cnn_jax.networks.trace import Call, last_layer, trace_shapes
from cnn_jax.tasks import Task, class_name
from cnn_jax.tasks.losses import evaluation_loss
from cnn_jax.workdir.progress import Row

BATCH = 128  # images per call


class Outcome(NamedTuple):
    """Holds what a network predicts for every example of a split."""

    predicted: np.ndarray             # labels
    # Of the predicted class, in the shape of the labels; if an example may have several
    # classes, of every class, [N, C]
    probability: np.ndarray
    probabilities: np.ndarray | None  # of every class, [N, C]; None for masks
    losses: np.ndarray                # float32 [N], of evaluation
    correct: np.ndarray | None        # float32 [N], whose mean is the accuracy


def no_progress(text: str) -> None:
    """Shows nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class InspectedRun:
    """Holds a trained network, images to explain, and the split that they come from.

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
    split: str                    # 'test'; if it is empty, 'validation' or 'train'
    examples: Examples            # the whole split
    config: ConfigDict            # of the run
    step: int                     # of the checkpoint
    history: Sequence[Row]        # one row for each epoch
    task: Task                    # what the labels mean
    # Every split that is not empty, by name
    splits: Mapping[str, Examples] = dataclasses.field(default_factory=dict)
    # (split, index) -> the file of an image, or its index in the stored set
    image_name: Callable[[str, int], str] = "{} {}".format
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
    def calls(self) -> list[Call]:
        """The calls of the network's layers on one image, with only shapes."""
        return trace_shapes(self.network, self.variables, self.pixels.shape[1:])

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers and blocks by name, in the order in which their calls end."""
        return layers_in(self.calls)

    @functools.cached_property
    def last_layer(self) -> str | None:
        """The name of the last layer; None if no layer has parameters."""
        last = last_layer(self.calls)
        return last and last.name

    @functools.cached_property
    def image_logits(self) -> np.ndarray:
        """The logits of `pixels`, [N, classes] or [N, H, W, classes]."""
        return self.map_batches(self.pixels, compute_logits)

    @functools.cached_property
    def image_scores(self) -> np.ndarray:
        """The task's score of each class for each of `pixels`, [N, classes]."""
        return np.asarray(self.task.scores(jnp.asarray(self.image_logits)))

    @functools.cached_property
    def outcome(self) -> Outcome:
        """What the network predicts for every example of the split."""
        return self.predict(self.examples)

    @functools.cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """What the network predicts for the splits that it has not trained on.

        If there are none, it is the training split.
        """
        return {self.split: self.outcome} | {
            split: self.predict(examples) for split, examples in self.splits.items()
            if split not in (self.split, "train")}

    @property
    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """(predicted labels, their probabilities) of every example of the split."""
        return self.outcome.predicted, self.outcome.probability

    def predict(self, examples: Examples) -> Outcome:
        """Predicts examples, and compares the predictions with the labels."""
        task, losses = self.task, evaluation_loss(self.task, self.config.loss)

        def compute(network: nn.Module, variables: Any, images: jax.Array,
                    labels: jax.Array) -> tuple:
            logits = compute_logits(network, variables, images)
            probabilities = task.probabilities(logits)
            return (task.predict(logits),
                    probabilities.max(-1) if task.exclusive else probabilities,
                    probabilities if task.unit == "image" else None,
                    losses(logits, labels),
                    task.correct and task.correct(logits, labels))

        return Outcome(*self.map_batches(examples.images, compute,
                                         labels=examples.labels))

    def class_name(self, index: int) -> str:
        """Names a class; see `class_name`."""
        return class_name(self.class_names, index)

    def label_text(self, label: np.ndarray) -> str:
        """Names the classes of one label, true or predicted: 'circle, line'."""
        return self.task.label_text(label, self.class_names)

    def with_progress(self, progress: Callable[[str], None]) -> "InspectedRun":
        """Copies the run and its cached values, with another `progress`."""
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
                    batch: int = BATCH, labels: np.ndarray | None = None) -> Any:
        """Computes function(network, variables, inputs) on all images.

        `function` is pure, treats every image on its own and returns a tree of arrays
        [n, ...]. Returns the tree with the batches concatenated, as NumPy arrays.
        labels: if given, `function` also gets those of its images, after the inputs.
        """
        size = min(batch, len(pixels))
        compute = batch_program(function, self.network, self.variables, self.scaling,
                                size)
        outputs = []
        for start in range(0, len(pixels), size):
            self.progress(f"images {start:,}/{len(pixels):,}")
            rows = slice(start, start + size)
            outputs.append(compute(pixels[rows], *(
                () if labels is None else (labels[rows],))))
        return jax.tree.map(lambda *xs: np.concatenate(xs), *outputs)


def make_inspected_run(
        name: str, config: ConfigDict, info: DataInfo, network: nn.Module,
        variables: dict[str, Any], step: int, history: Sequence[Row],
        dataset: Dataset, images: int) -> InspectedRun:
    """Makes the run to inspect, with `images` examples of the test split to explain.

    The validation split replaces an empty test split, and the training split an empty
    validation split.
    """
    names = ("test", "validation", "train")
    splits = {name: getattr(dataset, name) for name in names
              if len(getattr(dataset, name).labels)}
    split, examples = next(iter(splits.items()))
    task = data.task_of(config.data, info.targets)
    index = choose_examples(examples.labels, task, images)
    pixels, labels = examples.take(index)
    return InspectedRun(
        name=name, network=network, variables=variables, scaling=info.scaling,
        class_names=info.class_names, pixels=pixels, labels=labels,
        titles=tuple(f"{split} {i}" for i in index), split=split, examples=examples,
        config=config, step=step, history=history, task=task, splits=splits)


def choose_examples(labels: np.ndarray, task: Task, count: int) -> np.ndarray:
    """Chooses the first example of every class, then the second of every class, ...

    If an example may have several classes or none, it chooses the first examples.
    """
    if not task.one_class_per_image:
        return np.arange(min(count, len(labels)))
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])  # where each class begins
    rank = np.empty(len(labels), int)  # of each example within its class
    rank[order] = np.arange(len(labels)) - firsts
    return np.lexsort((labels, rank))[:count]
