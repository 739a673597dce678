"""What `main.py` can do, a function per --mode."""

import contextlib
import dataclasses
import json
import re
import textwrap
from pathlib import Path

from absl import flags
import jax
from ml_collections import ConfigDict

from cnn_jax import data, networks, training
from cnn_jax.inspection import run as inspect, predict
from cnn_jax.errors import InputError
from cnn_jax.inspection.pages.compare import FIGURES, in_words, write_comparison
from cnn_jax.inspection.draw.contact_sheet import contact_sheet
from cnn_jax.inspection.draw.picture import check_format, save
from cnn_jax.inspection.pages.report import FILE as REPORT
from cnn_jax.inspection.pages.report import PICTURES, write_report
from cnn_jax.networks.summary import layer_table
from cnn_jax.interop.weights import write_npz, write_text
from cnn_jax.workdir import trained
from cnn_jax.config.rules import check, is_field, unknown_field
from cnn_jax.console import Reporter
from cnn_jax.training.recipe import create_model
from cnn_jax.workdir.folder import check_same_config, default_path

OWN_CONFIG = Path(__file__).parents[2] / "configs" / "workdir.py"


@dataclasses.dataclass(frozen=True)
class Request:
    """One command line."""

    mode: str
    config: ConfigDict | None
    workdir: Path | None
    images: tuple[str, ...] = ()  # files and folders; of compare the runs
    top: int = 3
    json: bool = False
    invert: bool = False
    output: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    seeds: int = 1


def run(request: Request) -> None:
    """Does what the command line asks for. Raises InputError or RunError."""
    if request.mode not in MODES:
        raise InputError(f"--mode={request.mode} is unknown; known: {', '.join(MODES)}")
    if request.images and request.mode not in ("predict", "inspect", "compare"):
        raise InputError(f"unexpected argument {request.images[0]!r}: only "
                         "--mode=predict, inspect and compare take file names")
    if request.output and request.mode not in ("show_data", "overlays", "predict",
                                               "compare"):
        raise InputError(f"--output={request.output} is only for --mode=show_data, "
                         "overlays, predict and compare")
    if request.seeds != 1 and request.mode != "train":
        raise InputError(f"--seeds={request.seeds} is only for --mode=train: the run "
                         "of each seed has a --workdir of its own")
    if request.config is not None:
        check(request.config)
    MODES[request.mode](request)


def train(request: Request) -> None:
    config = need_config(request)
    if request.seeds == 1:
        training.run(config, request.workdir)
    else:
        results = training.run_seeds(config, request.seeds, request.workdir)
        print(f"{len(results)} seeds: " + ", ".join(
            f"{figure.words} {in_words(values, figure.style)}"
            for name, figure in FIGURES.items() if name.startswith("test_")
            and (values := [one[name] for one in results if name in one])))


def evaluate(request: Request) -> None:
    """The best checkpoint on every part of the data."""
    trained.evaluate(trained_workdir(request), request.config)


def predict_images(request: Request) -> None:
    """The classes of the user's own pictures, or of their pixels, as text or JSON."""
    if not request.images:
        raise InputError("--mode=predict needs --images FILE_OR_FOLDER ...")
    workdir = trained_workdir(request)
    if predict.has_pixel_labels(workdir):
        segment_images(request, workdir)
        return
    if request.output:
        raise InputError(f"--output={request.output} is a picture of the classes of "
                         f"pixels, but {workdir} names one class for each picture")
    answers = predict.classify(workdir, request.images, request.top, request.invert)
    if request.json:
        print(json.dumps([answer._asdict() for answer in answers], indent=2))
    else:
        for answer in answers:
            print(predict.line(answer))


def segment_images(request: Request, workdir: Path) -> None:
    """The shares of the classes in each picture, and one picture with overlays."""
    path = request.output or workdir / "predictions.png"
    check_format(path)
    found = predict.segment(workdir, request.images, request.invert)
    with waiting("drawing"):
        drawn = predict.draw_segmentations(found, workdir)
        save(drawn, path)
    if request.json:
        print(json.dumps([{"image": one.image, "classes": one.classes,
                           "shares": one.shares} for one in found], indent=2))
        return
    for one in found:
        print(predict.line(one))
    print(f"{path}: {drawn.title}")


def overlays(request: Request) -> None:
    """Test images with the classes of their pixels, as a picture."""
    workdir = trained_workdir(request)
    path = request.output or workdir / "overlays.png"
    check_format(path)
    with waiting("drawing test images"):
        drawn = predict.draw_test_images(workdir, request.config)
        save(drawn, path)
    print(f"{path}: {drawn.title}")


def look_inside(request: Request) -> None:
    """Pictures of what the network has learnt and why it answers as it does."""
    workdir = trained_workdir(request)
    paths = inspect.draw(workdir, request.config, request.images, request.invert)
    print(f"{len(paths)} pictures in {workdir / PICTURES}")
    print(workdir / REPORT)


def report(request: Request) -> None:
    """report.html anew, from the files of a run that has ended or not."""
    workdir = trained_workdir(request)
    with waiting("writing the report"):
        path = write_report(workdir)
    print(path)


def compare(request: Request) -> None:
    """Several runs side by side, as one page."""
    if request.workdir is not None or request.config is not None:
        raise InputError("--mode=compare takes the folders of runs as further "
                         "arguments, neither --workdir nor --config")
    path = request.output or Path("compare.html")
    if path.suffix != ".html":
        raise InputError(f"--output={path} must end in .html: --mode=compare writes a "
                         "page")
    with waiting("comparing"):
        write_comparison([Path(folder) for folder in request.images], path)
    print(path)


def serve(request: Request) -> None:
    """A web page on the network: draw or drop a picture, see the answer and why."""
    # Imported here: the web library is for this mode alone.
    from cnn_jax.serve import server
    server.serve(trained_workdir(request), request.host, request.port, request.invert)


def summary(request: Request) -> None:
    """The layer table of a config's network, with as many classes as it was published
    for unless the config says; reads no data.

    With --workdir=FOLDER it is also written there, as text, CSV and JSON.
    """
    config = need_config(request)
    if request.workdir is not None and (request.workdir / "config.json").exists():
        raise InputError(f"{request.workdir} is the folder of a run, which has its own "
                         "summary.txt: give --mode=summary another --workdir")
    shape = networks.NETWORKS[config.model.name].input_shape
    size = config.data.image_size if any(config.data.image_size) else shape[:2]
    shape = (*size, config.data.channels or shape[2])
    try:
        with waiting("tracing the network"):
            table = layer_table(create_model(config), shape,
                                max(1, config.batch_size // jax.device_count()))
    except ValueError as error:
        raise InputError(f"{config.model.name} on images of shape {shape}: "
                         f"{error}") from error
    print(table.text())
    print(f"convolutions: {table.convolutions()}")
    *fewer, _ = table.by_form().items() or [()]
    for conv, names in fewer:  # the others have the last form
        if len(names) > 3:
            print(textwrap.fill(f"{conv}: {', '.join(names)}", 100,
                                initial_indent="  ", subsequent_indent="    "))
    if request.workdir is not None:
        request.workdir.mkdir(parents=True, exist_ok=True)
        table.save(request.workdir)


def weights(request: Request) -> None:
    """The best parameters as weights.npz and as text that a person can read."""
    workdir = trained_workdir(request)
    with waiting("writing the weights"):
        state = trained.load(workdir).state
        paths = (write_npz(workdir / "weights.npz", state),
                 write_text(workdir / "weights.txt", state))
    for path in paths:
        print(path)


def show_data(request: Request) -> None:
    """A contact sheet of training images, as stored and as the network sees them."""
    config = need_config(request)
    workdir = request.workdir or default_path(config)
    if not request.output:
        check_same_config(workdir, config)
    path = request.output or workdir / "data.png"
    check_format(path)
    with waiting("drawing"):
        dataset = data.load(config.data, config.seed)
        save(contact_sheet(dataset, config), path)
    print(f"data: {dataset.source}")
    print(path)


MODES = {"train": train, "eval": evaluate, "predict": predict_images,
         "summary": summary, "weights": weights, "serve": serve,
         "show_data": show_data, "overlays": overlays, "inspect": look_inside,
         "report": report, "compare": compare}


def waiting(words: str) -> contextlib.AbstractContextManager:
    """Says on a terminal what is under way; programs read what these modes print."""
    return Reporter(stderr=True).under_way(words, plain=False)


def need_config(request: Request) -> ConfigDict:
    if request.config is None:
        raise InputError(f"--mode={request.mode} needs --config=FILE, such as "
                         "--config=configs/lenet.py")
    return request.config


def trained_workdir(request: Request) -> Path:
    """The folder of a run: as given, or where this config would have trained."""
    if request.workdir is None and request.config is None:
        raise InputError(f"--mode={request.mode} needs --workdir=FOLDER of a run, or "
                         "the --config that it was made with")
    path = request.workdir or default_path(request.config)
    if request.config is not None:
        check_same_config(path, request.config)
    return path.absolute()


def with_own_config(argv: list[str]) -> list[str]:
    """A command line that changes fields of no --config: they are the workdir's own."""
    line = "\n".join(argv)
    changes = re.search(r"^--?config\.", line, re.MULTILINE)
    workdirs = re.findall(r"^--?workdir[=\n](.+)$", line, re.MULTILINE)
    if not changes or not workdirs or re.search(r"^--?config[=\n]", line,
                                                re.MULTILINE):
        return argv
    return [argv[0], f"--config={OWN_CONFIG}:{workdirs[-1]}", *argv[1:]]


def explain(error: Exception, argv: list[str]) -> str:
    """One line for what absl, ml_collections or a config file raised."""
    for name in re.findall(r"^--config\.([\w.]+)", "\n".join(argv), re.MULTILINE):
        if not is_field(name):
            return unknown_field(name)
    paths = [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    source = f"--config={paths[-1]}" if paths else "--config"
    text = str(error.args[0] if error.args else error).strip()
    if isinstance(error, SyntaxError):
        return f"{source} is not Python: {error}"
    in_file = "Error whilst parsing config file" in text
    if isinstance(error, flags.Error) and not in_file:
        line = text.partition("\n")[0]
        unknown = re.match(r"Unknown command line flag '([\w.]+)'", line)
        if unknown and is_field(unknown[1]):
            return f"--{unknown[1]} is a field of configs: --config.{unknown[1]}=VALUE"
        for python, words in (
                ("invalid literal for int", "must be a whole number"),
                ("could not convert string to float", "must be a number")):
            line = re.sub(f"{python}.*", words, line)
        return line
    if "Failed loading config file" in text:
        return f"{source}: no such config file{_configs_beside(paths)}"
    fields = re.findall(r"^--config\.model\.fields\.(\w+)", "\n".join(argv),
                        re.MULTILINE)
    if isinstance(error, (KeyError, AttributeError)) and fields:
        return (f"config.model.fields.{fields[0]}: {source} does not set this field of "
                "its network; --config=configs/network.py:NAME sets all that there are")
    last = text.splitlines()[-1] if text else type(error).__name__
    ours = last.partition("cnn_jax.errors.InputError: ")[2]
    if ours:
        return ours
    return f"{source} failed: {last.removeprefix('ValueError: ')[:200]}"


def _configs_beside(paths: list[str]) -> str:
    """The configs in the folder in which one was looked for."""
    folder = Path(paths[-1].partition(":")[0]).parent if paths else Path("configs")
    names = sorted(path.name for path in folder.glob("*.py")
                   if path.name not in ("__init__.py", OWN_CONFIG.name))
    return f"; {folder} holds {', '.join(names[:12])}" if names else ""
