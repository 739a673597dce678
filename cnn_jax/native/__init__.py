"""Convolutions of oneDNN and by Winograd's method, and batch norm's sums, inside XLA's
CPU programs (the extra `cnn_jax[onednn]`).

`convolution.cc` is the code that XLA calls, `winograd.h` Winograd's method, `workers.h`
the memory and threads of both; `build` compiles them, `library` loads what was built.
`cnn_jax.ops.conv.onednn` and `cnn_jax.ops.sums` are the operations made of it.
"""
