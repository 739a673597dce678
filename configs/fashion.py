"""Fashion-MNIST: the SELU networks and the ai-edu tutorial's two.

python main.py --config=configs/fashion.py:VARIANT --config.seed=S
python experiments/reproduce.py --only fashion_VARIANT         # all seeds, and the row
(Measured figures are in measured/accuracy/RESULTS.md.)

60,000 training images, of which the first 5,000 are the validation part in every
variant, as published; the 10,000 test images are looked at once, by the parameters of
the best validation epoch (published: by those of the last).
"""

from configs import default


def get_config(variant: str = "selu"):
    if variant not in VARIANTS:
        raise ValueError(f"configs/fashion.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    config = default.get_config()
    with config.unlocked():
        config.data.name = "fashion_mnist"
        config.data.image_size = (28, 28)
        config.data.validation_count = 5000
        config.data.split = "first"
        config.epochs = 10
        VARIANTS[variant](config)
    return config


def selu(config):
    """435,306 parameters, plain SGD of rate 0.01, batch 32, pixels standardised.

    Published: test accuracy 0.9180 after 10 epochs, one run.
    """
    config.model.name = "selu_cnn"
    config.model.init = "keras"
    config.data.scaling = "standard"
    config.batch_size = 32
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.early_stopping.monitor = "val_loss"  # Keras' EarlyStopping(5, 1e-3)
    config.early_stopping.patience = 5
    config.early_stopping.min_delta = 1e-3


def separable(config):
    """The same with separable convolutions, 184,234 parameters.

    Published: test accuracy 0.8441 after 10 epochs, one run, 0.0980 on the validation
    part after the first: it starts slowly at this rate.
    """
    selu(config)
    config.model.name = "separable_cnn"


def dnn(config):
    """784-128-64-10 with batch norm, 109,770 parameters, momentum, rate 0.1, batch 128.

    The tutorial shows its accuracy as a picture only; a re-run of its chapter in Keras
    printed 0.8649 after 5 epochs.
    """
    config.model.name = "ai_edu_fashion_dnn"
    config.model.init = "ai_edu_msra"
    tutorial(config, rate=0.1)
    config.steps_per_call = 16  # cheaper than their calls, as in configs/shapes.py


def cnn(config):
    """One convolution of 32 and 128 hidden units, 694,218 parameters, rate 0.01.

    Published: test accuracy 0.9112 after 10 epochs, one run.
    """
    config.model.name = "ai_edu_fashion_cnn"
    config.model.init = "ai_edu_xavier"
    tutorial(config, rate=0.01)


def tutorial(config, rate: float):
    """What the ai-edu tutorial trains Fashion-MNIST with."""
    config.data.scaling = "minmax"
    config.batch_size = 128
    config.optimizer.name = "momentum"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = rate
    config.early_stopping.patience = None


def selu_ours(config):
    """The SELU network in as many epochs by Adam, one cycle of the rate, and flips."""
    selu(config)
    ours(config)


def separable_ours(config):
    """The separable network, likewise: the rate is what held it back."""
    separable(config)
    ours(config)


def cnn_ours(config):
    """The tutorial's CNN, likewise."""
    cnn(config)
    config.model.init = "glorot"
    ours(config)


def ours(config):
    config.batch_size = 128
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-3
    config.schedule.name = "onecycle"
    config.early_stopping.patience = None  # the best epochs are the cycle's last
    config.augment.horizontal_flip = True  # a shirt mirrored is a shirt


VARIANTS = {"selu": selu, "separable": separable, "dnn": dnn, "cnn": cnn,
            "selu_ours": selu_ours, "separable_ours": separable_ours,
            "cnn_ours": cnn_ours}
