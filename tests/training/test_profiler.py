"""--profile_steps: the table equals a case by hand; a tiny run is traced."""

from pathlib import Path

import jax
import pytest
from tests.support.tiny_runs import tiny

from cnn_jax import training
from cnn_jax.errors import InputError
from cnn_jax.inspection.pages.report import write_report
from cnn_jax.training.profiler import parse_steps
from cnn_jax.workdir import profile

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")


def test_the_time_of_an_operation_is_without_those_inside():
    """A loop of 10 contains operations of 3 and 4; the last contains one of 1."""
    events = [(20, 5, "add"), (0, 10, "while"), (1, 3, "dot"), (5, 4, "call"),
              (6, 1, "sine")]
    assert sorted(profile.self_time(events)) == [
        ("add", 5), ("call", 3), ("dot", 3), ("sine", 1), ("while", 3)]


def test_operations_are_named_after_layers():
    text = """
  %fusion.3 = f32[8]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(f)/jvp(LeNet5)/conv1/add" stack_frame_id=3}
  ROOT dot.1 = f32[2]{0} dot(%b), metadata={op_name="jit(f)/transpose(jvp(LeNet5))/fc1/dot_general"}
  %plain = f32[] constant(1)
"""  # noqa: E501
    assert profile.sources(text) == {"fusion.3": "conv1/add",
                                     "dot.1": "fc1/dot_general, gradient"}


def test_the_table_has_the_largest_shares():
    seconds = {f"op{i}": float(i) for i in range(1, 13)}
    made = profile.make_profile(seconds, {"op12": "conv1"}, 10, 20, "cpu")
    assert [each.name for each in made.operations] == [
        f"op{i}" for i in range(12, 2, -1)]
    assert profile.rows(made)[0] == ("op12", "conv1", "1200.000", "15.4%")


@pytest.mark.parametrize("text", ["10", "20:10", "5:5", "a:b", "-1:3", "1:2:3"])
def test_other_steps_are_refused(text):
    with pytest.raises(InputError, match="--profile_steps"):
        parse_steps(text)
    assert parse_steps("10:20") == (10, 20) and parse_steps(None) is None


def test_a_run_traces_its_steps(tmp_path, capsys):
    training.run(tiny(epochs=1), tmp_path, profile_steps=(2, 4))
    made = profile.read_profile(tmp_path)
    assert (made.first, made.stop, len(made.operations)) == (2, 4, 10)
    fractions = [each.fraction for each in made.operations]
    assert fractions == sorted(fractions, reverse=True) and 0 < sum(fractions) <= 1
    assert any("conv" in each.source for each in made.operations)
    assert [*(tmp_path / "profile").rglob("perfetto_trace.json.gz")]
    assert made.operations[0].name in capsys.readouterr().out
    assert profile.title(made) in write_report(tmp_path).read_text()


def trace_of(tmp_path: Path, *planes: str) -> dict[str, float]:
    """Writes a trace and returns its {operation: seconds}.

    planes: each 'NAME LINE', with 'fusion.1' for 4 ms, 'conv.2' for 3 ms inside it, and
    an event that is no operation.
    """
    on_gpu = "GPU" in planes[0]  # then the stat hlo_op names the operation
    made = "".join(f"""planes {{
      name: "{plane.split()[0]}"
      lines {{ name: "{plane.split(maxsplit=1)[1]}"
        events {{ metadata_id: 1 offset_ps: 0 duration_ps: 4000000000
          {'stats { metadata_id: 1 str_value: "fusion.1" }' * on_gpu} }}
        events {{ metadata_id: 2 offset_ps: 1000000000 duration_ps: 3000000000
          {'stats { metadata_id: 1 str_value: "conv.2" }' * on_gpu} }}
        events {{ metadata_id: 3 offset_ps: 5000000000 duration_ps: 9000000000 }} }}
      event_metadata {{ key: 1 value {{ id: 1 name: "%fusion.1 = f32[2] fusion(x)" }} }}
      event_metadata {{ key: 2 value {{ id: 2 name: "%conv.2 = f32[2] convert(x)" }} }}
      event_metadata {{ key: 3 value {{ id: 3 name: "" }} }}
      stat_metadata {{ key: 1 value {{ id: 1 name: "hlo_op" }} }} }}
    """ for plane in planes)
    path = tmp_path / "made.xplane.pb"
    path.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(made))
    return profile.read_trace(path)


@pytest.mark.parametrize(("planes", "devices"), [
    # A GPU names the operation of each kernel, and of its launch on the host.
    (["/device:GPU:0 Stream #14(Compute)", "/host:CPU python"], 1),
    (["/device:TPU:0 XLA Ops", "/device:TPU:1 XLA Ops", "/device:TPU:0 Steps",
      "/host:CPU python"], 2)])
def test_a_trace_of_devices_has_the_time_of_the_devices_alone(tmp_path, planes,
                                                              devices):
    assert trace_of(tmp_path, *planes) == pytest.approx(
        {"fusion.1": 0.001 * devices, "conv.2": 0.003 * devices})


def test_a_missing_trace_does_not_end_training(tmp_path, monkeypatch, capsys):
    earlier = tmp_path / "profile" / "earlier.xplane.pb"
    earlier.parent.mkdir()
    earlier.touch()
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    training.run(tiny(epochs=1), tmp_path, profile_steps=(2, 4))
    assert "no profile of steps 2 to 3" in capsys.readouterr().out
    assert profile.read_profile(tmp_path) is None


def test_each_process_has_a_folder_of_traces(tmp_path, monkeypatch):
    assert profile.trace_folder(tmp_path) == tmp_path / "profile"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert profile.trace_folder(tmp_path) == tmp_path / "profile" / "process_1"


def test_steps_that_are_not_trained_are_named(tmp_path, capsys):
    training.run(tiny(epochs=1), tmp_path, profile_steps=(900, 901))
    assert "steps 900 to 900" in capsys.readouterr().out
    assert profile.read_profile(tmp_path) is None
