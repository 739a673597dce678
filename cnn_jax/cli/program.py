"""The command line of cnn_jax: flags -> a locked config -> one call per --mode."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax.cli import commands, config_file
from cnn_jax.cli.caches import KINDS
from cnn_jax.cli.explain import explain, explained_errors
from cnn_jax.cli.overrides import accept_none
from cnn_jax.cli.request import Request
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError, fail, one_line_errors
from cnn_jax.interop.export import FORMATS
from cnn_jax.networks import roofline
from cnn_jax.program_cache import use_program_cache

accept_none()
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as configs/lenet.py or configs/lenet.py:mnist. "
    "--config.FIELD=VALUE sets a field, and --config.FIELD=none unsets it; without "
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
    "invert", False, "predict, inspect, serve: exchange dark and bright, for pictures "
    "of dark ink on white paper if the training images are bright on dark.")
OUTPUT = flags.DEFINE_string(
    "output", None, "show_data, overlays, predict on a run with masks, lr_find: the "
    "picture to write (.png, .pdf, .svg); default data.png, overlays.png or "
    "predictions.png in the workdir, lr_find.png here. compare: the page; default "
    "compare.html. export: the folder; default export in the workdir.")
FORMAT = flags.DEFINE_string(
    "format", "", "export: formats, separated by commas: "
    f"{', '.join(FORMATS)}.")
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "train: FIRST:STOP, such as 10:20: profile these steps, "
    "counted from 0; write the trace to the workdir, and print the operations that "
    "take most of the time.")
RATES = flags.DEFINE_string(
    "rates", None, "lr_find: train with N constant learning rates at once, and "
    "compare their losses: N around the rate that lr_find suggests, or N:LOW:HIGH, "
    "such as 12:1e-4:1e-1.")
ROOFLINE = flags.DEFINE_string(
    "roofline", None, "summary: also print the least time that each layer needs on a "
    f"device: {', '.join(roofline.PEAKS)}, or {roofline.HERE} to measure this machine.")
DIAGRAM = flags.DEFINE_string(
    "diagram", None, "summary: also draw the network into this file: a picture (.svg), "
    "or Mermaid source (.mmd, or .md for a page that renders it).")
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "serve: address or name of this machine to listen on; "
    "0.0.0.0 lets other machines in.")
PORT = flags.DEFINE_integer("port", 8000, "serve: port; 0 takes and prints a free one.",
                            lower_bound=0, upper_bound=65535)
EMPTY = flags.DEFINE_string(
    "empty", "", f"caches: which to empty, separated by commas: {', '.join(KINDS)}, "
    "or all.")


def parse(argv: list[str]) -> list[str]:
    """Parses flags and config; ends with one line and exit code 2 if that fails."""
    try:
        argv = config_file.with_found_config(config_file.with_config_of_run(argv))
        argv, _ = config_file.without_auto_rate(argv)
        config_file.import_from_here(argv)
        config_file.check_config(argv)
        original, sys.argv = sys.argv, argv  # ml_collections reads overrides there
        try:
            rest = flags.FLAGS(argv)
        finally:
            sys.argv = original
        if CONFIG.value and (names := config_file.drop_foreign_fields(
                CONFIG.value, argv)):
            Reporter(stderr=JSON.value).line(  # a note, so stderr has only errors
                f"config.model.fields is reset for {CONFIG.value.model.name}: "
                f"the config file sets {', '.join(names)} for its own network")
        return rest
    except InputError as error:
        fail(str(error), 2)
    except flags.Error as error:
        fail(explain(error), 2)


def main(argv: list[str]) -> None:
    interrupted = "interrupted; all checkpoints written so far are complete"
    with explained_errors(), one_line_errors(interrupted), ending_at_once(interrupted):
        use_program_cache()
        commands.run(Request(
            mode=MODE.value, config=CONFIG.value, model=MODEL.value,
            workdir=Path(WORKDIR.value) if WORKDIR.value else None,
            paths=tuple([IMAGES.value] if IMAGES.value else []) + tuple(argv[1:]),
            top=TOP.value, json=JSON.value, invert=INVERT.value,
            output=Path(OUTPUT.value) if OUTPUT.value else None,
            format=FORMAT.value, roofline=ROOFLINE.value,
            diagram=Path(DIAGRAM.value) if DIAGRAM.value else None,
            profile_steps=PROFILE_STEPS.value, rates=RATES.value,
            host=HOST.value, port=PORT.value, empty=EMPTY.value,
            auto_rate=config_file.without_auto_rate(sys.argv)[1]))


@contextlib.contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """Ends the process with a line and exit code 130 on Ctrl-C.

    Python would wait for the program that XLA compiles in another thread, a minute or
    more, and then crash.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"cnn_jax: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)


def run() -> None:
    """Runs the command line of this process."""
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):  # for --help
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse)
