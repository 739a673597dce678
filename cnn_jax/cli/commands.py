"""Defines the commands of `main.py`: one function per --mode."""

import contextlib
import json
import textwrap
from pathlib import Path

import jax
import numpy as np

from cnn_jax import data, networks, training
from cnn_jax.cli.caches import caches
from cnn_jax.cli.describe import describe
from cnn_jax.cli.listing import list_names
from cnn_jax.cli.lr_find import lr_find, with_found_rate
from cnn_jax.cli.request import Request, required_config, required_run
from cnn_jax.config import check
from cnn_jax.console import Reporter, counted
from cnn_jax.data.examples import Examples
from cnn_jax.data.images import find_images
from cnn_jax.errors import InputError, RunError
from cnn_jax.inspection import predict as predictions
from cnn_jax.inspection import run as inspection
from cnn_jax.inspection.draw.contact_sheet import contact_sheet
from cnn_jax.inspection.draw.picture import check_format, save
from cnn_jax.inspection.pages.compare import write_comparison
from cnn_jax.inspection.pages.report import FILE as REPORT
from cnn_jax.inspection.pages.report import PICTURE_FOLDER, write_report
from cnn_jax.interop import export as exports
from cnn_jax.interop.weights import write_npz, write_text
from cnn_jax.networks import diagram
from cnn_jax.networks.roofline import peak_of
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.summary_files import plain_text, roofline_text, save_summary
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.training.profiler import parse_steps
from cnn_jax.training.recipe import refusing
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import (check_same_config, default_path, load_data,
                                    read_config, read_data_info)

TAKE_PATHS = ("predict", "inspect", "compare", "export", "describe")
TAKE_NO_MODEL = ("train", "summary", "show_data", "compare", "lr_find")
ONLY_FOR = {"profile_steps": "train", "rates": "lr_find", "roofline": "summary",
            "diagram": "summary", "empty": "caches"}
TAKE_OUTPUT = ("show_data", "overlays", "predict", "compare", "export", "lr_find")


def run(request: Request) -> None:
    """Runs the command of a command line. Raises InputError or RunError."""
    if request.mode not in COMMANDS:
        raise InputError(
            f"--mode={request.mode} is unknown; known: {', '.join(COMMANDS)}")
    if request.paths and request.mode not in TAKE_PATHS:
        raise InputError(f"unexpected argument {request.paths[0]!r}: only "
                         "--mode=predict, inspect, export, compare and describe take "
                         "file names")
    if request.output and request.mode not in TAKE_OUTPUT:
        raise InputError(f"--output={request.output} is only for --mode="
                         + ", ".join(TAKE_OUTPUT))
    for flag, mode in ONLY_FOR.items():
        if (value := getattr(request, flag)) and request.mode != mode:
            raise InputError(f"--{flag}={value} is only for --mode={mode}")
    if request.model and request.mode in TAKE_NO_MODEL:
        raise InputError(
            f"--model={request.model} is not for --mode={request.mode}; to train from "
            f"these weights, set --config.model.init_from={request.model}")
    if request.auto_rate and request.mode != "train":
        raise InputError(f"--mode={request.mode} takes a number as "
                         "config.optimizer.learning_rate: auto is for --mode=train, "
                         "and --mode=lr_find shows how it is found")
    if request.config is not None:
        check(request.config)
    COMMANDS[request.mode](request)


def train(request: Request) -> None:
    """Trains a run, or resumes it; --workdir alone resumes with the run's own config.
    """
    if request.config is None and request.workdir is not None:
        config = read_config(request.workdir)
    else:
        config = required_config(request)
    if request.auto_rate:
        config = with_found_rate(config, request.workdir)
    training.run(config, request.workdir,
                 profile_steps=parse_steps(request.profile_steps))


def evaluate(request: Request) -> None:
    """Evaluates the best checkpoint on the validation and test splits."""
    evaluate_run(required_run(request), request.config)


def predict(request: Request) -> None:
    """Prints a run's predictions for pictures; for segmentation it also draws masks."""
    if not request.paths:
        raise InputError("--mode=predict needs --images FILE_OR_FOLDER ...")
    workdir = required_run(request)
    task = predictions.task_of(workdir)
    path = request.output or workdir / "predictions.png"
    if task.unit == "pixel":
        check_format(path)
    elif request.output:
        raise InputError(f"--output={request.output} is only for runs that predict a "
                         f"class for each pixel, but {workdir} predicts classes of "
                         "pictures")
    unreadable: dict[Path, InputError] = {}
    results = predictions.predict(workdir, request.paths, request.top, request.invert,
                                  unreadable)
    if unreadable and not results and not request.json:
        raise InputError(predictions.first_errors(unreadable))
    picture = None
    if task.unit == "pixel" and results:
        with spinner("drawing"):
            picture = predictions.draw_predictions(results, workdir)
            save(picture, path)
    if request.json:
        print(json.dumps([
            *(predictions.as_json(prediction, task) for prediction in results),
            *({"image": str(file), "error": str(error)}
              for file, error in unreadable.items())], indent=2))
    else:
        for prediction in results:
            print(predictions.as_line(prediction, task))
    if picture is not None and not request.json:
        print(f"{path}: {picture.title}")
    if unreadable:
        count = len(results) + len(unreadable)
        raise RunError(f"{len(unreadable)} of {count} pictures have no prediction: "
                       + predictions.first_errors(unreadable))


def overlays(request: Request) -> None:
    """Draws test images with the true and the predicted class of every pixel."""
    workdir = required_run(request)
    path = request.output or workdir / "overlays.png"
    check_format(path)
    with spinner("drawing test images"):
        picture = predictions.draw_test_images(workdir, request.config)
        save(picture, path)
    print(f"{path}: {picture.title}")


def inspect(request: Request) -> None:
    """Draws what the network has learned and why it predicts what it does."""
    workdir = required_run(request)
    pictures = inspection.draw(workdir, request.config, request.paths, request.invert)
    print(f"{counted(len(pictures), 'picture')} in {workdir / PICTURE_FOLDER}")
    print(workdir / REPORT)


def report(request: Request) -> None:
    """Writes report.html again, whether the run has ended or not."""
    workdir = required_run(request)
    with spinner("writing the report"):
        path = write_report(workdir)
    print(path)


def compare(request: Request) -> None:
    """Writes a page that compares several runs."""
    if request.workdir is not None or request.config is not None:
        raise InputError("--mode=compare takes neither --workdir nor --config: give "
                         "the workdirs as arguments")
    path = request.output or Path("compare.html")
    if path.suffix != ".html":
        raise InputError(f"--output={path} must end in .html: --mode=compare writes a "
                         "page")
    with spinner("comparing"):
        write_comparison([Path(folder) for folder in request.paths], path)
    print(path)


def serve(request: Request) -> None:
    """Serves a web page that predicts a drawn or dropped picture."""
    # Imported here: only this mode needs the web libraries.
    from cnn_jax.serve import server
    server.serve(required_run(request), request.host, request.port, request.invert)


def summary(request: Request) -> None:
    """Prints the layer table of a config's network, or of a run's; reads no data.

    The network has its published number of classes unless the config sets another.
    With a config, --workdir=FOLDER also writes the table there, as text, CSV and JSON.
    --diagram=FILE also writes a drawing of the network.
    """
    folder = request.workdir
    run = folder if folder and (folder / "config.json").exists() else None
    if run and request.config is not None:
        raise InputError(f"{folder} is the folder of a run: without --config, "
                         "--mode=summary shows its network; with one, give it another "
                         "--workdir")
    config = read_config(run) if run else required_config(request)
    if request.roofline is not None:
        try:
            peak = peak_of(request.roofline)
        except ValueError as error:
            raise InputError(f"--roofline={error}") from error
    if request.diagram is not None:
        diagram.check(request.diagram)
    if run:
        info = read_data_info(run)
        shape, classes = info.image_shape, len(info.class_names)
    else:
        shape, classes = networks.find(config.model.name).input_shape, None
        size = config.data.image_size or shape[:2]
        shape = (*size, config.data.channels or shape[2])
    with refusing(config.model.name, shape), spinner("tracing the network"):
        network = networks.from_config(config, classes)
        table = layer_table(network, shape,
                            max(1, config.batch_size // jax.device_count()))
    if request.diagram is not None:
        with spinner("drawing the network"):
            diagram.write(request.diagram, network, config.model.name, shape)
    print(plain_text(table))
    if request.roofline is not None:
        print(roofline_text(table, request.roofline, peak, config.dtype))
    print(f"convolutions: {table.convolutions()}")
    # The last algorithm is not listed: it has all other layers.
    for conv, names in list(table.by_algorithm().items())[:-1]:
        if len(names) > 3:
            print(textwrap.fill(f"{conv}: {', '.join(names)}", 100,
                                initial_indent="  ", subsequent_indent="    "))
    if folder is not None and run is None:
        folder.mkdir(parents=True, exist_ok=True)
        save_summary(table, folder)
    if request.diagram is not None:
        print(request.diagram)


def weights(request: Request) -> None:
    """Writes the variables of the best checkpoint as weights.npz and weights.txt."""
    workdir = required_run(request)
    with spinner("writing the weights"):
        variables = trained.load(workdir).variables
        paths = (write_npz(workdir / "weights.npz", variables),
                 write_text(workdir / "weights.txt", variables))
    for path in paths:
        print(path)


def export(request: Request) -> None:
    """Writes the network for other programs, and validates what it wrote."""
    formats = exports.chosen_formats(request.format)
    workdir = required_run(request)
    report = Reporter()
    with report.under_way("reading the checkpoint", plain=False):
        network = trained.load(workdir)
    if request.paths:
        paths = find_images(request.paths)
        pixels = inspection.read_images(paths, network.info.preprocessing,
                                        request.invert)
        examples = Examples(pixels, np.zeros(0, np.int32))
        source = f"{len(paths)} given pictures"
    elif network.info.has_images:
        config = request.config or network.config
        with report.under_way("loading the data", plain=False):
            dataset = load_data(workdir, config)
        split = "test" if len(dataset.test.labels) else "validation"
        examples, source = getattr(dataset, split), f"the {split} split"
    else:
        examples = exports.noise(network.info.image_shape)
        source = f"{exports.NOISE} images of noise"
    exports.export(network, formats, request.output or workdir / "export", examples,
                   source, report)


def show_data(request: Request) -> None:
    """Draws training images as they are stored and as the network sees them."""
    config = required_config(request)
    workdir = request.workdir or default_path(config)
    if not request.output:
        check_same_config(workdir, config)
    path = request.output or workdir / "data.png"
    check_format(path)
    with spinner("drawing"):
        dataset = data.load(config.data, config.seed)
        save(contact_sheet(dataset, config), path)
    print(f"data: {dataset.source}")
    print(path)


COMMANDS = {"list": list_names, "train": train, "describe": describe, "eval": evaluate,
            "predict": predict, "summary": summary, "weights": weights, "serve": serve,
            "show_data": show_data, "overlays": overlays, "inspect": inspect,
            "report": report, "compare": compare, "export": export, "lr_find": lr_find,
            "caches": caches}


def spinner(title: str) -> contextlib.AbstractContextManager[None]:
    """Shows the title and the elapsed time on stderr, since stdout may be piped."""
    return Reporter(stderr=True).under_way(title, plain=False)
