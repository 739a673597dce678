"""Convolutions of oneDNN inside XLA's CPU programs (the extra `cnn_jax[onednn]`).

`convolution.cc` is the code that XLA calls, `build` compiles it, `library` loads it;
`cnn_jax.ops.conv_onednn` is the convolution made of it.
"""
