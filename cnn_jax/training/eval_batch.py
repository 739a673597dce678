"""Chooses the batch size of evaluation: it fits into memory and needs little padding.
"""

from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from cnn_jax.console import Reporter
from cnn_jax.data.memory import available_bytes
from cnn_jax.networks.summary import LayerTable
from cnn_jax.training.parallel import Placement

LARGEST = 500  # images, even if more fit into memory
# Fraction of the memory for activations; the rest is for parameters, images and other
# programs.
MEMORY_FRACTION = 0.5
# Bound on the activations alive at once, in units of the input and output of the layer
# where these are largest. XLA needs 0.6 (MobileNetV2) to 1.15 (GoogLeNet) on a CPU.
LIVE = 2


def largest_batch(config: ConfigDict, table: LayerTable, placement: Placement,
                  report: Reporter) -> int:
    """Returns the largest number of images that an evaluation step may take.

    It is `config.eval_batch_size` if that is set, otherwise `LARGEST`. If the
    activations of `LARGEST` images exceed `MEMORY_FRACTION` of the memory, it is the
    greatest power of two that fits, and a line of the log says so.
    """
    if config.eval_batch_size is not None:
        return config.eval_batch_size
    memory = memory_bytes(placement.devices)
    image_bytes = LIVE * max((row.inputs + row.memory for row in table.rows),
                             default=0)
    if memory is None or image_bytes * LARGEST <= MEMORY_FRACTION * memory:
        return LARGEST
    fitting = max(1, int(MEMORY_FRACTION * memory / image_bytes))
    size = min(LARGEST, 1 << fitting.bit_length() - 1)
    report.line(f"evaluation: batches of {size} images, limited by the memory: "
                f"{memory / 2**30:,.1f} GiB are available, an image takes "
                f"{image_bytes / 2**20:,.1f} MiB (config.eval_batch_size sets another "
                "number)")
    return size


def memory_bytes(devices: Sequence[jax.Device]) -> int | None:
    """Returns the memory of all devices in bytes; None if unknown.

    If the devices do not report it, it is the available memory of this host. Several
    processes must agree on the number, so they ignore the memory of their hosts.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices
              if device.process_index == jax.process_index()]
    if limits and None not in limits:
        return min(filter(None, limits)) * len(devices)
    return available_bytes() if jax.process_count() == 1 else None


def evaluation_batch(limit: int, counts: Mapping[str, int],
                     placement: Placement) -> int:
    """Chooses the batch size that pads validation and test least.

    limit: the largest size allowed, rounded up to a multiple of the number of devices.
        Sizes down to half of it are tried, or down to half of the smallest split if
        that is smaller. Of sizes that pad equally, the largest wins.
    """
    devices = len(placement.devices)
    limit += -limit % devices
    splits = [counts[split] for split in ("validation", "test") if counts[split]]
    if not splits:
        return limit
    low = min(limit, *splits) // 2
    sizes = range(limit, max(low, devices) - 1, -devices)
    return min(sizes, key=lambda size: sum(-count % size for count in splits))
