"""Defines every field of a config once: its default, its rule and its meaning.

A field that is None is not set; its help says what happens then. On the command line,
`--config.FIELD=none` unsets a field that a config file has set.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from cnn_jax import data, layers, networks, ops, optimizers
from cnn_jax.config.rules import (Rule, boolean, coordinator, fraction,
                                  image_channels, integer, interval, mapping, monitor,
                                  norm_groups, number, one_of, optional, row_of,
                                  sequence, text)
from cnn_jax.data import augment, images, scaling, warp
from cnn_jax.tasks import TASKS
from cnn_jax.tasks.losses import LOSSES

network_name = Rule(
    lambda value: isinstance(value, str) and (
        value in networks.NETWORKS or networks.is_reference(value)),
    "a network that --mode=list prints, or MODULE:CLASS of your own", str,
    tuple(networks.NETWORKS))
NETWORK_FIELDS = "model.fields"  # the one field that is a mapping


class Field(NamedTuple):
    """One field of a config."""

    default: Any
    rule: Rule
    help: str
    # False for fields that say where a run is executed or what is drawn. A run may be
    # resumed with other values of these.
    changes_result: bool = True


FIELDS: dict[str, Field] = {
    "seed": Field(
        0, integer(0),
        "Random seed of initial values, split, order, augmentation and dropout."),
    "epochs": Field(
        10, integer(1),
        "Number of passes over the training split."),
    "batch_size": Field(
        128, integer(1),
        "Images per training step, over all devices."),
    "eval_batch_size": Field(
        None, optional(integer(1)),
        "Maximum number of images per evaluation step; it takes fewer if that needs "
        "less padding. The metrics do not depend on it. None is 500, or what fits into "
        "the memory."),
    "dtype": Field(
        "float32", one_of(("float32", "bfloat16")),
        "Type of the computation; parameters are always float32."),
    "parallel": Field(
        "jit", one_of(("jit", "pmap")),
        "How training uses several devices: jit over a mesh, or pmap.",
        changes_result=False),
    "devices": Field(
        None, optional(integer(1)),
        "Number of local devices to use; None uses all.", changes_result=False),
    "steps_per_call": Field(
        None, optional(integer(1, 1000)),
        "Training steps per jit call; None is 1 on a CPU and 8 elsewhere."),
    "coordinator": Field(
        None, optional(coordinator),
        "Address 'host:port' of the first of several processes, or 'auto' on a "
        "cluster; None is one process.", changes_result=False),
    "num_processes": Field(
        None, optional(integer(1)),
        "Number of processes; None asks the cluster.", changes_result=False),
    "process_id": Field(
        None, optional(integer(0)),
        "Number of this process, from 0; None asks the cluster.", changes_result=False),

    "model.name": Field(
        "lenet5", network_name,
        "Name of the network in cnn_jax.networks.NETWORKS, or MODULE:CLASS of a Linen "
        "module of your own."),
    # ImageNet-21k has 21,843 classes.
    "model.num_classes": Field(
        None, optional(integer(1, 1_000_000)),
        "Number of outputs; None is the number of classes in the data."),
    "model.conv": Field(
        "auto", one_of(ops.ALGORITHMS),
        "Convolution algorithm in cnn_jax.ops.ALGORITHMS."),
    "model.pool": Field(
        "auto", one_of(ops.POOLS),
        "Pooling algorithm in cnn_jax.ops.POOLS."),
    "model.init": Field(
        "flax", one_of(layers.INITIALIZERS),
        "Initial values, a name in cnn_jax.layers.INITIALIZERS."),
    "model.bn": Field(
        "paper", one_of((*layers.BATCH_NORM, *layers.IMAGE_NORMS)),
        "Momentum and epsilon of batch norm, a name in cnn_jax.layers.BATCH_NORM; or "
        "group_norm or layer_norm in its place."),
    "model.bn_sync": Field(
        "all", norm_groups,
        "Images over which batch norm takes its statistics in training: 'all' of a "
        "batch, those of a 'device', or groups of a number of images, such as 32, on "
        "any number of devices."),
    "model.remat": Field(
        False, boolean,
        "Whether the gradient recomputes the inside of each block instead of keeping "
        "it: less memory, about a third more work; the same network.",
        changes_result=False),
    "model.init_from": Field(
        None, optional(text),
        "Trained network that this run starts from: the workdir of a run, pretrained "
        "weights such as torchvision:resnet50, or a file of weights; None starts from "
        "random values."),
    "model.train": Field(
        "all", one_of(("all", "head")),
        "What learns: all layers, or only the last one (head). Its input is then "
        "computed once for every image, as in evaluation, without dropout, and no "
        "image is augmented."),
    "model.freeze": Field(
        None, optional(text),
        "Modules that do not learn and run as in evaluation, such as 'stem,stage1' or "
        "'trunk', which is all but the head; None trains all."),
    NETWORK_FIELDS: Field(
        {}, mapping,
        "The network's own fields, such as activation; the network checks them."),

    # data.check says which of these fields a data set accepts.
    "data.name": Field(
        "digits", text,
        "Name of the data set in cnn_jax.data.SOURCES, 'tfds:NAME', or MODULE:FUNCTION "
        "of your own."),
    "data.dir": Field(
        None, optional(text),
        "Folder of this data set; None looks in $CNN_JAX_DATA/NAME, then in the "
        "tensorflow-datasets folder.", changes_result=False),
    "data.task": Field(
        None, optional(row_of(TASKS, "MODULE:TASK")),
        "What the labels mean, a name in cnn_jax.tasks.TASKS or MODULE:TASK of your "
        "own; None is the task of the data set."),
    "data.image_size": Field(
        None, optional(sequence(integer(1, data.MAX_SIDE), 2)),
        "(height, width) in pixels to resize images to; None keeps their size."),
    "data.shorter_side": Field(
        None, optional(integer(1, data.MAX_SIDE)),
        "Shorter side in pixels to which images are resized with their aspect ratio, "
        "before image_size is cut from the centre; None resizes to image_size."),
    "data.interpolation": Field(
        "bilinear", one_of(images.INTERPOLATIONS),
        "How images are resized: nearest, bilinear, bicubic or lanczos."),
    "data.channels": Field(
        None, optional(image_channels),
        "Channels to convert images to: 1 is grey, 3 is colour; None keeps them."),
    "data.validation": Field(
        0.1, fraction._replace(allowed=f"{fraction.allowed}; a number of images is "
                                       "config.data.validation_count"),
        "Fraction of the training split that becomes the validation split; 0 leaves "
        "it empty."),
    "data.validation_count": Field(
        None, optional(integer(1)),
        "Number of images in the validation split; None uses data.validation."),
    "data.split": Field(
        "stratified", one_of(data.SPLITS),
        "How the validation split is chosen: stratified by class at random, random, or "
        "the first or last images."),
    "data.protocol": Field(
        "held_out", one_of(data.PROTOCOLS),
        "Which images choose the best epoch: held_out, a validation split of their "
        "own; or published, the test images, as in some publications, so that every "
        "training image trains. The test figures are then optimistic."),
    "data.test": Field(
        0.2, fraction,
        "Fraction of the data that becomes the test split, in data sets without one; "
        "0 leaves it empty."),
    "data.validation_is_test": Field(
        False, boolean,
        "Whether to use the validation split as test split, in a set without a test "
        "split such as ImageNet."),
    "data.limit": Field(
        None, optional(integer(1)),
        "Number of training images to use; None uses all."),
    "data.seed": Field(
        0, integer(0),
        "Random seed of the data sets shapes_*, which are drawn."),
    "data.biased_triangles": Field(
        False, boolean,
        "Whether the triangles of shapes_colour and shapes_shape are biased, as in the "
        "published sets."),
    "data.scaling": Field(
        "unit", one_of(scaling.SCALINGS),
        "How pixels become network inputs: unit is 0 to 1, signed is -1 to 1, "
        "standard and minmax are measured on the training split, imagenet and "
        "caffe have numbers for each channel."),

    "data.stream": Field(
        None, optional(boolean),
        "Whether images are read and decoded during training, instead of once, into "
        "memory; None does so if they would take more than 8 GiB, a quarter of the "
        "available memory of the host, or half of a device's."),
    "data.workers": Field(
        None, optional(integer(0, 256)),
        "Processes that decode a streamed set; 0 decodes in threads of the training "
        "process; None is 0 up to 16 cores, then one for every 8 cores.",
        changes_result=False),
    "data.prefetch": Field(
        None, optional(integer(1, 1000)),
        "Batches of a streamed set that are read ahead of the devices; None is 4, or "
        "twice steps_per_call if that is more.", changes_result=False),
    "data.on_error": Field(
        "stop", one_of(("stop", "skip")),
        "What to do with a streamed picture that cannot be decoded: stop the run, or "
        "skip the picture. Training then takes the next picture of its split in its "
        "place, and evaluation leaves it out.", changes_result=False),

    # Progressive image sizes, as in FFCV.
    "progressive.sides": Field(
        None, optional(interval(integer(1, data.MAX_SIDE))),
        "(first, last) side in pixels of square training images that grow during the "
        "run, such as (160, 192). Evaluation uses data.image_size; None trains on that "
        "size too."),
    "progressive.epochs": Field(
        None, optional(interval(integer(0))),
        "(start, end) of the growth, in epochs from 0: the first side up to epoch "
        "start, the last side from epoch end on; None if progressive.sides is None."),
    "progressive.multiple": Field(
        32, integer(1, data.MAX_SIDE),
        "Sides between the first and the last are rounded to a multiple of this many "
        "pixels."),

    # Augmentation of training images, with the names of Keras and torchvision.
    "augment.crop_scale": Field(
        None, optional(interval(number(0, 1, open_low=True))),
        "(low, high) fraction of an image's area in a random crop, such as (0.08, "
        "1.0); the crop is resized to the image's size. None crops nothing."),
    "augment.crop_ratio": Field(
        (3 / 4, 4 / 3), interval(number(0, open_low=True)),
        "(low, high) of width / height of the crops of augment.crop_scale."),
    "augment.rotation_range": Field(
        0.0, number(0, 180),
        "Largest rotation in degrees, either way."),
    "augment.width_shift_range": Field(
        0.0, fraction,
        "Largest horizontal shift as a fraction of the width, either way."),
    "augment.height_shift_range": Field(
        0.0, fraction,
        "Largest vertical shift as a fraction of the height, either way."),
    "augment.shear_range": Field(
        0.0, number(0, 90, open_high=True),
        "Largest shear in degrees, either way."),
    "augment.zoom_range": Field(
        0.0, fraction,
        "Zoom z: each axis is scaled by a factor from 1 - z to 1 + z."),
    "augment.horizontal_flip": Field(
        False, boolean,
        "Whether to mirror half of the images left to right."),
    "augment.vertical_flip": Field(
        False, boolean,
        "Whether to mirror half of the images top to bottom."),
    "augment.fill_mode": Field(
        "nearest", one_of(warp.FILL_MODES),
        "How pixels outside the image are filled: nearest, constant or reflect; "
        "trivial_augment always fills with black."),
    "augment.crop_padding": Field(
        0, integer(0, 256),
        "Pixels added on each side before a random crop to the original size."),
    "augment.trivial_augment": Field(
        False, boolean,
        "Whether each image gets one of TrivialAugment's 14 operations, of random "
        "strength."),
    "augment.brightness": Field(
        0.0, number(0),
        "Colour jitter b: the brightness is scaled by a factor from 1 - b, or 0, to "
        "1 + b."),
    "augment.contrast": Field(
        0.0, number(0),
        "Colour jitter c: the distance from the mean grey is scaled by a factor from "
        "1 - c, or 0, to 1 + c."),
    "augment.saturation": Field(
        0.0, number(0),
        "Colour jitter s: the distance from the grey image is scaled by a factor from "
        "1 - s, or 0, to 1 + s."),
    "augment.hue": Field(
        0.0, number(0, 0.5),
        "Colour jitter h: the hue is rotated by up to h, either way; 0.5 is half of "
        "the colour circle."),
    "augment.cutout": Field(
        0, integer(0),
        "Side in pixels of the square that is blanked in each image."),
    "augment.random_erasing": Field(
        0.0, number(0, 1),
        "Probability that a box of 2 to 33 % of an image is blanked."),
    "augment.mixup": Field(
        0.0, number(0),
        "Alpha of the Beta(alpha, alpha) distribution that draws the weights of two "
        "mixed images; 0 mixes none."),
    "augment.cutmix": Field(
        0.0, number(0),
        "Alpha of the Beta(alpha, alpha) distribution that draws the size of a box "
        "pasted from another image; 0 pastes none. With mixup, each image gets one of "
        "the two."),

    "augment.own": Field(
        None, optional(row_of(augment.AUGMENTATIONS)),
        "MODULE:FUNCTION of your own, (key, pixels [H, W, C] of 0..255) -> pixels. It "
        "changes each image after all other augmentation but mixup and cutmix; None "
        "changes none."),

    "loss.name": Field(
        None, optional(row_of(LOSSES)),
        "Name of the loss in cnn_jax.tasks.losses.LOSSES, or MODULE:FUNCTION of your "
        "own; None is the loss of the task: cross_entropy, binary_cross_entropy for "
        "several classes per image, mse for numbers."),
    "loss.gamma": Field(
        2.0, number(0),
        "Exponent of the focal loss; 0 makes it cross-entropy."),
    "loss.class_weights": Field(
        None, optional(text),
        "Weights of the classes in the training loss: 'balanced', which is the inverse "
        "of a class's frequency, or a number for each class, such as '1,2,0.5'; None "
        "is 1 for all."),
    "loss.label_smoothing": Field(
        0.0, fraction,
        "Fraction of the target that is spread evenly over the classes."),

    "optimizer.name": Field(
        "adam", row_of(optimizers.OPTIMIZERS),
        "Name of the optimizer in cnn_jax.optimizers.OPTIMIZERS, or MODULE:FUNCTION of "
        "your own."),
    "optimizer.learning_rate": Field(
        1e-3, number(0, open_low=True),
        "Learning rate, which is the peak of the schedule."),
    "optimizer.base_batch_size": Field(
        None, optional(integer(1)),
        "Images per update for which learning_rate holds: the rate is multiplied by "
        "batch_size * accumulate_steps / base_batch_size; None does not scale it."),
    "optimizer.momentum": Field(
        0.9, fraction,
        "Momentum of the optimizers momentum, nesterov, rmsprop and muon."),
    "optimizer.weight_decay": Field(
        0.0, number(0),
        "Weight decay of kernels: decoupled in adamw and muon, L2 in the others."),
    "optimizer.decay_parts": Field(
        None, optional(text),
        "Modules whose kernels have weight decay, such as 'head'; None is all."),
    "optimizer.depth_decay": Field(
        None, optional(number(0, 1, open_low=True)),
        "Factor of the learning rate from each part of the network to the part before "
        "it, such as 0.8: the head has the whole rate; None is one rate for all."),
    "optimizer.clip_norm": Field(
        None, optional(number(0, open_low=True)),
        "Largest global norm of the gradient; None does not clip."),
    "optimizer.accumulate_steps": Field(
        1, integer(1),
        "Number of batches whose mean gradient makes one update."),
    "optimizer.ema_decay": Field(
        None, optional(number(0, 1, open_high=True)),
        "Decay of the exponential moving average of the parameters, which evaluation "
        "then uses; None keeps no average."),
    "optimizer.swa_epochs": Field(
        None, optional(integer(1)),
        "Number of last epochs whose parameters and batch-norm statistics are averaged "
        "(stochastic weight averaging); evaluation then uses the average. None keeps "
        "none."),

    "schedule.name": Field(
        "constant", row_of(optimizers.SCHEDULES),
        "Name of the schedule in cnn_jax.optimizers.SCHEDULES, or MODULE:FUNCTION of "
        "your own."),
    "schedule.warmup_epochs": Field(
        None, optional(number(0, open_low=True)),
        "Epochs over which the rate rises linearly; None means no warm-up, or 30 % of "
        "the run in onecycle."),
    "schedule.boundaries_epochs": Field(
        None, optional(sequence(number(0))),
        "Epochs at which the rate of the schedule 'step' drops; None has no drop."),
    "schedule.factor": Field(
        0.1, number(0, open_low=True),
        "Factor of the rate at each drop of the schedule 'step'."),
    "schedule.final_factor": Field(
        0.0, number(0, 1),
        "Final rate of cosine, linear and onecycle, as a fraction of the peak."),
    "schedule.decay": Field(
        0.0, number(0),
        "Decay of the schedule 'inverse': rate = peak / (1 + decay * updates)."),

    "eval.metrics": Field(
        None, optional(text),
        "Further metrics of evaluation, separated by commas: names in "
        "cnn_jax.tasks.metrics.METRICS (top5_accuracy, macro_f1), or MODULE:FUNCTION "
        "of your own, (logits, labels) -> [N]; None adds none."),
    "eval.tta": Field(
        None, optional(text),
        "Views of each image over which evaluation averages its predictions (test-time "
        "augmentation): 'flip', 'shift' or 'flip,shift'; None takes the image alone."),

    "early_stopping.monitor": Field(
        "val_loss", monitor,
        "Metric that early stopping monitors."),
    "early_stopping.patience": Field(
        5, optional(integer(1)),
        "Epochs without improvement after which training stops; None never stops "
        "early."),
    "early_stopping.min_delta": Field(
        1e-3, number(0),
        "Smallest change of the metric that counts as an improvement."),

    "checkpoint.monitor": Field(
        "val_accuracy", monitor,
        "Metric that decides which epoch is the best: the highest value, or the lowest "
        "of a loss or error."),
    "checkpoint.every_steps": Field(
        None, optional(integer(1)),
        "Steps between checkpoints within an epoch; None saves only after epochs."),
    "checkpoint.every_seconds": Field(
        10.0, number(0),
        "Minimum number of seconds between the checkpoints after epochs. The best and "
        "the latest epoch wait in memory until then: a kill loses them, a signal saves "
        "them first. 0 saves after each epoch.", changes_result=False),
    "checkpoint.keep": Field(
        2, integer(2),
        "Number of latest checkpoints to keep, in addition to the best one.",
        changes_result=False),

    "log.every_steps": Field(
        20, integer(1),
        "Steps between two logs of the loss; if it is not finite, the run then stops.",
        changes_result=False),

    # What --mode=inspect draws. The network decides which names exist.
    "inspect.only": Field(
        None, optional(text),
        "Pictures to draw, such as 'kernels,saliency'; None draws all.",
        changes_result=False),
    "inspect.images": Field(
        8, integer(1, 64),
        "Number of test images to explain.", changes_result=False),
    "inspect.layers": Field(
        None, optional(text),
        "Layers to draw, such as 'conv1,stage1_block2'; None draws some convolutions.",
        changes_result=False),
    "inspect.filters": Field(
        None, optional(text),
        "Filters of each layer, such as '0,3,7'; None draws the first ones.",
        changes_result=False),
    "inspect.max_filters": Field(
        16, integer(1, 256),
        "Number of filters to draw where inspect.filters is None.",
        changes_result=False),
    "inspect.target": Field(
        None, optional(text),
        "Class to explain, by name or number; None explains the predicted class.",
        changes_result=False),
    "inspect.cam_layer": Field(
        None, optional(text),
        "Layer of Grad-CAM; None is the last convolution, or the block around it.",
        changes_result=False),
    "inspect.position": Field(
        None, optional(sequence(integer(0), 2)),
        "(row, column) of the unit whose receptive field is drawn; None is the "
        "middle.", changes_result=False),
    "inspect.steps": Field(
        128, integer(1, 100_000),
        "Steps of activation maximization.", changes_result=False),
    "inspect.samples": Field(
        32, integer(1, 10000),
        "Noisy copies of an image in SmoothGrad.", changes_result=False),
    "inspect.noise": Field(
        0.15, number(0, 1),
        "Standard deviation of SmoothGrad's noise, as a fraction of the input's range.",
        changes_result=False),
    "inspect.window": Field(
        None, optional(integer(1, 1024)),
        "Side in pixels of the square that occlusion hides; None is an eighth of the "
        "image.", changes_result=False),
}


def default_config() -> ConfigDict:
    """Makes the locked config in which every field has its default.

    A field that may be None keeps the type of its rule, so the command line can set it.
    """
    config = ConfigDict()
    for name, field in FIELDS.items():
        *parents, last = name.split(".")
        section = config
        for parent in parents:
            if parent not in section:
                section[parent] = ConfigDict()
            section = section[parent]
        section[last] = (ConfigDict(field.default) if name == NETWORK_FIELDS else
                         config_dict.FieldReference(field.default, field.rule.kind)
                         if field.rule.holds(None) else field.default)
    return config.lock()
