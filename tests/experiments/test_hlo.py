"""Facts are read correctly from hand-written texts of compiled programs."""

import pytest

from experiments import hlo

PROGRAM = """
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: bf16[8,4], q: f32[4,2]) -> f32[8,2] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %q = f32[4,2]{1,0:T(8,128)} parameter(1)
  %warped = f32[8,2]{1,0} convolution(%p, %q), metadata={op_name="jit(f)/augmentation/dot_general"}
  %dense = f32[8,2]{1,0} convolution(%p, %q), metadata={op_name="jvp(Net)/dot_general"}
  %eval = f32[8,2]{1,0} convolution(%p, %q), metadata={op_name="jit(f)/Net/dot_general"}
  %rounded = bf16[8,2]{1,0} convolution(%p, %q), dim_labels=bf_io->bf
  ROOT %mixed = f32[8,2]{1,0} convolution(%p, %q), dim_labels=bf_io->bf
}

ENTRY %main (a: bf16[8,4]) -> f32[8,2] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = bf16[4,2]{1,0} parameter(1)
  %narrow = f32[8,2]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
  %both = (f32[64]{0:T(256)}, bf16[2,3]{1,0}) all-reduce(%x1, %x2), to_apply=%add
  %begun = f32[10]{0} all-reduce-start(%x3), to_apply=%add
  %ended = f32[10]{0} all-reduce-done(%begun)
  %parts = f32[5]{0} reduce-scatter(%x4), dimensions={0}
"""  # noqa: E501
LINES = {
    "  %q = (f32[], token[]) recv(%t), channel_id=1, is_host_transfer=true": True,
    "  %q = (f32[], token[]) recv(%t), channel_id=1": False,
    "  %o = token[] outfeed(%x, %t)": True,
    '  %c = f32[2]{0} custom-call(%x), custom_call_target="xla_python_callback"': True,
    '  %c = f32[2]{0} custom-call(%x), custom_call_target="Sharding"': False,
    "  %m = f32[2]{0:T(128)S(5)} copy(%x)": True,
    "  %m = f32[2]{0:T(128)S(1)} copy(%x)": False}


def test_facts_of_a_program():
    facts = hlo.facts(PROGRAM)
    assert facts.collectives == {"all-reduce": 2, "reduce-scatter": 1}
    assert facts.collective_bytes == (64 * 4 + 6 * 2) + 10 * 4 + 5 * 4
    assert facts.float32_convolutions == ["dense", "eval", "mixed"]
    assert facts.host_transfers == []


def test_traffic_of_hbm_is_without_on_chip_memory():
    """Copies read 400 and 80 bytes to the chip, and write 40 back."""
    program = """
%body (q: f32[1000]) -> f32[1000] {
  ROOT %q = f32[1000]{0} copy(%q)
}

ENTRY %main (a: f32[100]) -> f32[10] {
  %a = f32[100]{0:T(128)} parameter(0)
  %s = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u8[]{:S(2)}) copy-start(%a)
  %d = f32[100]{0:T(128)S(1)} copy-done(%s)
  %t = ((f32[100]{0:T(128)}), f32[20]{0:T(128)S(1)}, u8[]{:S(1)}) slice-start(%a)
  %u = f32[20]{0:T(128)S(1)} slice-done(%t)
  %f = bf16[20]{0:T(128)S(1)} fusion(%d, %u), kind=kLoop, calls=%body
  %v = (bf16[20]{0:T(128)}, bf16[20]{0:T(128)S(1)}, u8[]{:S(1)}) copy-start(%f)
  %w = bf16[20]{0:T(128)} copy-done(%v)
  ROOT %y = f32[10]{0:T(128)} fusion(%w, %d), kind=kLoop, calls=%body
}
"""
    read_by_last, written_by_last = 40, 40
    assert hlo.hbm_traffic(program) == pytest.approx(
        400 + 80 + 40 + read_by_last + written_by_last, abs=3)  # semaphores


@pytest.mark.parametrize("line", LINES)
def test_transfers_to_and_from_the_host(line):
    assert bool(hlo.facts(line).host_transfers) == LINES[line]


@pytest.mark.parametrize("kind, size", [
    ("f32[]", 4), ("bf16[2,3]{1,0}", 12), ("pred[8]{0}", 8), ("s4[8]", 0),
    ("(f32[2]{0}, /*index=1*/u8[3]{0})", 11)])
def test_bytes_of_a_type(kind, size):
    assert hlo.size_in_bytes(kind) == size
