"""Convolutions of oneDNN, and batch norm's sums, inside XLA's CPU programs (the extra
`cnn_jax[onednn]`).

`convolution.cc` is the code that XLA calls, `build` compiles it, `library` loads it;
`cnn_jax.ops.conv_onednn` and `cnn_jax.ops.sums` are the operations made of it.
"""
