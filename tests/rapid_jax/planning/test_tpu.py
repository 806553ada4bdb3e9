"""Programs compiled for a slice of eight v5e chips, of LLaMA-3.1-8B and Qwen2.5-7B with fewer layers; needs libtpu."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from models.registry import preset
from models.sharding import make_mesh
from rapid_jax.config.methods import get_method
from rapid_jax.planning import compiled as compiling
from rapid_jax.planning import fits, formulas, hlo, topology
from rapid_jax.planning.memory import memory
from rapid_jax.planning.programs import prefill_program, step_program
from rapid_jax.planning.shapes import Plan, Workload, context_shape, tpu_backend

pytestmark = pytest.mark.skipif(not topology.has_compiler(), reason="needs libtpu, the TPU's compiler")

SLICE = topology.Slice(topology.CHIPS["v5e"], (2, 4))
MODELS = ["llama31_8b", "qwen25_7b"]


@functools.cache
def devices():
    try:
        return topology.devices(SLICE)
    except ValueError as e:  # another process has libtpu
        pytest.skip(str(e))


@pytest.fixture(autouse=True, scope="module")
def optimized():
    """The other tests switch optimizations off, which here are what is tested."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def plan(name, mesh=None, layers=2):
    config = dataclasses.replace(preset(name), num_layers=layers)
    mesh = make_mesh(mesh or fits.default_mesh(config, SLICE.chips), devices())
    return Plan(config, mesh, jnp.bfloat16, tpu_backend())


def workload(context):
    return Workload(context, passages=4096)


@functools.cache
def compiled(name, mesh, context, what):
    planned = plan(name, mesh)
    if what == "prefill":
        return prefill_program(planned, workload(context)).compile()
    return step_program(planned, workload(context), get_method(what)).compile()


@pytest.mark.parametrize("what", ["prefill", "lc", "rapid"])
@pytest.mark.parametrize("name, mesh", [("llama31_8b", None), ("llama31_8b", (1, 4, 2)), ("qwen25_7b", None)])
def test_traffic_between_chips_does_not_grow_with_the_context(name, mesh, what):
    """16K and 128K tokens: no gather of keys and values anywhere."""
    short, long = (
        sorted(
            (c.kind, c.group, c.bytes, c.times)
            for c in hlo.parse(compiled(name, mesh, n, what).as_text()).collectives()
        )
        for n in (16_384, 131_072)
    )
    assert short == long
    assert long


@pytest.mark.parametrize("what", ["hd", "sd+hd", "auto"])
def test_what_is_searched_takes_the_bytes_that_are_counted(what):
    """A context database has dimensions of 7 and 4, which a layout of tiles would fill up to 8 and 128."""
    held = memory(plan("llama31_8b"), workload(16_384), get_method(what))
    counted = held.weights + held.document + held.passages + held.pages + held.tails
    taken = compiled("llama31_8b", None, 16_384, what).memory_analysis().argument_size_in_bytes
    assert taken == pytest.approx(counted, rel=0.01)


def test_the_loop_over_assisted_forwards_is_found():
    """Another one taken for it, or none, would make a step's seconds those of another number of forwards."""
    planned, work = plan("llama31_8b"), workload(16_384)
    program = hlo.parse(compiled("llama31_8b", None, 16_384, "sd+hd").as_text())
    trips = compiling.step_trips(planned, work, get_method("sd+hd"))
    loops = [one for name in program.runs for one in program.computations[name].values() if one.opcode == "while"]
    assert sum(trips(loop, 99) == work.gamma / work.tokens_per_step - 1 for loop in loops) == 1


@pytest.mark.parametrize("name, mesh", [("llama31_8b", None), ("llama31_8b", (1, 4, 2)), ("qwen25_7b", None)])
def test_what_is_donated_is_written_in_place(name, mesh):
    planned = plan(name, mesh)
    cache = context_shape(planned, 131_072, 2048)
    assert compiled(name, mesh, 131_072, "prefill").memory_analysis().alias_size_in_bytes >= formulas.chip_bytes(
        (cache.k, cache.v)
    )
    tails = memory(planned, workload(131_072), get_method("rapid")).tails
    assert compiled(name, mesh, 131_072, "rapid").memory_analysis().alias_size_in_bytes >= tails


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_plain_decoding_reads_weights_keys_and_values_once(name):
    """At most 1.1 times a chip's share of them."""
    planned = plan(name)
    read = hlo.parse(compiled(name, None, 131_072, "lc").as_text()).traffic()
    kv = formulas.kv_bytes_per_token(context_shape(planned, 131_072, 2048)) * 131_072
    assert read <= 1.1 * (formulas.weights_read(planned) + kv) / SLICE.chips


@pytest.mark.parametrize("context", [8192, 65_536, 131_072])
def test_operations_of_a_prefill_chunk_are_those_of_the_formula(context):
    """Within 5% of two a weight and token and the attention to what came before."""
    planned, work = plan("llama31_8b", layers=4), workload(context)
    start = context - work.chunk
    read = compiling.loop_trips(planned, work, start), None, compiling.kernel_share(planned, work, start)
    done = compiling.compile_program(prefill_program(planned, work), *read).work.flops
    assert done == pytest.approx(formulas.chunk_flops(planned, start, work.chunk) / SLICE.chips, rel=0.05)
