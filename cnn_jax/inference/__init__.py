"""A network in evaluation, compiled for speed.

    compiled = inference.compile(network, variables, (224, 224, 3))
    logits = compiled(images)  # images [N, H, W, C], scaled as in training

Batch norm, sums and activations become part of the layers before them. On a CPU with
the extra `onednn`, one call of `cnn_jax.native` computes all layers, with kernels that
are packed once.

    simplify.py  graph -> the same graph with layers in place of JAX's functions,
                 batch norm folded; `cnn_jax.interop` exports it
    fuse.py      graph -> the same values in fewer operations
    program.py   graph -> calls of native/network.cc
    compiled.py  all of them: `Compiled`, with the `apply` of a network
"""

from cnn_jax.inference.compiled import Compiled, compile, fastest

__all__ = ["Compiled", "compile", "fastest"]
