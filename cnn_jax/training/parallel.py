"""Runs the pure steps on devices, by `jit` over a mesh (the main path) or by `pmap`.

Both see the same global batch, draw the same random numbers and normalize over the
whole batch, so both train the same parameters as one device. `jax.distributed` joins
several processes; each runs the same program on its own devices.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cnn_jax.errors import InputError, RunError, first_line

AXIS = "batch"


class Placement(NamedTuple):
    """Holds the functions that put state, data and steps on the devices."""

    devices: tuple[jax.Device, ...]  # of all processes
    axis_name: str | None            # of the axis that pmap maps over; None with jit
    replicate: Callable[[Any], Any]  # host tree -> a copy on every device
    to_host: Callable[[Any], Any]    # replicated tree -> NumPy arrays
    shard_batch: Callable[[np.ndarray], jax.Array]  # [..., B] -> B over the devices
    # This process's examples of a batch, [b, ...] (see `positions`) -> all, [B, ...]
    join_shares: Callable[[np.ndarray], jax.Array | np.ndarray]
    compile: Callable[..., Any]      # step (state, data, *rows) -> jitted or mapped

    def positions(self, batch_size: int) -> np.ndarray:
        """Lists the positions in the global batch that this process's devices hold."""
        blocks = np.split(np.arange(batch_size), len(self.devices))
        return np.concatenate([block for block, device in zip(blocks, self.devices)
                               if device.process_index == jax.process_index()])

    @property
    def synchronous(self) -> bool:
        """Tells whether to wait for each call before the next one.

        Queued steps on several CPU devices can deadlock: their collectives wait for
        each other's threads.
        """
        return len(self.devices) > 1 and self.devices[0].platform == "cpu"


def start_processes(config: ConfigDict) -> None:
    """Joins the other processes if the config names a coordinator.

    It does nothing if they are joined already, as by Ray Train, Kubeflow or a notebook.
    It must be called before JAX is used.
    """
    if not config.coordinator or jax.distributed.is_initialized():
        return
    address, count, number = (config.coordinator, config.num_processes,
                              config.process_id)
    if address == "auto":  # JAX itself reads JAX_COORDINATOR_ADDRESS
        address = None
        count = from_environment("JAX_NUM_PROCESSES") if count is None else count
        number = from_environment("JAX_PROCESS_ID") if number is None else number
    try:
        jax.distributed.initialize(address, count, number)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"config.coordinator = {config.coordinator!r}: the processes "
                         f"could not be joined: {first_line(error)}"
                         ) from error


def from_environment(variable: str) -> int | None:
    """Reads a number that a launcher has set; None if it is not set.

    Raises InputError for anything but a whole number.
    """
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"{variable} is {text!r}: it must be a whole number, as "
                         "launchers of JAX set it, or not be set")
    return int(text)


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Turns JAX's error after another process has ended into a RunError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RunError(
            f"a collective of {jax.process_count()} processes failed, perhaps because "
            "one of them ended: the output of that process says why, and the same "
            f"commands resume at the last checkpoint ({first_line(error)})") from error


def choose_devices(config: ConfigDict) -> list[jax.Device]:
    """Chooses `config.devices` devices of this process, or all devices."""
    try:
        devices = jax.devices()
    except RuntimeError as error:  # such as JAX_PLATFORMS=cuda without a GPU
        raise InputError(
            f"JAX finds no device: {first_line(error)}") from error
    if config.devices is None:
        return devices
    if jax.process_count() > 1:
        raise InputError(f"config.devices = {config.devices} is for one process; with "
                         "several, all devices are used: set it to none")
    if config.devices > jax.local_device_count():
        raise InputError(
            f"config.devices = {config.devices} is more than the "
            f"{jax.local_device_count()} that this process has "
            f"({devices[0].platform}): use fewer, or none for all")
    return jax.local_devices()[:config.devices]


def make_placement(config: ConfigDict) -> Placement:
    """Makes the placement that a config asks for."""
    return PLACEMENTS[config.parallel](choose_devices(config))


def check_processes_agree(facts: str) -> None:
    """Raises InputError in every process unless `facts` is the same in all of them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(facts.encode()).digest(), np.uint8)
    if (multihost_utils.process_allgather(digest) != digest).any():
        raise InputError("the processes have different configs or data: start the same "
                         "command on each; only config.process_id and data.dir may "
                         "differ")


def any_process_signal(received: list[int]) -> int:
    """Returns a signal that any process has received, or 0.

    All processes get the same answer, and all must call this at the same step.
    """
    mine = received[0] if received else 0
    if jax.process_count() == 1:
        return mine
    return int(multihost_utils.process_allgather(np.int32(mine)).max())


def all_processes(fact: bool) -> bool:
    """Tells whether a fact holds in all processes, which must all call this."""
    if jax.process_count() == 1:
        return fact
    return bool(multihost_utils.process_allgather(np.int32(fact)).all())


def largest(value: float) -> float:
    """Returns the largest value of all processes, which must call this together."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.float64(value)).max())


def union(names: Iterable[str]) -> list[str]:
    """Returns the sorted union of the names of all processes.

    All processes must call this together.
    """
    if jax.process_count() == 1:
        return sorted(set(names))
    text = "\0".join(sorted(set(names))).encode("utf-8", "surrogateescape")
    size = int(largest(len(text)))
    if not size:
        return []
    texts = multihost_utils.process_allgather(
        np.frombuffer(text.ljust(size, b"\0"), np.uint8))
    joined = b"\0".join(row.tobytes() for row in texts)
    return sorted({*joined.decode("utf-8", "surrogateescape").split("\0")} - {""})


def global_array(value: Any, sharding: NamedSharding) -> jax.Array:
    """Makes a global array from a host value that every process holds."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def count_local(devices: Iterable[jax.Device]) -> int:
    """Counts the devices that belong to this process.

    `jax.local_device_count` would not do: they may describe a machine that is absent.
    """
    return sum(device.process_index == jax.process_index() for device in devices)


def shape_of_value(value: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    """Describes what `global_array` makes."""
    value = np.asarray(value)
    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)


def shape_of_shares(sharding: NamedSharding, share: np.ndarray) -> jax.ShapeDtypeStruct:
    """Describes what `jax.make_array_from_process_local_data` makes."""
    devices = sharding.mesh.devices.ravel()
    shape = (share.shape[0] * len(devices) // count_local(devices), *share.shape[1:])
    return jax.ShapeDtypeStruct(shape, share.dtype, sharding=sharding)


class Arrays(NamedTuple):
    """Holds the two functions by which a placement makes its global arrays."""

    whole: Callable[[Any, NamedSharding], Any]  # from a value that every process holds
    joined: Callable[[NamedSharding, np.ndarray], Any]  # from each process's share


REAL = Arrays(global_array, jax.make_array_from_process_local_data)
# Only shapes, to compile programs for devices that this machine does not have.
ABSTRACT = Arrays(shape_of_value, shape_of_shares)


def mesh_placement(devices: Sequence[jax.Device], arrays: Arrays = REAL) -> Placement:
    """Replicates state and data, and splits the batch over a one-axis mesh."""
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    on_host = (arrays is REAL and len(devices) == 1 and devices[0].platform == "cpu")

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda x: arrays.whole(x, replicated), tree)

    def to_host(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)

    def shard_batch(rows: np.ndarray) -> jax.Array:
        spec = PartitionSpec(*[None] * (rows.ndim - 1), AXIS)
        return arrays.whole(rows, NamedSharding(mesh, spec))

    def join_shares(share: np.ndarray) -> jax.Array | np.ndarray:
        if on_host:  # making a jax.Array takes ten times as long, for the same memory
            return share
        return arrays.joined(split, share)

    def compile(step: Callable, donate: tuple[int, ...] = ()) -> Any:
        return jax.jit(step, out_shardings=replicated, donate_argnums=donate)

    return Placement(tuple(devices), None, replicate, to_host, shard_batch, join_shares,
                     compile)


def pmap_placement(devices: Sequence[jax.Device], arrays: Arrays = REAL) -> Placement:
    """Stacks a copy of state and data, and a part of the batch, for each device.

    The devices are a new leading axis.
    """
    stacked = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda x: arrays.whole(
            np.broadcast_to(x, (len(devices), *np.shape(x))), stacked), tree)

    def to_host(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0, ...], tree)

    def shard_batch(rows: np.ndarray) -> jax.Array:
        """Reshapes [..., B] to [devices, ..., B / devices]."""
        return arrays.whole(np.stack(np.split(rows, len(devices), axis=-1)), stacked)

    def join_shares(share: np.ndarray) -> jax.Array:
        """Reshapes [b, ...] to [devices, B / devices, ...]."""
        return arrays.joined(stacked, np.stack(np.split(share, count_local(devices))))

    def compile(step: Callable, donate: tuple[int, ...] = ()) -> Any:
        return jax.pmap(step, AXIS, devices=devices, donate_argnums=donate)

    return Placement(tuple(devices), AXIS, replicate, to_host, shard_batch, join_shares,
                     compile)


PLACEMENTS = {"jit": mesh_placement, "pmap": pmap_placement}
