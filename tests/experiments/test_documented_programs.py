"""The programs of the README's commands and of the notebooks compile for a GPU, a TPU.

For CUDA they are lowered by `jax.export`; for the TPU of Colab, one chip of a v5e, they
are compiled by libtpu where it is installed. Nothing is run. Left out are the programs
of inspection and of single layers (conv_comparison.py, gallery.py).
"""

import functools
import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, config_flags
from tests.support.tiny_runs import picture_folder

from cnn_jax import ops
from cnn_jax.data.scaling import scale
from cnn_jax.interop import pretrained
from cnn_jax.networks.roofline import PEAKS
from cnn_jax.networks.trace import features
from cnn_jax.training import parallel
from cnn_jax.training.recipe import abstract_state
from cnn_jax.training.steps import compute_features, eval_rows
from experiments import gallery, hlo, programs, published

ROOT = Path(__file__).parents[2]
WITH_CONFIG = "python main.py --config="
REPRODUCE = "python experiments/reproduce.py --only "
PREDICT = "python main.py --mode=predict --model="
# Commands that compile no training program: they print a table or read a run.
OTHERS = ("--mode=list", "--mode=summary", "--mode=eval", "--mode=predict",
          "--mode=serve", "--mode=export", "--mode=inspect", "--mode=report",
          "--mode=compare")


def commands() -> list[str]:
    """Reads the README's commands that compile a network."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(),
                        re.MULTILINE | re.DOTALL)
    lines = [line.replace(".venv/bin/", "") for block in blocks
             for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith((REPRODUCE, PREDICT))
            or line.startswith(WITH_CONFIG)
            and not any(other in line for other in OTHERS)]


def config_of(command: str, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """Makes the config of a command as main.py does."""
    argv = shlex.split(command)[1:]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
    monkeypatch.chdir(ROOT)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(argv)
    return values.config


def steps_of(config: ConfigDict, device: jax.Device) -> dict[str, programs.Program]:
    """Makes the programs of a command in the config's own dtype."""
    case = programs.case_of(config)
    changes = {"dtype": config.dtype}
    made = programs.programs(case, "jit", [device], changes=changes)
    if config.model.train == "head":  # see cnn_jax/training/features.py
        recipe = programs.recipe_of(
            case, programs.config_of(case, "jit", 1, changes), None, 1)
        placement = parallel.mesh_placement([device], parallel.ABSTRACT)
        step = functools.partial(eval_rows, recipe=recipe, step=compute_features)
        made = {"features": made["eval"]._replace(step=placement.compile(step)),
                "eval": made["eval"]}
    return made


def operations_of_the_notebook(device: jax.Device
                               ) -> dict[str, tuple[Callable, tuple]]:
    """Lists the programs of experiments/operations.ipynb: {name: (step, arguments)}."""
    sharding = NamedSharding(Mesh(np.array([device]), ("one",)), PartitionSpec())

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    def gradients(name: str) -> Callable:
        def loss(x, w):
            y = ops.correlate(x, w, padding=1, implementation=name)
            return jnp.sum(y ** 2)
        return jax.jit(jax.grad(loss, argnums=(0, 1)))

    made = {name: (gradients(name), (array(64, 28, 28, 3), array(3, 3, 3, 4)))
            for name in ("lax", "im2col", "taps", "auto")}
    made["separable"] = (jax.jit(ops.separable_conv), (
        array(2, 8, 7, 3), array(3, 3, 1, 3), array(3, 4)))
    side = len(gallery.circle())
    learning = jax.jit(functools.partial(gallery.descend, most_steps=100))
    made["learn a kernel"] = (learning, (
        array(1, side, side, 1), array(1, side - 2, side - 2, 1), array(3, 3, 1, 1),
        array()))
    return made


def looks_of_the_notebook(config: ConfigDict, device: jax.Device
                          ) -> dict[str, tuple[Callable, tuple]]:
    """Lists what experiments/quickstart.ipynb compiles besides training."""
    case = programs.case_of(config)
    recipe = programs.recipe_of(
        case, programs.config_of(case, "jit", 1, {"dtype": config.dtype}), None, 1)
    placement = parallel.mesh_placement([device], parallel.ABSTRACT)
    state = placement.replicate(programs.zeros(abstract_state(recipe,
                                                              case.image_shape)))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = placement.replicate(programs.zeros(
        jax.ShapeDtypeStruct((8, *case.image_shape), jnp.uint8)))

    return {
        "predict": (jax.jit(lambda variables, images: jax.nn.softmax(
            recipe.model.apply(variables, recipe.scale(images), train=False))),
            (variables, images)),
        "features": (jax.jit(lambda variables, images: features(
            recipe.model, variables, recipe.scale(images))), (variables, images))}


def prediction(source: str, device: jax.Device) -> tuple[Callable, tuple]:
    """Returns the prediction of a network with published weights, and its arguments."""
    row = pretrained.find_row(source)
    network = pretrained.network_of(row)
    pixels = jax.ShapeDtypeStruct((1, *row.preprocessing.size, 3), jnp.uint8)

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(network.apply(variables, scale(images, row.scaling),
                                            train=False))

    variables = jax.eval_shape(
        lambda images: network.init(jax.random.key(0), scale(images, row.scaling),
                                    train=False), pixels)
    placement = parallel.mesh_placement([device], parallel.ABSTRACT)
    return jax.jit(predict), tuple(placement.replicate(programs.zeros(each))
                                   for each in (variables, pixels))


def all_of(what: str, device: jax.Device, tmp_path: Path,
           monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Callable, tuple]]:
    """Lists the programs of a command or notebook: {name: (step, arguments)}."""
    if what == "operations.ipynb":
        return operations_of_the_notebook(device)
    if what.startswith(PREDICT):
        source = what.removeprefix(PREDICT).split()[0]
        return {"predict": prediction(source, device)}
    command = f"{WITH_CONFIG}configs/lenet.py" if what == "quickstart.ipynb" else what
    if what.startswith(REPRODUCE):
        row = published.EXPERIMENTS[what.removeprefix(REPRODUCE)]
        command = f"{WITH_CONFIG}configs/{row.config}"
    if "PHOTOS" in command:
        picture_folder(tmp_path / "photos", ["a", "b", "c"], 128)
        command = (command.replace("PHOTOS", str(tmp_path / "photos"))
                   + " --config.data.validation=0.25 --config.data.test=0.25")
    config = config_of(command, monkeypatch)
    made = {name: (program.step, program.arguments)
            for name, program in steps_of(config, device).items()}
    if what == "quickstart.ipynb":
        made |= looks_of_the_notebook(config, device)
    return made


DOCUMENTED = [*commands(), "quickstart.ipynb", "operations.ipynb"]


def test_the_commands_are_those_of_the_readme():
    names = [re.sub(f"^({WITH_CONFIG}|{REPRODUCE}|{PREDICT})", "", command).split()[0]
             for command in commands()]
    assert {"torchvision:resnet50", "shapes_shape_cnn", "configs/lenet.py",
            "configs/segmentation.py", "configs/multilabel.py", "configs/folder.py",
            "configs/transfer.py:torchvision:mobilenet_v2"} == set(names)


def test_a_program_of_the_readme_is_lowered_for_cuda(tmp_path, monkeypatch):
    with programs.as_on("gpu"):
        made = all_of("quickstart.ipynb", jax.devices()[0], tmp_path, monkeypatch)
        step, arguments = made["train 1"]
        text = jax.export.export(step, platforms=["cuda"])(*arguments).mlir_module()
    assert text.count("stablehlo.convolution") == 5 and "callback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("what", DOCUMENTED)
def test_programs_are_lowered_for_cuda(what, tmp_path, monkeypatch):
    with programs.as_on("gpu"):
        for name, (step, arguments) in all_of(
                what, jax.devices()[0], tmp_path, monkeypatch).items():
            exported = jax.export.export(step, platforms=["cuda"])(*arguments)
            assert "callback" not in exported.mlir_module(), name


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="no libtpu")
@pytest.mark.parametrize("what", DOCUMENTED)
def test_programs_are_compiled_for_the_tpu_of_colab(what, tmp_path, monkeypatch):
    device, = programs.tpu_devices("v5e:1x1")
    with programs.as_on("tpu"):
        for name, (step, arguments) in all_of(what, device, tmp_path,
                                              monkeypatch).items():
            compiled = step.lower(*arguments).compile()
            assert programs.memory_of(compiled) <= PEAKS["tpu-v5e"].memory, name
            assert hlo.facts(compiled.as_text()).host_transfers == [], name
