"""One training step of every registered network on the device, compared with the CPU.

The networks are made small: images of 64 x 64 pixels, or the smallest that the network
takes if they are larger, and each stage has one block. Names that then have the same
program share it.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import networks
from cnn_jax.data.info import DataInfo
from cnn_jax.data.scaling import Scaling
from cnn_jax.networks.inputs import smallest_size
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import Batch, Recipe, TrainState, train_step
from configs import default

Shape = tuple[int, int, int]
EXAMPLES, CLASSES, SIDE = 4, 3, 64
PER_PIXEL = ("shapes_fcn",)  # a label for every pixel
# With these options a CPU compiles a step in seconds, not in a minute.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
FACTOR, FLOOR = 300.0, 1e-4  # see `check`
LOSS = 1e-3  # the largest relative difference of the losses


def one_block(name: str) -> dict[str, Any]:
    """Returns the fields with which each stage of a network has one block."""
    fields = networks.NETWORKS[name].fields
    kind = networks.NETWORKS[name].constructor
    if kind is networks.CifarResNet:
        return {"depth": 11 if fields.get("bottleneck") else 8}
    if kind is networks.Xception:
        return {"middle": 1}
    blocks = fields.get("blocks")
    return {"blocks": (1,) * len(blocks)} if isinstance(blocks, tuple) else {}


def shared(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups names by their network with `one_block`: {the first: all of them}."""
    groups: dict[str, list[str]] = {}
    for name in names:
        row = networks.NETWORKS[name]
        key = repr((row._replace(fields=row.fields | one_block(name))))
        groups.setdefault(key, []).append(name)
    return {group[0]: group for group in groups.values()}


def smallest_shape(name: str) -> Shape:
    """Returns (H, W, C) of the smallest images that the network takes."""
    row = networks.NETWORKS[name]
    if name in PER_PIXEL:
        return 4, 4, row.input_shape[2]
    model = networks.create(name, CLASSES, **one_block(name))
    side = smallest_size(model, row.input_shape[2])
    return side, side, row.input_shape[2]


def recipe_of(name: str, shape: Shape, dtype: str,
              fields: dict[str, Any] | None = None) -> Recipe:
    """Makes the recipe of a run with the config `model.name=NAME`."""
    config = default.get_config()
    config.dtype, config.batch_size = dtype, EXAMPLES
    config.model.name, config.model.conv, config.model.pool = name, "lax", "lax"
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.5
    if name in PER_PIXEL:
        config.data.task = "segment"
    with config.unlocked():
        config.model.fields.update(fields or {})
    parts = {"train": EXAMPLES, "validation": EXAMPLES, "test": EXAMPLES}
    return create_recipe(config, DataInfo("drawn", "here", shape, tuple("abc"),
                                          Scaling(127.5, 1 / 127.5), parts, ""))


def drawn(shapes: Any) -> Any:
    """Draws parameters and statistics by NumPy: JAX would compile for each shape.

    Gammas are small so that a thousand residual blocks do not overflow in evaluation,
    where the running statistics do not yet fit.
    """
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> np.ndarray:
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var"):
            return np.full(shape, 0.3 if name == "scale" else 1, np.float32)
        spread = np.sqrt(1 / max(1, np.prod(shape[:-1])))
        return np.float32(draw.normal(0, spread, shape))
    return jax.tree_util.tree_map_with_path(value, shapes)


def drawn_batch(name: str, shape: Shape) -> Batch:
    draw = np.random.default_rng(1)
    per_label = (EXAMPLES, *shape[:2]) if name in PER_PIXEL else (EXAMPLES,)
    return Batch(jnp.asarray(draw.integers(0, 256, (EXAMPLES, *shape)), jnp.uint8),
                 jnp.asarray(draw.integers(0, CLASSES, per_label)),
                 jnp.ones(EXAMPLES), jnp.arange(EXAMPLES))


def drawn_state(recipe: Recipe, shape: Shape) -> TrainState:
    state = abstract_state(recipe, shape)
    params = drawn(state.params)
    return state.replace(
        step=jnp.zeros((), jnp.int32), params=params,
        batch_stats=drawn(state.batch_stats), opt_state=recipe.optimizer.init(params))


def nearby(tree: Any) -> Any:
    """Moves every value by at most a bit of its float32 mantissa."""
    draw = np.random.default_rng(2)
    return jax.tree.map(
        lambda x: np.float32(x * (1 + draw.uniform(-1, 1, x.shape) * 2.0**-23)), tree)


def distance(actual: Any, expected: Any) -> float:
    """Computes |a - b| / |b| over all leaves of two trees, in the Euclidean norm."""
    a, b = (np.concatenate([np.ravel(np.asarray(leaf, np.float64))
                            for leaf in jax.tree.leaves(tree)])
            for tree in (actual, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check(name: str, device: jax.Device) -> dict[str, Any]:
    """Makes a step on the device and on the CPU, in float32; returns a row.

    The effect of rounding on the update differs by orders of magnitude from network to
    network. So the CPU makes a second step, from parameters that differ in their last
    bit (`nearby`), and the distance of its update is the unit. Another compiler rounds
    every operation, not the parameters alone: the updates of MobileNetV2, compiled on a
    CPU with and without optimizations, are 90 units apart. The device's update may be
    `FACTOR` units from the CPU's.
    """
    side = max(SIDE, smallest_shape(name)[0])
    shape = (side, side, networks.NETWORKS[name].input_shape[2])
    recipe = recipe_of(name, shape, "float32", one_block(name))
    state, batch = drawn_state(recipe, shape), drawn_batch(name, shape)
    step = functools.partial(train_step, recipe=recipe)
    cpu = jax.local_devices(backend="cpu")[0]

    def update(step: Any, state: TrainState) -> Any:
        after, metrics = step(state, batch)
        change = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old),
                              after.params, state.params)
        return change, float(metrics["loss"])

    with jax.default_matmul_precision("highest"):
        with jax.default_device(cpu):
            here = jax.jit(step, compiler_options=QUICK)
            expected, expected_loss = update(here, state)
            moved, _ = update(here, state.replace(params=nearby(state.params)))
        with jax.default_device(device):
            batch = jax.device_put(batch, device)
            actual, loss = update(jax.jit(step), jax.device_put(state, device))
    row = {"name": name, "image": shape, "loss": loss, "loss_cpu": expected_loss,
           "error": distance(actual, expected), "rounding": distance(moved, expected)}
    return row | {"wrong": "; ".join(faults(row))}


def faults(row: dict[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a row; NaN is."""
    allowed = FACTOR * row["rounding"] + FLOOR
    if not row["error"] <= allowed:
        yield f"the update is {row['error']:.1e} from the CPU's, at most {allowed:.1e}"
    if not abs(row["loss"] - row["loss_cpu"]) <= LOSS * abs(row["loss_cpu"]):
        yield f"the loss is {row['loss']}, on the CPU {row['loss_cpu']}"
