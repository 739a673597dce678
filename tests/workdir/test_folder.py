"""The folder of a run refuses commands with another config."""

import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from tests.support.tiny_runs import ROOT, tiny

from cnn_jax.cli.overrides import accept_none
from cnn_jax.config import check, result_fields, to_json
from cnn_jax.errors import InputError
from cnn_jax.workdir.folder import EVALUATION, check_same_config


def saved(folder, **fields):
    folder.mkdir()
    (folder / "config.json").write_text(to_json(tiny(**fields)))
    return folder


def test_the_error_for_other_values_has_a_command_that_continues_with_them(
        tmp_path, monkeypatch):
    """The config of the command has the new values and starts from the old weights."""
    run = saved(tmp_path / "a run")
    saved(tmp_path / "a run-2")
    other = tiny({"optimizer.learning_rate": 0.25, "augment.horizontal_flip": True,
                  "augment.crop_scale": (0.5, 1.0), "optimizer.clip_norm": 2.0,
                  "data.limit": None, "loss.name": "focal"})
    with pytest.raises(InputError) as error:
        check_same_config(run, other)
    _, _, command = str(error.value).partition("new values: ")
    python, main, *arguments = shlex.split(command)
    assert (python, main) == ("python", "main.py")
    monkeypatch.chdir(ROOT)
    accept_none()
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.setattr(sys, "argv", [main, *arguments])  # ml_collections reads it
    values(sys.argv)
    assert values.workdir == str(tmp_path / "a run-3")
    config = values.config
    check(config)
    assert config.model.init_from == str(run)
    config.model.init_from = None
    assert result_fields(config) == result_fields(other)


def test_fields_of_evaluation_may_differ_in_evaluation(tmp_path):
    run, other = saved(tmp_path / "run"), tiny(eval_batch_size=7)
    other.eval.metrics = "macro_f1"
    check_same_config(run, other, EVALUATION)
    with pytest.raises(InputError, match="eval_batch_size.*100.*7"):
        check_same_config(run, other)
    other.batch_size = 8
    with pytest.raises(InputError, match="here.: batch_size: 16 -> 8[.] Use"):
        check_same_config(run, other, EVALUATION)
