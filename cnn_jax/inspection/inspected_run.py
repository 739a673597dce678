"""What the pictures are of: a trained network, some images, and all that is known."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import ops
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.data.scaling import Scaling, scale
from cnn_jax.networks.named_layers import Layer, layers_of

BATCH = 128  # images per call


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network with images to explain and the whole part they come from.

    Every picture is a function of one of these and of `Settings`. Arrays are NumPy;
    pixels are uint8 [N, H, W, C] as stored, `inputs` makes the network's input of them.
    """

    name: str                     # of the run, for titles
    network: nn.Module            # for one device
    variables: dict[str, Any]     # params (averaged where kept), batch_stats
    scaling: Scaling
    class_names: tuple[str, ...]
    pixels: np.ndarray            # the images to explain
    labels: np.ndarray | None     # theirs; masks [N, H, W]; None: the user's own images
    titles: tuple[str, ...]       # theirs: 'test 17' or a file name
    part: str                     # 'test', or 'validation', 'train' where that is empty
    examples: Examples            # all of that part
    config: ConfigDict            # of the run
    info: Any                     # training.workdir.DataInfo
    step: int                     # of the checkpoint
    history: tuple[dict[str, float], ...]  # a row an epoch
    workdir: Path | None = None
    progress: Callable[[str], None] = lambda text: None  # is told what is under way

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels 0..255 as the network gets them, float32."""
        return np.asarray(scale(jnp.asarray(pixels), self.scaling))

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The network's input for `pixels`."""
        return self.inputs(self.pixels)

    @functools.cached_property
    def range(self) -> tuple[float, float]:
        """Of the network's input: black and white."""
        low, high = self.inputs(np.array([0, 255], np.uint8))
        return float(low), float(high)

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers and blocks of the network by name, as they end."""
        return layers_of(self.network, self.variables, self.pixels.shape[1:])

    @functools.cached_property
    def image_logits(self) -> np.ndarray:
        """Of the images to explain, [N, classes], or of each pixel [N, H, W, classes].
        """
        return self.over(self.pixels, logits_of)

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """The same of every example of the part, computed at first use."""
        return self.over(self.examples.images, logits_of)

    @functools.cached_property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """(class, its probability) of every example of the part, or of each of its
        pixels: int32 and float32 [N] or [N, H, W]."""
        return self.over(self.examples.images, most_probable)

    def telling(self, progress: Callable[[str], None]) -> "Subject":
        """The same, with all that has been computed, for another `progress`."""
        other = copy.copy(self)
        object.__setattr__(other, "progress", progress)  # the class is frozen
        return other

    def track(self, title: str, items: Iterable) -> Iterator:
        """The items, while `progress` is told how many have been taken."""
        items = list(items)
        for done, item in enumerate(items):
            self.progress(f"{title} {done}/{len(items)}")
            yield item

    @property
    def has_pixel_labels(self) -> bool:
        """Whether the network names a class for each pixel."""
        return self.image_logits.ndim > 2

    def class_name(self, index: int) -> str:
        """A head may have more outputs than the data set has names."""
        return (self.class_names[index] if index < len(self.class_names)
                else f"class {index}")

    def over(self, pixels: np.ndarray, function: Callable, batch: int = BATCH) -> Any:
        """function(network, variables, inputs) on all images, `batch` at a time.

        It returns a tree of arrays whose first axis counts the images; they come back
        joined, as NumPy. It must be pure, and treat every image alone.
        """
        # The variables are arguments: constants would be compiled into the program.
        program = jax.jit(lambda variables, pixels: function(
            self.network, variables, scale(pixels, self.scaling)),
            compiler_options=ops.compiler_options())
        parts, size = [], min(batch, len(pixels))
        for start in range(0, len(pixels), size):
            self.progress(f"images {start:,}/{len(pixels):,}")
            group = pixels[start:start + size]
            # One shape for all calls: one compilation.
            found = program(self.variables, np.resize(group, (size, *group.shape[1:])))
            parts.append(jax.tree.map(lambda x: np.asarray(x)[:len(group)], found))
        return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def make_subject(workdir: Path, config: ConfigDict, info: Any, network: nn.Module,
                 state: Any, step: int, history: Sequence[dict[str, float]],
                 dataset: Dataset, images: int) -> Subject:
    """The subject of a run: `images` of its test part, or of the validation or
    training part where that is empty, and all of that part.

    state: a `TrainState` on the host; its averaged parameters count where it has them.
    """
    part = next(part for part in ("test", "validation", "train")
                if len(getattr(dataset, part).labels))
    examples = getattr(dataset, part)
    index = sample(examples, images)
    pixels, labels = examples.take(index)
    return Subject(
        name=workdir.name, network=network, variables=state.variables,
        scaling=info.scaling, class_names=info.class_names, pixels=pixels,
        labels=labels, titles=tuple(f"{part} {i}" for i in index), part=part,
        examples=examples, config=config, info=info, step=step,
        history=tuple(history), workdir=workdir)


def sample(examples: Examples, count: int) -> np.ndarray:
    """The places of `count` examples: the first of every class, the second of every
    class, and so on; of masks, the first ones."""
    labels = examples.labels
    if labels.ndim > 1:
        return np.arange(min(count, len(labels)))
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])  # where its class begins
    turn = np.empty(len(labels), int)
    turn[order] = np.arange(len(labels)) - firsts
    return np.lexsort((labels, turn))[:count]


def logits_of(network: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """float32 logits, as in evaluation."""
    return network.apply(variables, images, train=False).astype(jnp.float32)


def most_probable(network: nn.Module, variables: Any,
                  images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(class, its probability) of each image or pixel."""
    logits = logits_of(network, variables, images)
    return logits.argmax(-1).astype(jnp.int32), jax.nn.softmax(logits).max(-1)
