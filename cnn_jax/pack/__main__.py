"""Packs pictures: python -m cnn_jax.pack; command.py explains the flags."""

from cnn_jax.installation import importing

if __name__ == "__main__":
    with importing():
        from cnn_jax.pack import command
    command.main()
