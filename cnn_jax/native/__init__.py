"""The add-on of `cnn_jax.ops` on a CPU: a C++ library, called inside XLA's programs.

With g++ alone it computes batch-norm statistics, and the passes of convolutions for
which Winograd's method or im2col is faster than XLA. With the extra `cnn_jax[onednn]`,
oneDNN computes the other convolutions, and `cnn_jax.inference` runs a whole network in
one call; its pooling, dense and direct convolutions are oneDNN's. `register.py`, which
`cnn_jax.layers` imports, gives convolutions and statistics to `ops`. The library is
built and loaded when an operation first asks for it. A network whose layers do not ask,
such as LeNet-5 without oneDNN, never builds it.

    convolution.cc   one pass of a layer         build/           compiles the C++
    moments.cc       batch-norm statistics       library.py       loads it
    network.cc, .h   a network in evaluation     convolution.py   convolution in JAX
    pass.h           its steps for N images      lowering.py      what a program holds
    placement.h      the memory of its values    cost.py          chooses the method
    winograd.h       Winograd's method           moments.py       statistics in JAX
    im2col.h         im2col for few pixels       product.h        a product of matrices
    onednn.h         oneDNN, its threads (with the extra, as network.*)
    workers.h        memory, XLA's threads
"""
