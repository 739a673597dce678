"""The TPU table: arithmetic and faults; lowering for CUDA; libtpu if installed."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.data import warp
from cnn_jax.errors import InputError, RunError
from cnn_jax.ops.conv import auto
from experiments import programs, tpu_choices, tpu_compile
from experiments.measuring import row_in_new_process

FACTS = {
    "chip": "tpu-v5e", "chips": 4, "program": "train", "steps": 1, "images": 100,
    "hbm": 2 * 2**30, "flops": 197e9, "bytes": 1e6, "params": 1000, "stats": 10,
    "macs": 300_000_000, "collectives": {"all-reduce": 3}, "collective_bytes": 4_080,
    "host_transfers": 0, "float32_convolutions": 0, "compile_s": 1.0,
    "hbm_traffic": 8e5, "libtpu": "1.2", "jax": "3.4"}


def test_a_program_without_fault():
    assert tpu_compile.faults(FACTS) == []
    assert tpu_compile.limit(FACTS) == pytest.approx(1e-3)
    assert tpu_compile.limit(FACTS | {"bytes": 819e7}) == pytest.approx(1e-2)
    # a loop is counted once
    assert tpu_compile.limit(FACTS | {"steps": 8}) == pytest.approx(8e-3)
    # 2 FLOPs for each multiply-add, forward and two gradients
    assert tpu_compile.layer_flops(FACTS) == 6 * 300_000_000 * 100
    assert tpu_compile.layer_flops(FACTS | {"program": "eval"}) == 2 * 3e8 * 100


@pytest.mark.parametrize("change", [
    {"hbm": 17 * 2**30}, {"host_transfers": 1}, {"float32_convolutions": 2},
    {"collective_bytes": 4 * 1020 + 65}, {"failed": "out of memory"},
    {"chips": 1}, {"program": "eval"}])
def test_each_fault_is_seen(change):
    assert len(tpu_compile.faults(FACTS | change)) == 1


def test_the_table_is_resumed_and_its_faults_end_with_code_1(monkeypatch, tmp_path):
    compiled = []

    def compile_apart(name):
        compiled.append(name)
        return FACTS | {"host_transfers": int(name[3] == "eval")}

    monkeypatch.setattr(tpu_compile, "compile_apart", compile_apart)
    run = ["--only", "lenet5", "--topology", "v5e:2x2", "--all", f"--out={tmp_path}"]
    tpu_compile.main([*run, "--program", "train 1"])
    assert [name[2:] for name in compiled] == [("jit", "train 1"), ("pmap", "train 1")]
    with pytest.raises(RunError, match="1 of 4"):
        tpu_compile.main(run)
    assert [name[2:] for name in compiled[2:]] == [("jit", "train 8"), ("jit", "eval")]
    lines = (tmp_path / "tpu_compile.txt").read_text().splitlines()
    count = len(tpu_compile.ROWS)
    assert "transfers" in lines[3 + 4 + 1]
    assert f"{count - 2} of {count} programs" in lines[10]
    assert "lenet5 v5e:1x1 jit train 1" in lines[11]
    assert "libtpu 1.2 under jax 3.4" in lines[0]
    with pytest.raises(InputError, match="lenet6"):
        tpu_compile.main(["--only", "lenet6"])


def test_a_row_that_failed_is_compiled_again(monkeypatch, tmp_path):
    facts = iter([{"failed": "out of memory"}, FACTS])
    monkeypatch.setattr(tpu_compile, "compile_apart", lambda name: next(facts))
    run = ["--only", "lenet5", "--topology", "v5e:4x4", f"--out={tmp_path}"]
    with pytest.raises(RunError, match="out of memory"):
        tpu_compile.main(run)
    tpu_compile.main(run)
    tpu_compile.main(run)
    rows = json.loads((tmp_path / "tpu_compile.json").read_text())
    assert [*rows] == ["lenet5 v5e:4x4 jit train 1"]
    assert rows["lenet5 v5e:4x4 jit train 1"]["images"] == FACTS["images"]


def test_the_rows_are_of_every_network_and_topology():
    rows, every = tpu_compile.ROWS, tpu_compile.every_row()
    assert len(every) == 7 * 6 * 4 + 6 and set(rows) < set(every)
    assert len(set(rows)) == len(rows)
    assert {row[0] for row in rows} == {*tpu_compile.NETWORKS}
    assert {row[1] for row in rows} == {*tpu_compile.TOPOLOGIES}


@pytest.mark.parametrize("change, fact", [
    ({}, None), ({"hbm_traffic": 9e5}, "hbm traffic 900,000, plain Flax 800,000"),
    ({"bytes": 2e6}, None),  # on-chip memory too
    ({"hbm": 2**32}, "memory"), ({"collectives": {"all-reduce": 4}}, "all-reduces 4"),
    ({"collective_bytes": 4081}, "bytes sent")])
def test_what_needs_more_than_plain_flax_is_said(change, fact):
    more = tpu_compile.against_flax({
        "resnet50 v5e:2x2 flax train 1": FACTS,
        "resnet50 v5e:2x2 jit train 1": FACTS | change,
        "resnet50 v5e:1x1 flax train 1": FACTS})
    assert len(more) == (fact is not None) and (fact or "") in "".join(more)


def test_the_committed_table_is_that_of_its_rows():
    path = tpu_compile.OUT / "tpu_compile.json"
    rows = json.loads(path.read_text())
    assert path.with_suffix(".txt").read_text() == tpu_compile.table(rows)
    assert not [name for name, facts in rows.items() if tpu_compile.faults(facts)]
    assert tpu_compile.against_flax(rows) == []


def test_the_marked_forms_are_those_that_the_package_takes():
    with programs.as_on("tpu"):
        assert auto.select(tpu_choices.LENET, jnp.bfloat16) is auto.ON_TPU
        warped = str(jax.make_jaxpr(warp.warp, static_argnums=2)(
            jnp.zeros((2, 5, 6, 3)), jnp.zeros((2, 3, 3)), "nearest"))
    assert "dot_general" in warped and "gather" not in warped
    assert [choice[1] for choice in tpu_choices.CHOICES] == [
        "XLA", "taps *", "gather", "products *"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="no libtpu")
def test_the_marked_forms_cost_less(tmp_path):
    tpu_choices.main(["--out", str(tmp_path)])
    lines = (tmp_path / "tpu_choices.txt").read_text().splitlines()
    xla, taps, gather, products = ([float(cell) for cell in line.split()[-4:]]
                                   for line in lines[-4:])
    assert taps[0] < xla[0] and taps[1] < xla[1] and products[2] < gather[2]


def lowered_for_cuda(name: str, program: str) -> str:
    with programs.as_on("gpu"):
        made = programs.programs(programs.CASES[name], "jit", jax.devices()[:1])
        step, arguments, _ = made[program]
        exported = jax.export.export(step, platforms=["cuda"])(*arguments)
        return str(exported.mlir_module())


def test_lenet_is_lowered_for_cuda_in_bfloat16():
    text = lowered_for_cuda("lenet5", "train 1")
    assert text.count("stablehlo.convolution") == 2 * 3 - 1  # no gradient of pixels
    assert not [line for line in text.splitlines() if "stablehlo.convolution" in line
                and "xf32>, tensor" in line]


@pytest.mark.slow
@pytest.mark.parametrize("name", programs.CASES)
def test_programs_are_lowered_for_cuda(name):
    for program in ("train 1", "train 8", "eval"):
        assert "stablehlo.convolution" in lowered_for_cuda(name, program)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="no libtpu")
@pytest.mark.parametrize("name", programs.CASES)
def test_programs_are_compiled_for_the_tpu_of_colab(name):
    for program in ("train 1", "eval"):
        facts = tpu_compile.compile_apart((name, "v5e:1x1", "jit", program))
        assert tpu_compile.faults(facts) == [], (program, facts)


@pytest.mark.parametrize("code, error", [
    (0, None), (2, InputError), (1, RunError)])
def test_a_row_in_a_new_process(tmp_path, code, error):
    script = tmp_path / "rows.py"
    script.write_text("import json, sys\n"
                      "print('a warning')\n"
                      "print(json.dumps(sys.argv[1:]))\n"
                      "print('rows.py: the reason', file=sys.stderr)\n"
                      f"sys.exit({code})\n")
    if error is None:
        assert row_in_new_process(str(script), "a b", "c") == ["--row", "a b", "c"]
        return
    with pytest.raises(error, match="the reason"):
        row_in_new_process(str(script), "a")
