"""Runs the command line of cnn_jax: flags -> a locked config -> one call per --mode."""

from cnn_jax.cli.start import start

if __name__ == "__main__":
    start()
