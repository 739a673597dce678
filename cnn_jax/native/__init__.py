"""The add-on of `cnn_jax.ops` on a CPU, the extra `cnn_jax[onednn]`.

It computes convolutions (by oneDNN, by Winograd's method and by im2col), batch-norm
statistics, and whole networks in evaluation (for `cnn_jax.inference`), inside XLA's
programs. `register.py`, which `cnn_jax.layers` imports, gives the first two to `ops`.
The C++ library is built and loaded when an operation first asks for it.

    convolution.cc   one pass of a layer         build/           compiles the C++
    moments.cc       batch-norm statistics       library.py       loads it
    network.cc, .h   a network in evaluation     convolution.py   convolution in JAX
    pass.h           its steps for N images      lowering.py      what a program holds
    placement.h      the memory of its values    cost.py          chooses the method
    winograd.h       Winograd's method           moments.py       statistics in JAX
    im2col.h         im2col for few pixels       product.h        a product of matrices
    onednn.h         oneDNN, its threads
    workers.h        memory, XLA's threads
"""
