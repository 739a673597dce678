"""Sets the recipes of the speed runs: how fast is an accuracy reached from scratch?

python experiments/speedrun.py                            # CIFAR-10
python experiments/speedrun.py --recipe=mnist --set epochs=3.0

These recipes belong to experiments/speedrun.py; main.py does not take them. The fields:

    widths                 filters of the three blocks
    epochs                 length of the training
    batch_size             images
    sizes                  (fraction of the steps, side in pixels): a part of the
                           training up to that fraction sees images of that side
    translate              pixels; the largest shift of a random crop
    flip                   alternating: half of the images are mirrored in even epochs,
                           the others in odd ones; random; none
    whiten                 whether the first kernel comes from the data and stays
    label_smoothing        share of the target that all classes share
    optimizer              of the blocks' kernels: muon or nesterov
    rate, momentum         of Nesterov's method, for the other parameters or all
    muon_rate, muon_momentum
    bias_factor            rate of the biases of batch norm / rate
    weight_decay           decoupled, see experiments/speed/training.py; not with muon
    triangle               start of the rate / peak, where the peak is, end / peak
    lookahead              whether to average the weights every five steps
    whitening_bias_epochs  after which the whitening layer's bias stays
    bn_momentum            of the running statistics
    test_flips, test_shifts  views of the test images that are averaged
"""

from ml_collections import ConfigDict


def get_config(variant: str = "cifar10") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/speedrun.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    config = ConfigDict({
        "data": variant, "widths": (64, 256, 256), "epochs": 8.0, "batch_size": 1000,
        "sizes": ((1.0, 32),), "translate": 2, "flip": "alternating", "whiten": True,
        "label_smoothing": 0.2, "optimizer": "muon", "rate": 11.5, "momentum": 0.85,
        "muon_rate": 0.24, "muon_momentum": 0.6, "bias_factor": 64.0,
        "weight_decay": 0.0153, "triangle": (0.2, 0.23, 0.07), "lookahead": True,
        "whitening_bias_epochs": 3.0, "bn_momentum": 0.6, "test_flips": True,
        "test_shifts": True})
    VARIANTS[variant](config)
    return config


def cifar10(config: ConfigDict) -> None:
    """Trains on the 50,000 training images of CIFAR-10."""


def mnist(config: ConfigDict) -> None:
    """Trains on the 60,000 training images of MNIST."""
    config.widths = (32, 64, 128)
    config.sizes = ((1.0, 28),)
    config.flip = "none"
    config.test_flips = False
    config.epochs = 4.0


VARIANTS = {"cifar10": cifar10, "mnist": mnist}
