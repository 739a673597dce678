"""Chooses how many images an evaluation step takes: by memory, and so that it pads
little."""

from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from cnn_jax.console import Reporter
from cnn_jax.data.memory import available_bytes
from cnn_jax.networks.summary import LayerTable
from cnn_jax.training.parallel import Placement

LARGEST = 500  # images, where memory allows more
SHARE = 0.5    # of the memory; the rest is for parameters, images and other programs
# What an image takes, in units of the input and output of the layer where they are
# largest. XLA's programs take 0.6 (MobileNetV2) to 1.15 (GoogLeNet) on a CPU.
LIVE = 2


def largest_batch(config: ConfigDict, table: LayerTable, placement: Placement,
                  report: Reporter) -> int:
    """Returns the most images that an evaluation step of a network may take.

    It is `config.eval_batch_size`. Where that is None it is `LARGEST`, or the greatest
    power of two whose activations fit into `SHARE` of the memory; a line says so.
    """
    if config.eval_batch_size is not None:
        return config.eval_batch_size
    memory = memory_bytes(placement.devices)
    each = LIVE * max((row.inputs + row.memory for row in table.rows), default=0)
    if memory is None or each * LARGEST <= SHARE * memory:
        return LARGEST
    fitting = max(1, int(SHARE * memory / each))
    size = min(LARGEST, 1 << fitting.bit_length() - 1)
    report.line(f"evaluation: batches of {size} images, by the memory: "
                f"{memory / 2**30:,.1f} GiB are available, an image takes "
                f"{each / 2**20:,.1f} MiB (config.eval_batch_size sets another number)")
    return size


def memory_bytes(devices: Sequence[jax.Device]) -> int | None:
    """Returns the memory of all devices, or what Linux can give; None if unknown.

    Several processes must agree, so the host of each is not asked there.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices
              if device.process_index == jax.process_index()]
    if limits and None not in limits:
        return min(filter(None, limits)) * len(devices)
    return available_bytes() if jax.process_count() == 1 else None


def evaluation_batch(limit: int, counts: Mapping[str, int],
                     placement: Placement) -> int:
    """Chooses the batch size of evaluation, which pads validation and test least.

    limit: the largest, rounded up to a multiple of the number of devices. Sizes below
        half of it are for splits that are smaller. Of equal sizes the largest wins.
    """
    devices = len(placement.devices)
    limit += -limit % devices
    splits = [counts[split] for split in ("validation", "test") if counts[split]]
    if not splits:
        return limit
    low = min(limit, *splits) // 2
    sizes = range(limit, max(low, devices) - 1, -devices)
    return min(sizes, key=lambda size: sum(-count % size for count in splits))
