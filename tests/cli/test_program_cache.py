"""Where compiled programs are kept, and when they are not."""

import jax
import pytest

from cnn_jax import program_cache


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Collects the settings of JAX that would be changed, without changing them."""
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return settings


def test_the_folder_is_bounded_and_private(settings, tmp_path):
    program_cache.use_program_cache()
    folder = tmp_path / "cache" / "programs"
    assert settings["jax_compilation_cache_dir"] == str(folder)
    assert 0 < settings["jax_compilation_cache_max_size"] <= 2 ** 30
    assert folder.stat().st_mode & 0o077 == 0
    assert set(settings) <= set(jax.config.values)


@pytest.mark.parametrize("variable, value", [
    ("CNN_JAX_CACHE", "0"), ("JAX_COMPILATION_CACHE_DIR", "elsewhere"),
    ("CNN_JAX_CACHE", "/proc/nowhere")])
def test_the_cache_can_be_turned_off(settings, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    program_cache.use_program_cache()
    assert not settings
