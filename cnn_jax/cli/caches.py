"""Shows and empties the caches that are kept between runs, for --mode=caches."""

import shutil

from cnn_jax.cli.request import Request
from cnn_jax.console import counted
from cnn_jax.data import cache
from cnn_jax.errors import InputError
from cnn_jax.files import cache_folder
from cnn_jax.interop.export import size_of

# Name -> (pattern of its files in the cache folder, description)
KINDS = {
    "pictures": (cache.PATTERN, "decoded pictures of class folders"),
    "indices": ("*-cnn_jax_*.npz", "indices of shards and prepared sets"),
    "weights": ("weights/*", "downloaded weights"),
    "npm": ("npm/*", "ONNX Runtime for browsers"),
    "native": ("native/*", "the built library of convolutions"),
    "programs": ("programs/*", "compiled programs"),
}


def caches(request: Request) -> None:
    """Prints the size of every cache; empties those that --empty names.

    Their contents are computed or downloaded again when they are needed.
    """
    names = [name.strip() for name in request.empty.split(",") if name.strip()]
    if unknown := [name for name in names if name not in (*KINDS, "all")]:
        raise InputError(f"--empty={request.empty}: there is no cache {unknown[0]!r}; "
                         f"known are {', '.join(KINDS)}, and all")
    folder = cache_folder()
    print(f"{folder} (CNN_JAX_CACHE sets another folder):")
    for name, (pattern, title) in KINDS.items():
        paths = sorted(folder.glob(pattern))
        size = sum(map(size_of, paths))
        emptied = name in names or "all" in names
        if emptied:
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(f"  {name:9} {size / 1e6:10,.1f} MB in {counted(len(paths), 'file')}: "
              f"{title}{', emptied' * emptied}")
