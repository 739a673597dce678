"""The add-on of `cnn_jax.ops` on a CPU, the extra `cnn_jax[onednn]`.

It computes convolutions by oneDNN and by Winograd's method, the sums of batch norm, and
whole networks in evaluation (for `cnn_jax.inference`), inside XLA's programs. Importing
it registers the first two with `ops`; the C++ library is built and loaded when it is
first asked for.

    convolution.cc   one pass of a layer         build/           compiles the C++
    network.cc, .h   a network in evaluation     library.py       loads it
    pass.h           its steps for N images      convolution.py   convolution in JAX
    placement.h      where its values lie        moments.py       the sums in JAX
    winograd.h       Winograd's method
    onednn.h         oneDNN, its threads
    workers.h        memory, XLA's threads
"""

from cnn_jax.native import convolution, library, moments
from cnn_jax.ops import addon

addon.register(addon.AddOn(
    available=lambda: library.load() is not None, describe=library.describe,
    convolution=convolution.select, channel_sums=moments.channel_sums))
