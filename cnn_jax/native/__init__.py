"""The add-on of `cnn_jax.ops` on a CPU, the extra `cnn_jax[onednn]`.

It computes convolutions by oneDNN and by Winograd's method, the sums of batch norm, and
whole networks in evaluation (for `cnn_jax.inference`), inside XLA's programs. Importing
it registers the first two with `ops`. The C++ library is built and loaded when an
operation first asks for it.

    convolution.cc   one pass of a layer         build/           compiles the C++
    network.cc, .h   a network in evaluation     library.py       loads it
    pass.h           its steps for N images      convolution.py   convolution in JAX
    placement.h      the memory of its values    lowering.py      what a program holds
    winograd.h       Winograd's method           cost.py          Winograd or oneDNN
    onednn.h         oneDNN, its threads         moments.py       the sums in JAX
    workers.h        memory, XLA's threads
"""

from cnn_jax.native import convolution, library, moments
from cnn_jax.ops import addon

addon.register(addon.AddOn(
    available=lambda: library.load() is not None, describe=library.describe,
    convolution=convolution.select, channel_sums=moments.channel_sums))
