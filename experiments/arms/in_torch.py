"""A worker that trains in PyTorch: eager or compiled, channels_last, SGD with momentum.

It trains a network of `arms.networks`, or one of torchvision or timm under its source.
"""

import contextlib
import json
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from arms.networks import NETWORKS
from arms.worker import compiling_alone, errors_to, measured_alone, serve

AUX_WEIGHT = 0.3  # of auxiliary heads in the loss
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean",
        "running_var": "var"}


class Network(nn.Module):
    """Makes its layers by name in the first call; the functions of `NETWORKS` call it
    `make`.

    Images are [N, C, H, W] in channels_last memory.
    """

    def __init__(self, network, classes: int):
        super().__init__()
        self.network, self.classes = network, classes
        self.made = nn.ModuleDict()

    def forward(self, x):
        return self.network(self, x, self.classes)

    def layer(self, name, kind, *args, **kwargs):
        key = name.replace(".", "/")  # a ModuleDict takes no dots
        if key not in self.made:
            self.made[key] = kind(*args, **kwargs)
        return self.made[key]

    def conv(self, x, name, features, size, stride=1, padding=None, bias=True,
             groups=1):
        padding = size // 2 if padding is None else padding
        return self.layer(name, nn.Conv2d, x.shape[1], features, size, stride, padding,
                          groups=groups, bias=bias)(x)

    def separable(self, x, name, features, size):
        x = self.conv(x, f"{name}.depthwise", x.shape[1], size, bias=False,
                      groups=x.shape[1])
        return self.conv(x, f"{name}.pointwise", features, 1)

    def batch_norm(self, x, name, epsilon=1e-5, momentum=.9):
        return self.layer(name, nn.BatchNorm2d, x.shape[1], epsilon, 1 - momentum)(x)

    def dense(self, x, name, features):
        return self.layer(name, nn.Linear, x.shape[1], features)(x)

    def dropout(self, x, name, rate):
        return self.layer(name, nn.Dropout, rate)(x)

    def zero_pad(self, x, pixels):
        return F.pad(x, [pixels] * 4)

    def max_pool(self, x, size, stride=None, padding=0):
        return F.max_pool2d(x, size, stride, padding)

    def avg_pool(self, x, size):
        return F.avg_pool2d(x, size)

    def global_avg_pool(self, x):
        return x.mean((2, 3))

    def flatten(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)  # H, W, C, already its memory order

    def relu(self, x):
        return F.relu(x, inplace=True)

    def relu6(self, x):
        return F.relu6(x, inplace=True)

    selu, tanh, add = staticmethod(F.selu), staticmethod(torch.tanh), torch.add


def load(network: Network, variables: dict[str, np.ndarray]) -> None:
    """Copies our parameters, {"stage1/conv1/kernel": array}; all must be used."""
    left = dict(variables)
    with torch.no_grad():
        for name, module in network.made.items():
            norm = isinstance(module, nn.BatchNorm2d)
            for part, tensor in module.state_dict().items():
                if part == "num_batches_tracked":
                    continue
                leaf = NORM[part] if norm else part.replace("weight", "kernel")
                value = torch.from_numpy(left.pop(f"{name}/{leaf}"))
                if leaf == "kernel":
                    value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
                if value.shape != tensor.shape:
                    raise ValueError(f"{name}/{leaf}: {tuple(value.shape)} here, "
                                     f"{tuple(tensor.shape)} in torch")
                tensor.copy_(value)
    if left:
        raise ValueError(f"torch's network has no {', '.join(left)}")


def publish(source: str, classes: int, arrays: dict[str, np.ndarray]) -> nn.Module:
    """Creates the network of a source such as 'torchvision:resnet50', with weights.

    arrays: has `peer:NAME` for each entry NAME of its state dict.
    """
    library, _, name = source.partition(":")
    if library == "timm":
        import timm
        model = timm.create_model(name.partition(".")[0], num_classes=classes)
    else:
        import torchvision
        # These two would draw weights for a minute.
        slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=classes,
                                             **slow)
    given = {name.removeprefix("peer:"): torch.from_numpy(array)
             for name, array in arrays.items() if name.startswith("peer:")}
    left = model.load_state_dict(given, strict=False)
    missing = [name for name in left.missing_keys if "num_batches_tracked" not in name]
    if missing or left.unexpected_keys:
        raise ValueError(f"{source}: without {missing}; unknown {left.unexpected_keys}")
    return model


def make_network(network: str, classes: int, images, arrays) -> nn.Module:
    """Creates the network with the weights of `start.py`."""
    if ":" in network:
        return publish(network, classes, arrays)
    model = Network(NETWORKS[network], classes).eval()
    with torch.no_grad():
        model(images[:1])  # makes the layers
    load(model, arrays)
    return model


def main(network: str, classes: int, file: str, dtype: str,
         compiled: bool = False, device: str = "cpu", turn: float = 0.0) -> None:
    """Trains on the arrays of `file`: images, labels and our variables.

    dtype: of the products, by torch.autocast; parameters stay float32.
    compiled: whether `torch.compile` compiles the network.
    device: 'cpu' or 'cuda'.
    turn: seconds to train for before another worker may compile; 'alone' in the setup.
    """
    arrays = dict(np.load(file))
    images = torch.from_numpy(arrays.pop("images")).permute(0, 3, 1, 2)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(arrays.pop("labels")).long().to(device)
    model = make_network(network, classes, images, arrays)
    model = model.to(device, memory_format=torch.channels_last)
    images, on_gpu = images.to(device), device == "cuda"
    torch.backends.cudnn.benchmark = on_gpu
    del arrays
    parameters = sum(p.numel() for p in model.parameters())
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=.01, momentum=.9)

    def computing():
        return contextlib.nullcontext() if dtype == "float32" else torch.autocast(
            device, getattr(torch, dtype))

    def train(count):
        model.train()
        for _ in range(count):
            optimizer.zero_grad()
            with computing():
                outputs = model(images)  # GoogLeNet and Inception: several heads
                logits, *auxiliary = (
                    outputs if isinstance(outputs, tuple) else (outputs,))
                loss = F.cross_entropy(logits, labels) + AUX_WEIGHT * sum(
                    F.cross_entropy(each, labels) for each in auxiliary)
            loss.backward()
            optimizer.step()
        return loss.item()

    def infer(count):
        model.eval()
        with torch.inference_mode(), computing():
            for _ in range(count):
                logits = model(images)
        if on_gpu:
            torch.cuda.synchronize()
        return logits.float()

    def device_peak_mb():
        return torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None

    with compiling_alone(file):
        logits = infer(1)[:4].tolist()
        losses = [train(1) for _ in range(3)]
        alone = {"alone": measured_alone(train, turn, device_peak_mb)} if turn else {}
    serve({"logits": logits, "losses": losses, **alone,
           "version": f"torch {torch.__version__}", "device": device,
           "params": parameters},
          {"train": train, "infer": infer}, device_peak_mb)


if __name__ == "__main__":
    with errors_to(sys.stdout):
        main(**json.loads(sys.argv[1]))
