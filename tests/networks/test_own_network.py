"""Networks of the user are registered, or named MODULE:CLASS."""

import functools
import importlib
import json
import sys
import textwrap

import flax.linen as nn
import jax
import numpy as np
import pytest

from cnn_jax import networks, training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.config import check
from cnn_jax.errors import InputError
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import check_same_config
from tests.support import forked
from tests.support.pages import shown_file
from tests.support.tiny_runs import tiny

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
# The files of the page, then faulty networks.
SOURCE = shown_file("new_network.md", "mynet.py") + shown_file(
    "new_network.md", "myresnet.py") + textwrap.dedent("""

    class NoClasses(nn.Module):

        def __call__(self, x, train):
            return x


    class NoTrain(nn.Module):
        num_classes: int = 10

        def __call__(self, x):
            return x


    class ThreeClasses(nn.Module):
        num_classes: int = 10

        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3, name="head")(x.mean((1, 2)))


    class Refuses(nn.Module):
        num_classes: int = 10

        def __call__(self, x, train):
            raise ValueError("no")


    answer = 42
""")


def without(folder) -> None:
    """Makes a process find only the modules of its current folder."""
    sys.path.remove(str(folder))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes a folder with the module my_own_network, and enters it."""
    (tmp_path / "my_own_network.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_network", raising=False)
    return tmp_path


def test_a_run_of_a_module_in_the_current_folder(here, capsys):
    config = tiny({"model.name": "my_own_network:MyNet", "model.fields": {"width": 6},
                   "epochs": 1})
    training.run(config, here / "run", quiet=True)
    loaded = trained.load(here / "run")
    kernel = loaded.variables["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 1, 6)
    before = networks.from_config(config).init(
        jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)
    assert jax.tree.structure(before["params"]) == jax.tree.structure(
        loaded.variables["params"])
    written = (here / "run" / "summary.txt").read_text()
    assert "conv1" in written
    commands.run(Request("summary", None, here / "run"))
    assert capsys.readouterr().out.startswith(written.split("\n\n")[0])
    with pytest.raises(InputError, match="without --config"):
        commands.run(Request("summary", config, here / "run"))
    # In another process that does not find the module.
    done = forked.main(["--mode=report", f"--workdir={here / 'run'}"], here,
                       before=functools.partial(without, here))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for fact in ("my_own_network", "current folder", "config file"):
        assert fact in done.stderr


@pytest.mark.parametrize("name, facts", [
    ("my_own_network:Other", ["no Linen module Other", "MyNet"]),
    ("my_own_network:answer", ["no Linen module answer"]),
    ("my_own_network:NoClasses", ["num_classes"]),
    ("my_own_network:NoTrain", ["NoTrain", "(self, x, train)"]),
    ("no_such_module_x:MyNet", ["no_such_module_x", "current folder"])])
def test_errors_name_what_is_wrong_with_a_name(here, name, facts):
    with pytest.raises(InputError) as error:
        check(tiny({"model.name": name}))
    for fact in facts:
        assert fact in str(error.value)


def test_another_number_of_outputs_than_classes_is_refused(here):
    with pytest.raises(InputError, match="ThreeClasses.* 3 .* 10"):
        training.run(tiny({"model.name": "my_own_network:ThreeClasses"}), here / "run")


def test_the_line_of_a_network_that_refuses_images_is_named(here):
    line = SOURCE[:SOURCE.index("raise ValueError")].count("\n") + 1
    with pytest.raises(InputError, match=f"my_own_network.py, line {line}\\b.*8, 8, 1"):
        training.run(tiny({"model.name": "my_own_network:Refuses"}), here / "run")


def test_an_error_in_the_module_is_shown(here):
    (here / "broken_own_network.py").write_text("1 / 0")
    with pytest.raises(InputError, match="broken_own.*line 1: ZeroDivisionError"):
        check(tiny({"model.name": "broken_own_network:Net"}))


@pytest.mark.parametrize("field, value", [
    ("model.conv", "im2col"), ("dtype", "bfloat16"), ("parallel", "pmap"),
    ("model.bn", "keras"), ("model.init", "glorot")])
def test_fields_of_layers_need_a_network_with_layers(here, field, value):
    with pytest.raises(InputError, match=field):
        check(tiny({"model.name": "my_own_network:MyNet", field: value}))
    check(tiny({"model.name": "my_own_network:MyResNet", field: value}))


class Registered(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


@pytest.fixture
def registered():
    """Removes the networks that a test registers."""
    before = dict(networks.NETWORKS)
    yield
    networks.NETWORKS.clear()
    networks.NETWORKS.update(before)


def recorded_name(workdir):
    return json.loads((workdir / "config.json").read_text())["model"]["name"]


def test_a_registered_network(tmp_path, registered):
    networks.register("registered_for_a_test", Registered, (8, 8, 1))
    networks.register("registered_for_a_test", Registered)  # a notebook runs twice
    with pytest.raises(ValueError, match="lenet5"):
        networks.register("lenet5", Registered)
    config = tiny({"model.name": "registered_for_a_test", "epochs": 1})
    training.run(config, tmp_path, quiet=True)
    assert trained.load(tmp_path).network.num_classes == 10


def test_a_registered_network_of_a_module_opens_by_its_workdir(here, registered):
    mine = importlib.import_module("my_own_network")
    networks.register("mynet", mine.MyResNet)
    fields = {"model.fields": {"widths": (4,)}, "model.conv": "im2col", "epochs": 1}
    config = tiny(fields | {"model.name": "mynet"})
    training.run(config, here / "run", quiet=True)
    assert recorded_name(here / "run") == "my_own_network:MyResNet"
    assert config.model.name == "mynet"
    # The same program finds its run under either name.
    training.run(config, here / "run", quiet=True)
    check_same_config(here / "run", tiny(
        fields | {"model.name": "my_own_network:MyResNet"}))
    # By --workdir alone, in another process.
    done = forked.main(["--mode=eval", f"--workdir={here / 'run'}"], here, cwd=here,
                       before=functools.partial(without, here))
    assert done.returncode == 0 and "test: loss" in done.stdout, done.stderr


def test_a_network_of_a_script_says_how_its_run_opens(here, registered):
    class Registered(nn.Module):  # of a function: it cannot be imported by its name
        num_classes: int = 10

        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train, name="bn1")(
                nn.Conv(32, (3, 3), name="conv1")(x))
            return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))

    networks.register("mynet", Registered)
    training.run(tiny({"model.name": "mynet", "epochs": 1}), here / "run", quiet=True)
    assert recorded_name(here / "run") == "mynet"
    Registered.__module__, Registered.__qualname__ = "__main__", "Registered"
    assert networks.recorded_name("mynet") == "mynet"
    del networks.NETWORKS["mynet"]
    with pytest.raises(InputError) as error:
        trained.load(here / "run")
    for fact in ("'mynet'", "networks.register", "MODULE:CLASS"):
        assert fact in str(error.value)
    assert "did you mean" not in str(error.value)
    # The advice of the error works.
    file = here / "run" / "config.json"
    file.write_text(file.read_text().replace('"mynet"', '"my_own_network:MyNet"'))
    assert trained.load(here / "run").step == 8


def test_names_of_the_table_are_recorded_as_they_are(registered):
    networks.register("wide", networks.find("lenet5").constructor)
    assert networks.recorded_name("lenet5") == "lenet5"
    assert networks.recorded_name("no_such_network") == "no_such_network"
    assert networks.recorded_name("wide") == "cnn_jax.networks.lenet:LeNet5"
