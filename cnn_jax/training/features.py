"""Computes the input of a network's head once, if only the head is trained.

The layers before the head are frozen and images are not augmented, so the input of the
head is the same in every epoch. It replaces the images, and an epoch runs one layer.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from cnn_jax import ops
from cnn_jax.data.examples import Examples
from cnn_jax.data.info import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.files import file_errors, load_arrays, save_arrays
from cnn_jax.program_cache import compile_program
from cnn_jax.training import parallel
from cnn_jax.training.eval_batch import LARGEST
from cnn_jax.training.feed import Resident
from cnn_jax.training.setup import Run
from cnn_jax.training.steps import TrainState, compute_features
from cnn_jax.workdir.results import sha256

FILE = "features.npz"  # in the workdir


def train_on_features(run: Run, state: TrainState) -> Run:
    """Returns the run that trains and evaluates on the input of the head.

    The features are saved in the workdir with a fingerprint of weights and data, so
    that a resumed run reads the same bits instead of computing them again.

    state: on the host.
    """
    if run.recipe.tta:
        raise InputError("config.eval.tta cannot be used in training with "
                         "config.model.train = head, which computes the head's input "
                         "only once: unset it, and set it for --mode=eval")
    path, source = run.workdir / FILE, fingerprint(run, state)
    saved = load_arrays(path)
    current = saved is not None and str(saved.get("fingerprint")) == source
    if parallel.all_processes(current) and saved is not None:
        features = {split: saved[split] for split in SPLITS}
        run.report.line(f"features: {describe(features)}, from {path}")
    else:
        begun = time.perf_counter()
        features = features_of(run, state)
        run.report.line(f"features: {describe(features)}, computed in "
                        f"{time.perf_counter() - begun:.1f} s, saved in {path}")
        if jax.process_index() == 0:
            with file_errors(path):
                save_arrays(path, fingerprint=source, **features)
    run.feed.close()
    train, validation, test = (
        Examples(features[split], getattr(run.dataset, split).labels)
        for split in SPLITS)
    dataset = run.dataset._replace(train=train, validation=validation, test=test)
    feed = Resident(run.placement, dataset, run.config.seed, run.config.batch_size,
                    run.config.eval_batch_size or LARGEST)  # features are small
    recipe = dataclasses.replace(
        run.recipe, head_of=run.info.image_shape, scale=lambda features: features,
        augment=lambda key, features, labels, positions: (features, ((labels, 1.0),)))
    return dataclasses.replace(run, recipe=recipe, feed=feed)


def features_of(run: Run, state: TrainState) -> dict[str, np.ndarray]:
    """Computes the input of the head for all images: {split: float32 [N, ...]}."""
    step = run.placement.compile(functools.partial(
        run.feed.evaluate, recipe=run.recipe, step=compute_features))
    replicated, feed = run.placement.replicate(state), run.feed
    with run.report.timed("compiling the features"):
        program = compile_program(step.lower(replicated, *feed.example_batch()),
                                  ops.compiler_options())
    features = {}
    for split in SPLITS:
        count, size = feed.counts[split], feed.eval_batch_size
        calls = (program(replicated, *arguments) for arguments in feed.batches(split))
        with run.report.track(f"features of {split}", calls, -(-count // size),
                              f"batches of {size}") as tracked:
            batches = [run.placement.to_host(rows) for rows in tracked]
        if batches:
            features[split] = np.concatenate(batches)[:count]
    empty = features["train"][:0]
    return {split: features.get(split, empty) for split in SPLITS}


def fingerprint(run: Run, state: TrainState) -> str:
    """Hashes what the features depend on: the frozen weights and the data."""
    trunk = {layer: tree for layer, tree in state.params.items() if layer != "head"}
    return f"{sha256((trunk, state.batch_stats))} {run.info.sha256}"


def describe(features: dict[str, Any]) -> str:
    """Writes the number of images, the shape of their features, and the size in MB."""
    count = sum(map(len, features.values()))
    shape = " x ".join(map(str, features["train"].shape[1:]))
    size = sum(array.nbytes for array in features.values())
    return f"{count:,} images x {shape} ({size / 1e6:,.1f} MB)"
