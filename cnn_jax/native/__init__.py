"""The add-on of `cnn_jax.ops` on a CPU, the extra `cnn_jax[onednn]`.

It computes convolutions by oneDNN and by Winograd's method, and the sums of batch norm,
inside XLA's programs. Importing it registers both with `ops`; the C++ library is built
and loaded when an operation first asks for it.

    convolution.cc   the code that XLA calls     build.py         compiles it
    winograd.h       Winograd's method           library.py       loads it
    workers.h        memory and threads          convolution.py   convolution in JAX
                                                 moments.py       the sums in JAX
"""

from cnn_jax.native import convolution, library, moments
from cnn_jax.ops import addon

addon.register(addon.AddOn(
    available=lambda: library.load() is not None, describe=library.describe,
    convolution=convolution.select, channel_sums=moments.channel_sums))
