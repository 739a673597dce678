"""The command `python -m cnn_jax.native.build`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax.errors import InputError
from cnn_jax.native import build
from cnn_jax.native.build import builder


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.native.build", description=build.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-onednn", metavar="DIR")
    parser.add_argument("--force", action="store_true",
                        help="build even if the library exists")
    options = parser.parse_args(argv)
    onednn = None
    try:
        record = builder.own_folder() / "with-onednn"
        if options.with_onednn:
            onednn = builder.from_folder(options.with_onednn)
        else:
            with contextlib.suppress(builder.NotInstalled):
                onednn = builder.from_wheels()
        print(builder.build(onednn, options.force))
        if options.with_onednn:
            new = record.with_name(f".with-onednn-{os.getpid()}")
            new.write_text(str(Path(options.with_onednn).expanduser().resolve()))
            os.replace(new, record)
        else:
            record.unlink(missing_ok=True)
    except (OSError, RuntimeError, InputError) as error:  # BuildError; no folder
        print(f"cnn_jax: {error}", file=sys.stderr)
        return 1
    return 0
