"""Runs a sweep: python -m cnn_jax.sweep; command.py explains the flags."""

from cnn_jax.installation import check_installation

if __name__ == "__main__":
    check_installation()
    from cnn_jax.sweep import command
    command.run()
