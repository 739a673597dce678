"""Runs a sweep: python -m cnn_jax.sweep; command.py explains the flags."""

from cnn_jax.installation import importing

if __name__ == "__main__":
    with importing():
        from cnn_jax.sweep import command
    command.run()
