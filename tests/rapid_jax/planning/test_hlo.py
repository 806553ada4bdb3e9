"""What is read from compiled text: small texts by hand, and real programs of eight host devices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models.sharding import make_mesh
from rapid_jax.planning import hlo

TEXT = """\
HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%slow (p.1: f32[8,256]) -> f32[1,256] {
  %p.1 = f32[8,256]{1,0} parameter(0)
  %zero = s32[] constant(0)
  ROOT %ds = f32[1,256]{1,0} dynamic-slice(%p.1, %zero, %zero), dynamic_slice_sizes={1,256}
}

%body (p.2: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p.2 = (s32[], f32[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p.2), index=0
  %x = f32[64]{0} get-tuple-element(%p.2), index=1
  %reduced = f32[64]{0} all-reduce(%x), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
  ROOT %t = (s32[], f32[64]{0}) tuple(%i, %reduced)
}

%condition (p.3: (s32[], f32[64])) -> pred[] {
  %p.3 = (s32[], f32[64]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.3), index=0
  %limit = s32[] constant(9)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%open (p.4: (s32[], f32[64])) -> pred[] {
  %p.4 = (s32[], f32[64]{0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.4), index=0
  ROOT %less.1 = pred[] compare(%i.2, %i.2), direction=LT
}

ENTRY %main (p: f32[8,256], q: f32[64], w: bf16[16,32]) -> f32[1,256] {
  %p = f32[8,256]{1,0:T(8,128)} parameter(0)
  %q = f32[64]{0} parameter(1)
  %w = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(2)
  %n = s32[] constant(0)
  %start = (bf16[2,32]{1,0}, bf16[16,32]{1,0}, u32[], u32[]) all-gather-start(%q), replica_groups=[2,4]<=[8], dimensions={0}
  %done = bf16[16,32]{1,0} all-gather-done(%start)
  %moved = (bf16[16,32]{1,0:T(8,128)(2,1)S(1)}, bf16[16,32]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w)
  %here = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} copy-done(%moved)
  %shifted = f32[64]{0} collective-permute(%q), channel_id=4, source_target_pairs={{0,1},{1,0}}
  %state = (s32[], f32[64]{0}) tuple(%n, %shifted)
  %loop = (s32[], f32[64]{0}) while(%state), condition=%condition, body=%body
  %more = (s32[], f32[64]{0}) while(%loop), condition=%open, body=%body
  ROOT %out = f32[1,256]{1,0:T(8,128)S(1)} fusion(%p), kind=kLoop, calls=%slow
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


def test_collectives_of_every_form_are_counted_once_and_in_loops_as_often_as_these_run(program):
    """An asynchronous pair that counts twice, or a loop that counts once, would make a plan useless."""
    found = {(c.kind, c.bytes, c.group): c.times for c in program.collectives()}
    assert found == {
        ("all-gather", 16 * 32 * 2, 4): 1,
        ("collective-permute", 64 * 4, 2): 1,
        ("all-reduce", 64 * 4, 4): 9 + 1,  # nine of the loop that tells, one of the loop that does not
    }


CHAIN = """\
%begin (a: bf16[8,4]) -> (bf16[8,4], bf16[16,4]) {
  %a = bf16[8,4]{1,0} parameter(0)
  %g = bf16[16,4]{1,0} all-gather(%a), channel_id=26, replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
  ROOT %c = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%go_on (a.1: bf16[8,4]) -> bf16[16,4] {
  %a.1 = bf16[8,4]{1,0} parameter(0)
  ROOT %g.1 = bf16[16,4]{1,0} all-gather(%a.1), channel_id=26, replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
}

%finish (a.2: bf16[8,4]) -> bf16[16,4] {
  %a.2 = bf16[8,4]{1,0} parameter(0)
  %g.2 = bf16[16,4]{1,0} all-gather(%a.2), channel_id=26, replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
  ROOT %c.2 = bf16[16,4]{1,0} custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p: bf16[8,4]) -> bf16[16,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  %s = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) fusion(%p), kind=kCustom, calls=%begin
  %t = bf16[16,4]{1,0} fusion(%p), kind=kOutput, calls=%go_on
  ROOT %u = bf16[16,4]{1,0} fusion(%p), kind=kCustom, calls=%finish
}
"""


def test_a_collective_in_pieces_that_run_beside_other_work_counts_once():
    """A TPU does part of a gather in every round of a loop beside it; the rounds are not as many gathers."""
    assert [(c.kind, c.bytes) for c in hlo.parse(CHAIN).collectives()] == [("all-gather", 128)]


def test_a_loop_without_a_bound_is_named_and_takes_what_the_caller_knows(program):
    assert program.unknown_loops == ("more",)
    told = hlo.parse(TEXT, lambda loop, told: told or 100.0)
    assert sum(c.times for c in told.collectives() if c.kind == "all-reduce") == 109


def test_only_the_main_memory_counts_and_of_a_slice_only_the_slice(program):
    """A copy to the chip reads its source once; the fusion reads one row of eight and writes to the chip."""
    moved, row = 16 * 32 * 2, 256 * 4
    gathered = 2 * 32 * 2 + 16 * 32 * 2 + 8  # and two words of context
    permuted, reduced = 2 * 256, 10 * 2 * 256
    assert program.traffic() == moved + row + gathered + permuted + reduced


@pytest.mark.parametrize(
    "groups, size",
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", 8),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("replica_groups=mesh['x'=8] {'x':(2)4}", 4),
    ],
)
def test_the_size_of_a_group_is_read_from_every_notation(groups, size):
    text = TEXT.replace("replica_groups=[2,4]<=[8]", groups)
    assert [c.group for c in hlo.parse(text).collectives() if c.kind == "all-gather"] == [size]


@pytest.mark.parametrize(
    "line, flops",
    [
        ("f32[4,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 4 * 8 * 32),
        ("f32[4,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf", 2 * 4 * 8 * 32),
        ("f32[4]{0} reduce(%a, %z), dimensions={1}, to_apply=%sum", 0),
        ("f32[4]{0} reduce(%m, %z), dimensions={1}, to_apply=%sum", 2 * 4 * 32),
        ('f32[4]{0} custom-call(%a), custom_call_target="k", backend_config={"cost_estimate":{"flops":"77"}}', 77),
    ],
)
def test_operations(line, flops):
    text = f"""\
ENTRY %main (a: f32[4,32], b: f32[32,8], z: f32[]) -> f32[4,8] {{
  %a = f32[4,32]{{1,0}} parameter(0)
  %b = f32[32,8]{{1,0}} parameter(1)
  %z = f32[] parameter(2)
  %m = f32[4,32]{{1,0}} multiply(%a, %a)
  ROOT %out = {line}
}}
"""
    assert hlo.parse(text).flops() == flops


def test_a_real_program_of_eight_devices():
    """A scan of matrix products whose contracted axis is split: one all-reduce in each of five rounds."""
    mesh = make_mesh((1, 1, 8))

    def rounds(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]

    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P(None, "model")))
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, P("model", None)))
    program = hlo.parse(jax.jit(rounds).lower(x, w).compile().as_text())
    assert not program.unknown_loops
    reducing = [c for c in program.collectives() if c.kind in ("all-reduce", "reduce-scatter")]
    assert sum(c.times for c in reducing) == 5
    assert {c.group for c in reducing} == {8}
    assert program.flops() == pytest.approx(5 * 2 * 16 * 64 * 64 / 8)


def test_what_a_kernel_finds_on_the_chip_is_not_read_again():
    """The copy that brought it there has been counted; the kernel's own estimate knows nothing of it."""
    text = """\
ENTRY %main (a: f32[4,32], b: f32[4,32]) -> f32[4] {
  %a = f32[4,32]{1,0} parameter(0)
  %b = f32[4,32]{1,0} parameter(1)
  %s = (f32[4,32]{1,0:S(1)}, f32[4,32]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %near = f32[4,32]{1,0:S(1)} copy-done(%s)
  ROOT %k = f32[4]{0} custom-call(%near, %b), custom_call_target="k", backend_config={"cost_estimate":{"bytes_accessed":"1040"}}
}
"""
    assert hlo.parse(text).traffic() == 512 + (1040 - 512)


def test_a_kernel_does_the_share_of_its_operations_that_its_lengths_leave():
    """It speaks of full caches; who knows the length says what is left, from the call and what it reads."""
    text = """\
ENTRY %main (a: f32[4,32], b: f32[4,64]) -> (f32[4], f32[4]) {
  %a = f32[4,32]{1,0} parameter(0)
  %b = f32[4,64]{1,0} parameter(1)
  %k = f32[4]{0} custom-call(%a), custom_call_target="k", backend_config={"cost_estimate":{"flops":"80"}}
  %l = f32[4]{0} custom-call(%b), custom_call_target="k", backend_config={"cost_estimate":{"flops":"80"}}
  ROOT %t = (f32[4]{0}, f32[4]{0}) tuple(%k, %l)
}
"""
    program = hlo.parse(text)
    assert program.flops() == 160
    shared = dataclasses.replace(program, share=lambda call, arrays: 0.25 if 64 in arrays[0].dims else 1.0)
    assert shared.flops() == 80 + 20
