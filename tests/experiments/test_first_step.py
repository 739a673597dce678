"""The experiment on the time to the first step: its table and bad flags."""

import sys

import pytest

from cnn_jax.errors import InputError
from experiments import first_step


def test_the_table_has_medians():
    def times(seconds):
        return {"main.py, first": {"seconds": seconds, "cpu_seconds": 2 * seconds}}
    text = first_step.table({"lenet5": [times(1), times(9), times(3)]})
    assert "lenet5" in text.splitlines()[0]
    assert text.splitlines()[1].split() == [
        "main.py,", "first", "3.0", "s", "(6.0", "CPU)"]


@pytest.mark.parametrize("argument", ["--networks=lenet6", "--rounds=0"])
def test_refusals(monkeypatch, argument):
    monkeypatch.setattr(sys, "argv", ["first_step.py", *argument.split("=")])
    with pytest.raises(InputError, match=argument.split("=")[1]):
        first_step.main()


@pytest.mark.slow
def test_a_second_start_is_shorter():
    times = first_step.measure("lenet5", [first_step.FIRST, first_step.SECOND])
    assert (times[first_step.SECOND]["cpu_seconds"]
            < times[first_step.FIRST]["cpu_seconds"])
