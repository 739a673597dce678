"""Trains ResNet-50 and MobileNetV2 on ImageNet by the recipes that others published.

IMAGENET holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. The other variants are
resnet50_40, resnet50_90, mobilenet_v2 and mobilenet_v2_ema. The learning rate scales
with the batch size.

One GPU:
    python main.py --config=configs/imagenet.py:resnet50_16 \
        --config.data.dir=IMAGENET --config.batch_size=512
Eight GPUs of one machine:
    python main.py --config=configs/imagenet.py:resnet50_16 --config.data.dir=IMAGENET
TPU pod, with a DISK that all hosts see:
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd cnn_jax \
        && .venv/bin/python main.py --config=configs/imagenet.py:resnet50_16 \
        --config.data.dir=IMAGENET --config.coordinator=auto --workdir=DISK/resnet50"

The validation folder is the test split, evaluated once; 10,000 training images are the
validation split. The images are streamed; random crops are cut out of the whole
photographs. All variants compute in bfloat16, with weight decay on kernels only.

No variant has been trained on ImageNet here: the published figures are those of others.
`python experiments/imagenet_steps.py OUT` trained about 200 steps of each variant on a
CPU, on batches of 16 drawn pictures of at most 64 x 64 pixels. Each run was stopped in
mid-epoch (both of FFCV's while their images grew) and resumed, and ended with the same
bits as a run without a stop (n = 1, measured/reliability/imagenet_steps.txt).
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default


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
    """Trains 90 epochs by the standard recipe (Goyal et al., 2017).

    25,557,032 parameters. Rate 0.1 for 256 images, 5 epochs of warm-up, cosine, label
    smoothing, the last gamma of each block starts at 0. Published: top-1 0.763 to 0.767
    (flax's example, 100 epochs, no label smoothing).
    """
    config.model.name = "resnet50_v1_5"
    config.model.fields.zero_gamma = True
    config.epochs = 90
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.loss.label_smoothing = 0.1


def resnet50_16(config: ConfigDict) -> None:
    """Trains 16 epochs by FFCV's recipe; published: top-1 0.738, top-5 0.908."""
    progressive(config, epochs=16, ramp=(11, 13))


def resnet50_40(config: ConfigDict) -> None:
    """Trains 40 epochs by FFCV's recipe; published: top-1 0.772, top-5 0.932."""
    progressive(config, epochs=40, ramp=(29, 34))


def progressive(config: ConfigDict, epochs: int, ramp: tuple[int, int]) -> None:
    """Sets FFCV's recipe, in which images grow from 160 x 160 to 192 x 192 pixels.

    Leclerc et al.: FFCV (2023); github.com/libffcv/ffcv-imagenet, rn50_configs.
    25,557,032 parameters.

    Rate 1.7 for 4,096 images (512 on each of 8 GPUs), 2 epochs of warm-up, then linear
    to 0, label smoothing; evaluated at 256 x 256 pixels of the central 7/8.

    Their network also blurs the input of strided convolutions (BlurPool), and they
    average the logits of an image and of its mirror image. Both are left out here, so
    expect less than the published figures; `--config.eval.tta=flip` averages the
    probabilities of both images. They compute in float16, read pictures
    whose longer side is 500 pixels, and decay the bias of the head too.
    """
    config.model.name = "resnet50_v1_5"
    config.epochs = epochs
    config.batch_size = 4096
    config.data.image_size = (256, 256)
    config.data.shorter_side = 293  # 256 * 8 / 7
    config.progressive.sides = (160, 192)
    config.progressive.epochs = ramp
    config.optimizer.learning_rate = 1.7
    config.optimizer.base_batch_size = 4096
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "linear"
    config.schedule.warmup_epochs = 2.0
    config.loss.label_smoothing = 0.1


def mobilenet_v2(config: ConfigDict) -> None:
    """Trains MobileNetV2, 3,504,872 parameters, for 300 epochs.

    The rate is 0.045 for 256 images, times 0.98 each epoch. Published: top-1 0.719
    (torchvision).
    """
    config.model.name = "mobilenet_v2"
    config.epochs = 300
    config.optimizer.learning_rate = 0.045
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "step"
    config.schedule.factor = 0.98
    config.schedule.boundaries_epochs = tuple(float(n) for n in range(1, 300))


def mobilenet_v2_ema(config: ConfigDict) -> None:
    """Adds label smoothing 0.1 and a moving average of the parameters, as in Google's
    own training. Published: top-1 0.718 (its checkpoint 1.0_224).
    """
    mobilenet_v2(config)
    config.loss.label_smoothing = 0.1
    config.optimizer.ema_decay = 0.9999


VARIANTS = {"resnet50_90": resnet50_90, "resnet50_16": resnet50_16,
            "resnet50_40": resnet50_40, "mobilenet_v2": mobilenet_v2,
            "mobilenet_v2_ema": mobilenet_v2_ema}
