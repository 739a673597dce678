"""Trains a small fully convolutional network to name the shape at every pixel.

python main.py --config=configs/segmentation.py --config.seed=S
python main.py --mode=overlays --workdir=runs/shapes_fcn-shapes_segmentation-HASH

(Convolution + pooling) * 2 + convolution + transposed convolution * 2, 64,694
parameters; see cnn_jax/networks/fcn.py. The set has 5,000 + 1,000 images of 32 x 32
pixels and six classes: background, circle, rectangle, triangle, diamond, line. The
first tenth of the training images is the validation split.

Test mean IoU: 0.9195 +- 0.0028 (n = 5); measured/accuracy/RESULTS.md has time and
memory. `python experiments/reproduce.py --only segmentation_shapes` trains all seeds.
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default

VARIANTS = ("shapes",)


def get_config(variant: str = "shapes") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/segmentation.py:{variant} is not a variant; there "
                         f"are {', '.join(VARIANTS)}")
    config = default.get_config()
    with config.unlocked():
        config.model.name = "shapes_fcn"
        config.data.name = "shapes_segmentation"
        config.data.split = "first"  # masks have no single class to stratify by
        config.epochs = 40
        config.batch_size = 32
        config.optimizer.learning_rate = 5e-3
        config.schedule.name = "onecycle"
        config.early_stopping.patience = None  # the best epochs are the cycle's last
        # Nine pixels in ten are right early on, so accuracy hardly changes later.
        config.checkpoint.monitor = "val_mean_iou"
        # A mirrored shape is the same shape; the mask is mirrored with it.
        config.augment.horizontal_flip = True
        config.augment.vertical_flip = True
    return config
