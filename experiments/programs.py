"""Makes the programs that a run compiles, also for devices that this machine lacks.

`Case` holds a config, the shape of its data and the images per device. `programs` makes
its training and evaluation steps from shapes alone, with the placement, the recipe and
the steps of `cnn_jax.training`, as `training.run` does.
"""

import contextlib
import functools
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from ml_collections import ConfigDict

from cnn_jax import data, networks
from cnn_jax.config import check
from cnn_jax.data.examples import Examples
from cnn_jax.data.info import DataInfo, describe
from cnn_jax.data.scaling import FIXED, Scaling
from cnn_jax.errors import InputError
from cnn_jax.networks.summary import layer_table
from cnn_jax.training import parallel, steps
from cnn_jax.training.recipe import abstract_state, create_recipe
from configs import cifar10, fashion, imagenet, lenet
from experiments import hlo
from experiments.arms.plain_flax import PlainFlax, make_train_step

STEPS = (1, 8)  # training steps of one call


class Case(NamedTuple):
    """A config on data of known shapes."""

    config: Callable[[], ConfigDict]
    image_shape: tuple[int, int, int]
    classes: int
    examples: int       # of the set
    images: int         # of a training batch, on each device
    streamed: bool = False
    label: jax.ShapeDtypeStruct = jax.ShapeDtypeStruct((), np.int32)  # of an example
    info: DataInfo | None = None  # None: made of the shapes


def densenet121() -> ConfigDict:
    """Makes a config of DenseNet-121 with MobileNetV2's recipe."""
    config = imagenet.get_config("mobilenet_v2")
    config.model.name = "densenet121"
    return config


IMAGENET = (224, 224, 3), 1000, 1_281_167
CASES = {
    "lenet5": Case(lambda: lenet.get_config("mnist"), (28, 28, 1), 10, 70_000, 512),
    "cifar_resnet18": Case(lambda: cifar10.get_config("resnet18_ours"), (32, 32, 3), 10,
                           60_000, 512),
    "selu_cnn": Case(lambda: fashion.get_config("selu"), (28, 28, 1), 10, 70_000, 512),
    "separable_cnn": Case(lambda: fashion.get_config("separable"), (28, 28, 1), 10,
                          70_000, 512),
    "resnet50": Case(lambda: imagenet.get_config("resnet50_90"), *IMAGENET, 256, True),
    "mobilenet_v2": Case(lambda: imagenet.get_config("mobilenet_v2"), *IMAGENET, 256,
                         True),
    "densenet121": Case(densenet121, *IMAGENET, 128, True),
}


def case_of(config: ConfigDict) -> Case:
    """Makes the case of a config whose data are here, for one device."""
    dataset = data.load(config.data, config.seed)
    info, labels = describe(dataset, config.data), dataset.train.labels
    return Case(config.copy_and_resolve_references, info.image_shape,
                len(info.class_names), sum(info.counts.values()), config.batch_size,
                label=jax.ShapeDtypeStruct(labels.shape[1:], labels.dtype), info=info)


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a TPU slice that this machine lacks, such as 'v5e:2x2'.

    Raises InputError for another name, or without libtpu.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not look for a real TPU
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"--topology={topology}: {str(error).splitlines()[0]} (pip "
                         "install -e '.[tpu-aot]')") from error


@contextlib.contextmanager
def as_on(platform: str) -> Iterator[None]:
    """Makes the package choose its operations as on a 'tpu' or 'gpu'."""
    with mock.patch.object(jax, "default_backend", lambda: platform):
        yield


def zeros(tree: Any) -> Any:
    """Makes arrays that take no memory from shapes."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype),
                                                     leaf.shape), tree)


class Program(NamedTuple):
    """A step to compile, and the arguments to compile it for."""

    step: Any                    # has `lower(*arguments)`
    arguments: tuple[Any, ...]
    images: int                  # of one call on each device


def config_of(case: Case, kind: str, devices: int,
              changes: dict[str, Any] | None = None) -> ConfigDict:
    """Makes the config of a case in bfloat16, with its images on each device."""
    config = case.config()
    config.update_from_flattened_dict(
        {"dtype": "bfloat16", "parallel": kind, "batch_size": case.images * devices}
        | (changes or {}))
    check(config)
    return config


def recipe_of(case: Case, config: ConfigDict, axis_name: str | None,
              devices: int) -> steps.Recipe:
    """Makes the recipe of a config from the shapes of its data."""
    info = case.info or DataInfo(
        "shapes alone", "", case.image_shape, tuple(map(str, range(case.classes))),
        FIXED.get(config.data.scaling, Scaling(0.0, 1 / 255)),
        {"train": max(case.examples, config.batch_size), "validation": 1, "test": 1},
        sha256="")
    return create_recipe(config, info, axis_name, cropped=case.streamed,
                         devices=devices)


def programs(case: Case, kind: str, devices: Sequence[jax.Device],
             arrays: parallel.Arrays = parallel.ABSTRACT,
             changes: dict[str, Any] | None = None) -> dict[str, Program]:
    """Makes 'train 1', 'train 8' and 'eval' of a case.

    kind: 'jit' or 'pmap'. changes: other values of fields of the config.
    """
    config = config_of(case, kind, len(devices), changes)
    placement = parallel.PLACEMENTS[kind](devices, arrays)
    recipe = recipe_of(case, config, placement.axis_name, len(devices))
    state = placement.replicate(zeros(abstract_state(recipe, case.image_shape)))
    arguments = streamed if case.streamed else resident
    made = {}
    for length in STEPS:
        train, given = arguments(case, placement, config.batch_size, length)
        made[f"train {length}"] = Program(
            placement.compile(functools.partial(train, recipe=recipe), donate=(0,)),
            (state, *given), length * case.images)
    evaluate, given = arguments(case, placement, config.batch_size, None)
    step = placement.compile(functools.partial(evaluate, recipe=recipe))
    made["eval"] = Program(step, (state, *given), case.images)
    return made


def resident(case: Case, placement: parallel.Placement, batch: int,
             length: int | None) -> tuple[Callable, tuple]:
    """Returns a step on data that stay on the devices, and its arguments."""
    examples = placement.replicate(Examples(
        zeros(jax.ShapeDtypeStruct((case.examples, *case.image_shape), np.uint8)),
        zeros(jax.ShapeDtypeStruct((case.examples, *case.label.shape),
                                   case.label.dtype))))
    rows = np.zeros((length or 1, batch), np.int32)
    if length is not None:
        return steps.train_steps, (examples, placement.shard_batch(rows))
    return steps.eval_rows, (examples, placement.shard_batch(rows[0]),
                             placement.shard_batch(np.zeros(batch, np.float32)))


def streamed(case: Case, placement: parallel.Placement, batch: int,
             length: int | None) -> tuple[Callable, tuple]:
    """Returns a step on batches that are sent, and its arguments."""
    share = len(placement.positions(batch))
    examples = Examples(
        zeros(jax.ShapeDtypeStruct((share, *case.image_shape), np.uint8)),
        np.zeros(share, np.int32))
    examples, mask = jax.tree.map(placement.join_shares,
                                  (examples, np.zeros(share, np.float32)))
    if length is not None:
        return steps.train_batches, ((examples,) * length,)
    return steps.eval_batch, (examples, mask)


def plain_flax(case: Case, devices: Sequence[jax.Device]) -> dict[str, Program]:
    """Makes a training step of the same network in plain Flax.

    Like Flax's ImageNet example, it uses `nn.Conv`, `nn.BatchNorm`, momentum and images
    in bfloat16. Under jit over a mesh, as here, `nn.BatchNorm` normalizes the whole
    batch, as ours does by default.
    """
    config = config_of(case, "jit", len(devices))
    net = networks.create(config.model.name, case.classes, PlainFlax(dtype="bfloat16"))
    placement = parallel.mesh_placement(devices, parallel.ABSTRACT)
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    images = (config.batch_size // len(devices) * len(devices), *case.image_shape)

    train_step = make_train_step(net, optimizer)

    def train(state: Any, batch: Any) -> Any:
        return train_step(state, *batch, jax.random.key(0))

    shapes = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0),
                            jax.ShapeDtypeStruct((1, *images[1:]), jnp.bfloat16))
    state = placement.replicate(zeros(
        (shapes, jax.eval_shape(optimizer.init, shapes["params"]))))
    share = len(placement.positions(images[0]))
    batch = tuple(placement.join_shares(zeros(jax.ShapeDtypeStruct(shape, dtype)))
                  for shape, dtype in (((share, *images[1:]), jnp.bfloat16),
                                       ((share,), jnp.int32)))
    return {"train 1": Program(placement.compile(train, donate=(0,)), (state, batch),
                               case.images)}


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes of a chip's memory (HBM) that a program takes with its data."""
    sizes = compiled.memory_analysis()
    return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
            + sizes.generated_code_size_in_bytes)


def compile_for_tpu(network: str, topology: str, arm: str,
                    program: str) -> dict[str, Any]:
    """Compiles a program for a TPU slice that this machine lacks; returns its facts.

    arm: 'jit', 'pmap', or 'flax' for plain Flax. FLOPs, bytes and memory are of one
    chip, as XLA counts them.
    """
    devices, case = tpu_devices(topology), CASES[network]
    with as_on("tpu"):
        chosen = (plain_flax(case, devices) if arm == "flax"
                  else programs(case, arm, devices))[program]
        lowered = chosen.step.lower(*chosen.arguments)
        config = config_of(case, "jit", len(devices))
        table = layer_table(networks.from_config(config, case.classes),
                            case.image_shape)
    begun = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    cost = compiled.cost_analysis()
    text = compiled.as_text()
    facts = hlo.facts(text)
    return {
        "chip": f"tpu-{topology.partition(':')[0]}", "chips": len(devices),
        "program": program.partition(" ")[0],
        "steps": int(program.partition(" ")[2] or 1), "images": chosen.images,
        "hbm": memory_of(compiled),
        "flops": cost["flops"], "bytes": cost["bytes accessed"],
        "hbm_traffic": hlo.hbm_traffic(text),
        "params": table.params, "stats": table.stats, "macs": table.macs,
        "collectives": facts.collectives, "collective_bytes": facts.collective_bytes,
        "host_transfers": len(facts.host_transfers),
        "float32_convolutions": len(facts.float32_convolutions), "compile_s": seconds,
        "jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
