r"""Trains a new last layer of a pretrained network on a folder of your own pictures.

python main.py --config=configs/transfer.py:SOURCE --config.data.dir=PHOTOS

SOURCE is the name of published weights (torchvision:resnet50, timm:resnet50.a1_in1k,
keras:resnet50, see docs/howto/pretrained.md), weights of such a network in your file
(torchvision:mobilenet_v2=weights.pt), or the workdir of a run. PHOTOS has one folder
per class. configs/finetune.py then trains all layers.

The network, its batch norm and the preprocessing of the pictures are those of SOURCE.
The input of the last layer is computed once for every picture, so an epoch takes about
a second. This excludes augmentation and the network's dropout.
"""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.config import default_config
from cnn_jax.interop.load import config_of
from cnn_jax.workdir.folder import read_config


def get_config(source: str = "torchvision:resnet50") -> ConfigDict:
    config = default_config()
    source_config = (read_config(Path(source)) if Path(source).is_dir() else
                     config_of(source))
    with config.unlocked():
        for field in ("name", "bn", "fields"):
            config.model[field] = source_config.model[field]
        for field in ("image_size", "channels", "shorter_side", "interpolation",
                      "scaling"):
            config.data[field] = source_config.data[field]
        config.data.name = "folder"
        config.model.init_from = source
        config.model.train = "head"
        config.epochs = 30
        config.batch_size = 16  # so that 20 pictures of each of two classes suffice
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.schedule.name = "cosine"
        config.checkpoint.monitor = "val_loss"  # val_accuracy soon ties
    return config
