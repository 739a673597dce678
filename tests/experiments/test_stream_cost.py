"""The experiment on streaming compares steps, and starts at two steps of a run."""

import re

import pytest

from experiments import stream_cost


@pytest.mark.slow
def test_it_compares_both_feeds(capsys):
    stream_cost.measure("lenet5", rounds=2, steps=3)
    text = capsys.readouterr().out
    assert "2 rounds of 3 steps of 128 images" in text
    ratio = re.search(r"ratio +([\d.]+) \(([\d.]+) - ([\d.]+)\)", text)
    low, middle, high = (float(ratio[i]) for i in (2, 1, 3))
    assert 0 < low <= middle <= high


@pytest.mark.slow
def test_it_resumes_at_both_steps(monkeypatch, capsys):
    monkeypatch.setattr(stream_cost, "COUNT", 80)
    monkeypatch.setattr(stream_cost, "FAR_STEP", 20)
    stream_cost.measure_restart(rounds=1)
    text = capsys.readouterr().out
    for fact in ("from step 0, 1 rounds", "from step 20, 1 rounds", "ratio of a round"):
        assert fact in text
