"""Builds the C++ of `cnn_jax.native`; it needs g++ and nothing else.

    python -m cnn_jax.native.build                      with the wheels of the extra
                                                        `onednn`, if installed
    python -m cnn_jax.native.build --with-onednn=DIR    with a oneDNN of your own

Without this command, the first use builds. DIR is the folder into which
`cmake --install` put oneDNN, version 3 or later. The last command decides which oneDNN
later runs use. With a oneDNN that was built with DNNL_CPU_RUNTIME=THREADPOOL the code
uses XLA's own threads: this compiles, but it has not been run, because no package has
such a library.

The built file is in the folder `native` of `CNN_JAX_CACHE`, else of ~/.cache/cnn_jax.
Its name is a hash of everything that it depends on: the flags below, the sources,
jaxlib, the processor and oneDNN. You may delete the folder.
"""
