r"""Trains a ResNet-18 on your own pictures; docs/howto/your_pictures.md explains.

    python main.py --config=configs/folder.py --config.data.dir=PHOTOS
    python main.py --config=configs/folder.py:SOURCE --config.data.dir=PHOTOS

PHOTOS has a folder for each class, or train/, val/ and test/ with such folders. A split
that is missing is cut from the training pictures: a fifth for test, and a fifth of the
rest for validation.

With SOURCE, a new last layer is trained on a pretrained network: published weights such
as torchvision:resnet18, a file of weights, or the workdir of a run; see transfer.py.
That takes minutes and is better for fewer than some thousand pictures.
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default, transfer


def get_config(source: str = "") -> ConfigDict:
    config = transfer.get_config(source) if source else from_scratch()
    with config.unlocked():
        config.data.name = "folder"
        config.data.validation = 0.2  # so that 7 pictures of each class suffice
    return config


def from_scratch() -> ConfigDict:
    """Sets 30 epochs of AdamW with the one-cycle schedule, random crops and flips.

    The rate suits batches of 16 to 256 pictures. There is no early stopping: the last
    epochs, in which the rate is low, are usually the best.
    """
    config = default.get_config()
    with config.unlocked():
        config.model.name = "resnet18"
        config.data.image_size = (224, 224)
        config.data.shorter_side = 256
        config.data.channels = 3
        config.data.scaling = "imagenet"
        config.epochs = 30
        config.batch_size = 16
        config.augment.crop_scale = (0.35, 1.0)
        config.augment.horizontal_flip = True
        config.optimizer.name = "adamw"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.05
        config.schedule.name = "onecycle"
        config.early_stopping.patience = None
        config.checkpoint.monitor = "val_loss"  # accuracies of few pictures tie
    return config
