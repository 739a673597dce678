"""Runs the command line of cnn_jax: flags -> a locked config -> one call per --mode."""

import importlib.util
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cnn_jax.huge_pages import use_huge_pages

if __name__ == "__main__":
    missing = [name for name in ("absl", "jax", "flax", "optax", "ml_collections")
               if importlib.util.find_spec(name) is None]
    if sys.version_info < (3, 11) or missing:
        lacks = f"has no {', '.join(missing)}" if missing else "is too old"
        print(f"cnn_jax: {sys.executable} (Python {sys.version.split()[0]}) {lacks}: "
              "cnn_jax needs Python 3.11 or later and, in the clone, python -m pip "
              "install -e .", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports at once
    use_huge_pages()  # it may restart the program, so it precedes the slow imports

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from cnn_jax.cli import commands, config_file  # noqa: E402
from cnn_jax.cli.explain import explain, out_of_memory  # noqa: E402
from cnn_jax.cli.overrides import accept_none  # noqa: E402
from cnn_jax.cli.request import Request  # noqa: E402
from cnn_jax.errors import InputError, RunError, one_line  # noqa: E402
from cnn_jax.interop.export import FORMATS  # noqa: E402
from cnn_jax.training import Stopped  # noqa: E402

accept_none()
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, as in configs/lenet.py or configs/lenet.py:mnist; "
    "--config.FIELD=VALUE sets any field, and --config.FIELD=none unsets it; without "
    "--config they change the config of --workdir.")
MODE = flags.DEFINE_string(
    "mode", "train", f"One of {', '.join(commands.COMMANDS)}.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default runs/NETWORK-DATASET-HASH. A run that "
    "was stopped there is resumed.")
MODEL = flags.DEFINE_string(
    "model", None, "Instead of --workdir: pretrained weights, such as "
    "torchvision:resnet50, timm:resnet50.a1_in1k, keras:resnet50, or a file.")
IMAGES = flags.DEFINE_string(
    "images", None, "predict, inspect: a picture or a folder of pictures; more may "
    "follow. compare takes workdirs without a flag.")
TOP = flags.DEFINE_integer("top", 5, "predict: classes to show for each picture.",
                           lower_bound=1)
JSON = flags.DEFINE_boolean("json", False, "predict: print JSON instead of text.")
INVERT = flags.DEFINE_boolean(
    "invert", False, "predict, inspect, serve: exchange dark and bright, for dark ink "
    "on white paper where the training data are bright on dark.")
OUTPUT = flags.DEFINE_string(
    "output", None, "show_data, overlays, predict on a run with masks: the picture to "
    "write (.png, .pdf, .svg); default data.png, overlays.png or predictions.png in "
    "the workdir. compare: the page; default compare.html. export: the folder; "
    "default export in the workdir.")
FORMAT = flags.DEFINE_string(
    "format", "", "export: formats, separated by commas: "
    f"{', '.join(FORMATS)}.")
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "serve: address or name of this machine to listen on; "
    "0.0.0.0 lets other machines in.")
PORT = flags.DEFINE_integer("port", 8000, "serve: port; 0 takes and prints a free one.",
                            lower_bound=0, upper_bound=65535)


def parse(argv: list[str]) -> list[str]:
    """Parses flags and config; ends with one line and exit code 2 if that fails."""
    config_file.import_from_here(argv)
    argv = config_file.with_config_of_run(argv)
    try:
        config_file.check_config(argv)
        return flags.FLAGS(argv)
    except InputError as error:
        fail(str(error), 2)
    except flags.Error as error:
        fail(explain(error), 2)


def main(argv: list[str]) -> None:
    try:
        commands.run(Request(
            mode=MODE.value, config=CONFIG.value, model=MODEL.value,
            workdir=Path(WORKDIR.value) if WORKDIR.value else None,
            paths=tuple([IMAGES.value] if IMAGES.value else []) + tuple(argv[1:]),
            top=TOP.value, json=JSON.value, invert=INVERT.value,
            output=Path(OUTPUT.value) if OUTPUT.value else None,
            format=FORMAT.value,
            host=HOST.value, port=PORT.value))
    except InputError as error:
        fail(str(error), 2)
    except Stopped as error:
        fail(str(error), 128 + error.signum)
    except RunError as error:
        fail(str(error), 1)
    except OSError as error:  # a full disk, a deleted folder
        where = error.filename and f"{error.filename} cannot be read or written: "
        fail((where or "") + (error.strerror or str(error)), 1)
    except (MemoryError, RuntimeError) as error:
        if (reason := out_of_memory(error)) is None:
            raise
        fail(reason, 1)
    except KeyboardInterrupt:
        fail("interrupted; the checkpoints written before are complete", 130)


def fail(message: str, code: int) -> NoReturn:
    print(f"cnn_jax: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse)
