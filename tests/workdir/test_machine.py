"""Facts about the machine."""

from cnn_jax.workdir.machine import commit


def test_a_checkout_without_the_program_git_has_no_commit(monkeypatch, tmp_path):
    """Otherwise a run would end after its training, without results."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None
