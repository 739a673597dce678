"""A worker that trains in PyTorch: eager, channels_last, SGD with momentum."""

import contextlib
import json
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from arms.networks import NETWORKS
from arms.worker import serve

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


def main(network: str, classes: int, file: str, dtype: str) -> None:
    """Trains on the arrays of `file`: images, labels and our variables.

    dtype: of the products, by torch.autocast; parameters stay float32.
    """
    arrays = dict(np.load(file))
    images = torch.from_numpy(arrays.pop("images")).permute(0, 3, 1, 2)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(arrays.pop("labels")).long()
    model = Network(NETWORKS[network], classes).eval()
    with torch.no_grad():
        model(images[:1])  # makes the layers
    model = model.to(memory_format=torch.channels_last)
    load(model, arrays)
    optimizer = torch.optim.SGD(model.parameters(), lr=.01, momentum=.9)

    def computing():
        return contextlib.nullcontext() if dtype == "float32" else torch.autocast(
            "cpu", getattr(torch, dtype))

    def train(count):
        model.train()
        for _ in range(count):
            optimizer.zero_grad()
            with computing():
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    def infer(count):
        model.eval()
        with torch.inference_mode(), computing():
            for _ in range(count):
                logits = model(images)
        return logits.float()

    logits = infer(1)[:4].tolist()
    serve({"logits": logits, "losses": [train(1) for _ in range(3)],
           "version": f"torch {torch.__version__}",
           "params": sum(p.numel() for p in model.parameters())},
          {"train": train, "infer": infer})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
