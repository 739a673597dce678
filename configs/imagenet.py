"""Trains ResNet-50 and MobileNetV2 on ImageNet by the recipes that others published.

    python main.py --config=configs/imagenet.py:resnet50_90 --config.data.dir=IMAGENET

One GPU: the command above with --config.batch_size=256, say. Eight GPUs of one machine:
the command above. TPU pod, on every host: the command above with
--config.coordinator=auto --config.batch_size=4096 and a --workdir that all hosts see.
The rate follows the batch size. IMAGENET holds train/CLASS/*.JPEG and val/CLASS/*.JPEG.
The validation folder is the test split, evaluated once; 10,000 training images choose
the best epoch. The set is streamed; random crops are cut out of the photographs.

Nothing has been trained to its end here. Published figures are others'.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = "resnet50_90") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/imagenet.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    config = default.get_config()
    with config.unlocked():
        config.data.name = "imagenet"
        config.data.image_size = (224, 224)
        config.data.shorter_side = 256
        config.data.channels = 3
        config.data.scaling = "imagenet"
        config.data.validation_is_test = True
        config.data.validation_count = 10_000
        config.dtype = "bfloat16"
        config.batch_size = 1024
        config.eval_batch_size = 1000
        config.augment.crop_scale = (0.08, 1.0)
        config.augment.horizontal_flip = True
        config.optimizer.name = "momentum"
        config.optimizer.momentum = 0.9
        config.optimizer.base_batch_size = 256
        config.early_stopping.patience = None
        VARIANTS[variant](config)
    return config


def resnet50_90(config: ConfigDict) -> None:
    """25,557,032 parameters, 90 epochs: the standard recipe (Goyal et al., 2017).

    Rate 0.1 for 256 images, 5 epochs of warm-up, cosine, label smoothing, weight decay
    on kernels alone, the last gamma of each block starts at 0. Published: top-1
    0.763 to 0.767 (flax's example, 100 epochs).
    """
    config.model.name = "resnet50_v1_5"
    config.model.fields.zero_gamma = True
    config.epochs = 90
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.loss.label_smoothing = 0.1


def mobilenet_v2(config: ConfigDict) -> None:
    """3,504,872 parameters, 300 epochs, rate 0.045 for 256 images, * 0.98 an epoch.

    Published: top-1 0.719 (torchvision).
    """
    config.model.name = "mobilenet_v2"
    config.epochs = 300
    config.optimizer.learning_rate = 0.045
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "step"
    config.schedule.factor = 0.98
    config.schedule.boundaries_epochs = tuple(float(n) for n in range(1, 300))


VARIANTS = {"resnet50_90": resnet50_90, "mobilenet_v2": mobilenet_v2}
