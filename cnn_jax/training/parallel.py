"""The pure steps on devices: `jit` over a mesh (the main path) or `pmap`.

Both see the same global batch, draw the same random numbers and normalise over the
whole batch, so both train the same parameters as one device. More than one process is
`jax.distributed`; every process runs the same program on its own devices.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError
from cnn_jax.training.steps import (Batch, Metrics, Recipe, TrainState, eval_step,
                                    train_step)

AXIS = "batch"


class Placement(NamedTuple):
    """How state, data and indices lie on the devices, and how steps get there."""

    devices: tuple[jax.Device, ...]    # of all processes
    axis_name: str | None              # for the recipe: set where steps are mapped
    put: Callable[[Any], Any]          # host tree -> a copy on every device
    fetch: Callable[[Any], Any]        # the reverse: one copy, as NumPy arrays
    put_rows: Callable[[np.ndarray], jax.Array]  # [..., B] -> last axis over devices
    wrap: Callable[..., Any]           # step (state, data, *rows) -> jitted or mapped

    @property
    def synchronous(self) -> bool:
        """Whether to wait for each call: queued steps on several CPU devices can
        deadlock in the collectives' rendezvous when threads run out."""
        return len(self.devices) > 1 and self.devices[0].platform == "cpu"


def start_processes(config) -> None:
    """Joins the other processes, where the config names any; call before all else."""
    if not config.coordinator:
        return
    try:
        if config.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(config.coordinator, config.num_processes,
                                       config.process_id)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"config.coordinator = {config.coordinator!r}: the processes "
                         f"could not be joined: {str(error).splitlines()[0]}"
                         ) from error


def choose_devices(config) -> list[jax.Device]:
    """The devices to train on: `config.devices` of this process's, or all there are."""
    try:
        devices = jax.devices()
    except RuntimeError as error:  # such as JAX_PLATFORMS=cuda where there is none
        raise InputError(
            f"JAX finds no device: {str(error).splitlines()[0]}") from error
    if config.devices is None:
        return devices
    if jax.process_count() > 1:
        raise InputError(f"config.devices = {config.devices} is for one process; with "
                         "several, all devices are used: set it to none")
    if config.devices > jax.local_device_count():
        raise InputError(
            f"config.devices = {config.devices}, but there are only "
            f"{jax.local_device_count()} ({jax.devices()[0].platform}): none uses all")
    return jax.local_devices()[:config.devices]


def place(config) -> Placement:
    """The placement that a config asks for."""
    devices = choose_devices(config)
    return {"jit": mesh_placement, "pmap": pmap_placement}[config.parallel](devices)


def check_same_in_all(facts: str) -> None:
    """Raises InputError in every process unless all of them have the same `facts`."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(facts.encode()).digest(), np.uint8)
    if (multihost_utils.process_allgather(digest) != digest).any():
        raise InputError("the processes have different configs or data: start the same "
                         "command on each, but for config.process_id and data.dir")


def succeeded_in_first(error: Exception | None) -> bool:
    """Whether process 0 has no error to report; a collective of all processes."""
    if jax.process_count() == 1:
        return error is None
    return not multihost_utils.process_allgather(np.int32(error is not None))[0]


def agreed(received: list[int]) -> int:
    """The signal that any process has received, or 0: the same in all of them.

    A collective where there are several processes: all must call it at the same step.
    """
    mine = received[0] if received else 0
    if jax.process_count() == 1:
        return mine
    return int(multihost_utils.process_allgather(np.int32(mine)).max())


def global_array(value, sharding: NamedSharding) -> jax.Array:
    """A global array from a host value that every process has."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def mesh_placement(devices) -> Placement:
    """State and data on every device, the batch split over a one-axis mesh."""
    mesh = Mesh(np.array(devices), (AXIS,))
    whole = NamedSharding(mesh, PartitionSpec())

    def put(tree):
        return jax.tree.map(lambda x: global_array(x, whole), tree)

    def fetch(tree):
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)

    def put_rows(rows):
        spec = PartitionSpec(*[None] * (rows.ndim - 1), AXIS)
        return global_array(rows, NamedSharding(mesh, spec))

    def wrap(step, donate=()):
        return jax.jit(step, out_shardings=whole, donate_argnums=donate)

    return Placement(tuple(devices), None, put, fetch, put_rows, wrap)


def pmap_placement(devices) -> Placement:
    """A copy of state and data per device, stacked along a leading axis."""
    stacked = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def put(tree):
        return jax.tree.map(lambda x: global_array(
            np.broadcast_to(x, (len(devices), *np.shape(x))), stacked), tree)

    def fetch(tree):
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0, ...], tree)

    def put_rows(rows):
        """[..., B] -> [devices, ..., B / devices]."""
        return global_array(np.stack(np.split(rows, len(devices), axis=-1)), stacked)

    def wrap(step, donate=()):
        return jax.pmap(step, AXIS, devices=devices, donate_argnums=donate)

    return Placement(tuple(devices), AXIS, put, fetch, put_rows, wrap)


def gather(data: Examples, indices: jax.Array, mask: jax.Array,
           axis_name: str | None) -> Batch:
    """The batch of these examples; each keeps its place in the global batch."""
    place = jnp.arange(len(indices))
    if axis_name is not None:
        place += len(indices) * lax.axis_index(axis_name)
    return Batch(data.images[indices], data.labels[indices], mask, place)


def train_steps(state: TrainState, data: Examples, order: jax.Array,
                recipe: Recipe) -> tuple[TrainState, Metrics]:
    """As many steps as `order` [K, B] has rows; metrics are arrays of K sums."""
    def body(state, indices):
        mask = jnp.ones(len(indices))
        return train_step(state, gather(data, indices, mask, recipe.axis_name), recipe)

    if len(order) > 1:
        return lax.scan(body, state, order)
    state, metrics = body(state, order[0])
    return state, jax.tree.map(lambda x: x[None], metrics)


def eval_batch(state: TrainState, data: Examples, indices: jax.Array, mask: jax.Array,
               recipe: Recipe) -> Metrics:
    return eval_step(state, gather(data, indices, mask, recipe.axis_name), recipe)
