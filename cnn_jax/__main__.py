"""Runs the command line: python -m cnn_jax takes the flags of main.py."""

from cnn_jax.cli.start import start

if __name__ == "__main__":
    start()
