"""Where compiled programs are kept, and when they are not."""

import json

import jax
import pytest
from tests.support.tiny_runs import end, environment, start_python

from cnn_jax import program_cache
from cnn_jax.native import library
from cnn_jax.program_cache import PARTS
from experiments import measuring


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


def test_a_program_with_parts_of_another_library_is_not_ours():
    ours = f'stablehlo.custom_call @CustomSPMDPartitioning(%0) {{{PARTS} = "a"}}'
    theirs = "stablehlo.custom_call @CustomSPMDPartitioning(%0) {}"
    assert program_cache.holds_parts(f"module\n{ours}\n{ours}")
    assert not program_cache.holds_parts(f"module\n{ours}\n{theirs}")


# Trains two epochs; prints what the cache had and lacked, the calls of the library in
# the training programs, and a hash of the parameters.
START = """
import json, sys
import jax
from cnn_jax import program_cache, training
from cnn_jax.native import library
from cnn_jax.training import loop
from tests.support.tiny_runs import tiny, undrawn

counts = {"cache_hits": 0, "cache_misses": 0, "calls": 0}
def compile_program(lowered, options):
    compiled = program_cache.compile_program(lowered, options)
    counts["calls"] += compiled.as_text().count(library.TARGET)
    return compiled
loop.compile_program = compile_program
def note(event, **_):
    name = event.rpartition("/")[2]
    if name in counts:
        counts[name] += 1
jax.monitoring.register_event_listener(note)
program_cache.use_program_cache()
undrawn()
results = training.run(tiny(), sys.argv[1])
print(json.dumps(counts | {"sha256": results.params_sha256,
                           "devices": jax.local_device_count()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("native", [False, True])
def test_a_second_start_compiles_nothing(tmp_path, devices, native):
    """Each training program donates; over two devices it is sharded."""
    if native and library.load_onednn() is None:
        pytest.skip(library.describe())
    variables = environment(devices) | {
        "CNN_JAX_CACHE": str(tmp_path), "CNN_JAX_NATIVE": str(int(native))}
    del variables["JAX_COMPILATION_CACHE_DIR"]
    if native:
        measuring.new_cache(tmp_path)
    starts = []
    for name in ("first", "second"):
        code, output, errors = end(start_python(
            "-c", START, tmp_path / name, env=variables))
        assert code == 0, errors
        starts.append(json.loads(output.splitlines()[-1]))
    first, second = starts
    assert second["devices"] == devices and first["calls"] == second["calls"]
    assert (first["calls"] > 0) == native
    assert first["cache_misses"] > 10 and first["sha256"] == second["sha256"]
    assert second["cache_misses"] == 0 and second["cache_hits"] > 10
