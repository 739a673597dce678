"""Builds the C++: python -m cnn_jax.native.build; __init__.py explains the flags."""

import sys

from cnn_jax.installation import importing

if __name__ == "__main__":
    with importing():
        from cnn_jax.native.build import command
    sys.exit(command.main())
