"""A worker that runs one convolution or max pool, and its gradient, in PyTorch."""

import json
import sys

import numpy as np
import torch
from torch.nn import functional as F

from arms.worker import FirstUse, serve


def channels_last(array):
    """Converts [N, H, W, C] to a torch image [N, C, H, W] with the same memory order.
    """
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def main(file: str, stride: int, padding: list[list[int]], groups: int) -> None:
    """Reads x, g and, for a convolution, w from `file`; writes the results to it."""
    first = FirstUse()
    arrays = dict(np.load(file))
    x, g = channels_last(arrays["x"]), channels_last(arrays["g"])
    (top, bottom), (left, right) = padding
    if "w" in arrays:
        w = torch.from_numpy(arrays["w"]).permute(3, 2, 0, 1).contiguous(
            memory_format=torch.channels_last)
        operands = x, w
    else:
        operands = x,

    def operation(x, *weights):
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
        symmetric = (top, left) if (top, left) == (bottom, right) else 0
        if weights:
            return F.conv2d(x, *weights, None, stride, symmetric, groups=groups)
        return F.max_pool2d(x, stride, stride, symmetric)

    def forward(count):
        with torch.inference_mode():
            for _ in range(count):
                y = operation(*operands)
        return y

    def both(count):
        for _ in range(count):
            free = [a.detach().requires_grad_() for a in operands]
            y = operation(*free)
            grads = torch.autograd.grad(y, free, g)
        return y, *grads

    y, dx, *dw = both(1)
    forward(1)
    facts = first.facts()
    np.savez(file, y=y.detach().permute(0, 2, 3, 1), dx=dx.permute(0, 2, 3, 1),
             **{"dw": d.permute(2, 3, 1, 0) for d in dw})
    serve({"version": f"torch {torch.__version__}"} | facts,
          {"forward": forward, "both": both})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
